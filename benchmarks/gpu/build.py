"""Stage `build`: the package with its CUDA kernels, in place, for the GPU that is there."""

from __future__ import annotations

import json
import re
import sys

import torch

from .command import Command
from .part import ROOT, Part, Skipped

ASK = "import dataclasses, json, ddit_ext; print(json.dumps(dataclasses.asdict(ddit_ext.build_info())))"


def run(part: Part) -> None:
    if part.device != "cuda":
        part.add(build_info=_build_info(part))
        raise Skipped("without a GPU the package is used as it was built")
    architecture = arch_of("{}.{}".format(*torch.cuda.get_device_capability()))
    part.add(architecture=architecture)
    build = Command(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        part.folder / "build.log",
        part.left() - 15,
        ROOT,
        {"DDIT_EXT_CUDA": "ON", "TORCH_CUDA_ARCH_LIST": architecture},
    ).wait()
    part.add(build_s=round(build.seconds, 1))
    if build.timed_out or build.returncode:
        part.add(log=build.tail(6000))
        what = "ran past its limit" if build.timed_out else f"failed with status {build.returncode}"
        raise RuntimeError(f"setup.py build_ext --inplace {what}; results.log holds the end of its output")
    part.add(compiler_warnings=len(re.findall(r"\bwarning\b", build.output())), build_info=_build_info(part))
    if not part.results["build_info"]["cuda"]:
        part.problem("the build holds no CUDA kernels")


def arch_of(capability: str) -> str:
    """The architecture to build for: from 9.0 on with its own instructions (9.0a), which run nowhere else."""
    return f"{capability}a" if int(capability.split(".")[0]) >= 9 else capability


def _build_info(part: Part) -> dict:
    """build_info() of the package in this checkout, asked of a fresh Python."""
    asked = Command([sys.executable, "-c", ASK], part.folder / "build_info.log", 60, ROOT, {}).wait()
    if asked.returncode:
        raise RuntimeError(f"ddit_ext can't be imported: {asked.tail()}")
    return json.loads(asked.output().splitlines()[-1])
