"""A CMake project outside this one finds the installed package and runs with it, with torch and without."""

import os
import subprocess
import sysconfig
from pathlib import Path

from ddit_ext.cmake_prefix import CMAKE_PREFIX_PATH

PROJECT = Path(__file__).resolve().parents[1] / "cpp_tests" / "outside"


def run(*command: str) -> str:
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_outside_project(tmp_path):
    build = str(tmp_path)
    run("cmake", "-S", str(PROJECT), "-B", build, f"-DCMAKE_PREFIX_PATH={CMAKE_PREFIX_PATH}")
    run("cmake", "--build", build, "-j", "2")
    assert run(f"{build}/with_torch") == "good\n"
    assert run(f"{build}/without_torch") == "good\n"
    needed = run("ldd", f"{build}/without_torch")
    assert "torch" not in needed
