"""examples/cpp: a run of the exported embedded FLUX in C++ is the run that Python made."""

import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open
from test_cpp_package import ROOT, configure, run

from ddit_ext.cmake_prefix import CMAKE_PREFIX_PATH

EXAMPLE = ROOT / "examples" / "cpp"


def read_ppm(path) -> np.ndarray:
    magic, size, most, data = path.read_bytes().split(b"\n", 3)
    assert (magic, most) == (b"P6", b"255")
    width, height = map(int, size.split())
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


@pytest.mark.slow
def test_run_in_cpp_is_that_of_python(tmp_path):
    folder, build = tmp_path / "run", tmp_path / "build"
    # A threshold at which this run takes both sizes.
    options = ("--steps", "8", "--scales", "1", "2", "--threshold", "@THRESHOLD@")
    subprocess.run([sys.executable, str(EXAMPLE / "export.py"), str(folder), *options], check=True)
    configure(EXAMPLE, build, f"-DCMAKE_PREFIX_PATH={CMAKE_PREFIX_PATH}")
    run("cmake", "--build", str(build))

    lines = run(f"{build}/denoise", str(folder), str(tmp_path / "dynamic.ppm")).splitlines()
    with safe_open(folder / "run.safetensors", "np") as file:
        scales, expected = file.get_tensor("expected.scales"), file.get_tensor("expected.picture")
    assert [int(line.split()[2]) for line in lines] == scales.tolist()
    assert set(scales.tolist()) == {1, 2}
    expected = np.rint(expected[0].transpose(1, 2, 0) * 255)
    dynamic = read_ppm(tmp_path / "dynamic.ppm")
    # Compiled arithmetic in another order: a value at a half may round the other way.
    assert np.abs(dynamic - expected).max() <= 1

    fine = ["1"] * len(lines)
    run(f"{build}/denoise", str(folder), str(tmp_path / "fine.ppm"), *fine)
    assert np.abs(read_ppm(tmp_path / "fine.ppm") - expected).max() > 1  # so the sizes did matter

    said = run(f"{build}/denoise", str(folder), "unused.ppm", "1", "2", fails=True)
    assert said == "denoise: expected one scale a step, 8, got 2\n"
