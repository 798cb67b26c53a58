"""The folders of ONE_THREAD run in one thread. Fixtures for the tests of the ops: one test file, every implementation.

cpu   the kernels of this machine
emu   the CUDA kernels compiled for the CPU (docs/design/emulation.md); skipped where they are not built, unless
      DDIT_REQUIRE_EMULATION=1, then failing. DDIT_EXT_EMULATION_LIBRARY names the library, if not the usual one
cuda  the CUDA kernels on a GPU; skipped without one, unless DDIT_REQUIRE_CUDA=1, then failing
"""

import os
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from threads import one_thread

import ddit_ext

ROOT = Path(__file__).resolve().parents[1]
EMULATION = os.environ.get("DDIT_EXT_EMULATION_LIBRARY", ROOT / "build" / "emulation" / "libddit_ext_emu.so")

ONE_THREAD = ("families", "modules", "runtime", "schedulers", "training", "trust")
"""Their models are so small that more threads are slower."""


@pytest.fixture(autouse=True)
def single_thread(request):
    with one_thread() if request.path.parent.name in ONE_THREAD else nullcontext():
        yield


@dataclass(frozen=True)
class Impl:
    name: str
    device: str
    ops: object  # patch_embed, patch_deembed, acceleration_quantiles

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        low = (torch.float32, torch.bfloat16, torch.float16)
        return (*low, torch.float64) if self.name == "cpu" else low


def _missing(reason: str, requires: str) -> None:
    if os.environ.get(requires) == "1":
        pytest.fail(f"{requires}=1, but {reason}")
    pytest.skip(reason)


@cache
def _load_emulation() -> bool:
    if Path(EMULATION).is_file():
        torch.ops.load_library(str(EMULATION))
        return True
    return False


@pytest.fixture(params=["cpu", "emu", "cuda"])
def impl(request) -> Impl:
    if request.param == "cpu":
        return Impl("cpu", "cpu", ddit_ext.ops)
    if request.param == "emu":
        if not _load_emulation():
            _missing(f"{EMULATION} is not there: make emulation builds it", "DDIT_REQUIRE_EMULATION")
        return Impl("emu", "cpu", torch.ops.ddit_ext_emu)
    if not torch.cuda.is_available():
        _missing("there is no GPU", "DDIT_REQUIRE_CUDA")
    if not ddit_ext.build_info().cuda:
        _missing("this build has no CUDA kernels", "DDIT_REQUIRE_CUDA")
    return Impl("cuda", "cuda", ddit_ext.ops)
