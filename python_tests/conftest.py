"""Fixtures for the tests of the ops: one test file, every implementation.

cpu   the kernels of this machine
emu   the CUDA kernels compiled for the CPU, where the build has them
cuda  the CUDA kernels on a GPU; skipped without one, unless DDIT_REQUIRE_CUDA=1, then failing
"""

import os
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

import ddit_ext

OPS = ("patch_embed", "patch_deembed", "acceleration_quantiles")


@dataclass(frozen=True)
class Impl:
    name: str
    device: str
    ops: object  # patch_embed, patch_deembed, acceleration_quantiles

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        low = (torch.float32, torch.bfloat16, torch.float16)
        return (*low, torch.float64) if self.name == "cpu" else low


def _missing(reason: str) -> None:
    if os.environ.get("DDIT_REQUIRE_CUDA") == "1":
        pytest.fail(f"DDIT_REQUIRE_CUDA=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(params=["cpu", "emu", "cuda"])
def impl(request) -> Impl:
    if request.param == "cpu":
        return Impl("cpu", "cpu", ddit_ext.ops)
    if request.param == "emu":
        emulated = torch.ops.ddit_ext_emu
        if not all(hasattr(emulated, op) for op in OPS):
            pytest.skip("this build has no emulated CUDA kernels")
        return Impl("emu", "cpu", SimpleNamespace(**{op: getattr(emulated, op) for op in OPS}))
    if not torch.cuda.is_available():
        _missing("there is no GPU")
    if not ddit_ext.build_info().cuda:
        _missing("this build has no CUDA kernels")
    return Impl("cuda", "cuda", ddit_ext.ops)
