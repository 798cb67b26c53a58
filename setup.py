"""Drives CMakeLists.txt, where everything about the native build stands.

Environment: DDIT_EXT_CUDA=AUTO|ON|OFF, TORCH_CUDA_ARCH_LIST (as for torch), MAX_JOBS.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def library_settings() -> list[str]:
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        raise SystemExit(
            f"ddit_ext needs torch at build time ({error}):\n"
            "  pip install torch\n"
            "  pip install --no-build-isolation ."
        ) from error
    import pybind11

    return [
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DDDIT_EXT_TORCH_INCLUDE_DIRS={';'.join(cpp_extension.include_paths())}",
        f"-DDDIT_EXT_TORCH_LIB_DIR={cpp_extension.library_paths()[0]}",
        f"-DDDIT_EXT_TORCH_VERSION={torch.__version__}",
    ]


class CMakeBuild(build_ext):
    def run(self) -> None:
        # An editable install is built in place, into the checkout's ddit_ext/{lib,include,share}.
        prefix = ROOT if self.inplace else Path(self.build_lib).resolve()
        # One folder a Python, kept: the next build compiles only what changed.
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        configure = [
            *("cmake", "-S", str(ROOT), "-B", str(build)),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DDDIT_EXT_CUDA={os.environ.get('DDIT_EXT_CUDA', 'AUTO').upper()}",
            *library_settings(),
        ]
        # cmake and ninja from this Python, also where its environment is not activated.
        path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
        if not shutil.which("cmake", path=path):
            raise SystemExit("ddit_ext needs cmake at build time: pip install cmake ninja")
        if not (build / "CMakeCache.txt").exists() and shutil.which("ninja", path=path):
            configure += ["-G", "Ninja"]
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        for command in (
            configure,
            ["cmake", "--build", str(build), "-j", jobs],
            ["cmake", "--install", str(build), "--prefix", str(prefix)],
        ):
            subprocess.run(command, check=True, env={**os.environ, "PATH": path})


setup(ext_modules=[Extension("ddit_ext._core", sources=[])], cmdclass={"build_ext": CMakeBuild})
