"""CMake projects outside this one find the installed package and run with it, with torch and without."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ddit_ext
from ddit_ext import cells as cell_views
from ddit_ext.cmake_prefix import CMAKE_PREFIX_PATH
from ddit_ext.coarse import Adapter
from ddit_ext.coarse.scale_spec import ScaleSpec
from ddit_ext.embedded import weights
from ddit_ext.families.grid import centres

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "cpp_tests" / "outside"
ADAPTER = weights.folder("flux") / "adapter"


def run(*command: str, fails: bool = False, **environment: str) -> str:
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PATH": path, **environment}
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr if fails else done.stdout


def configure(source: Path, build: Path, *options: str, fails: bool = False) -> str:
    return run("cmake", "-S", str(source), "-B", str(build), *options, fails=fails)


def check_programs(build: Path) -> None:
    """Both programs run, also on the shipped adapter, and one of them needs no torch."""
    assert run(f"{build}/without_torch", str(ADAPTER)) == "2 scales\ngood\n"
    assert "torch" not in run("ldd", f"{build}/without_torch")
    if (build / "with_torch").exists():
        assert run(f"{build}/with_torch") == "good\n"


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """The two programs, built with the package that is installed here."""
    build = tmp_path_factory.mktemp("outside")
    configure(PROJECT, build, f"-DCMAKE_PREFIX_PATH={CMAKE_PREFIX_PATH}")
    run("cmake", "--build", str(build), "-j", "2")
    return build


def test_outside_project(outside):
    check_programs(outside)


def varied_adapter(folder: Path) -> Path:
    """Random weights with every choice that a coarse step knows; one clean condition channel; a LoRA from 3p on."""
    size = {"patch_size": 2, "width": 6, "in_channels": 3, "out_channels": 2}
    specs = [
        ScaleSpec(scale=2, **size, detail_variance=0.3, refinement_hidden=5, refinement_tokens=True),
        ScaleSpec(scale=3, **size, start="pi_resize", positions="grid", detail_residual=False, rank=2),
        ScaleSpec(scale=4, **size, start="blended", refinement_hidden=3, lora_scale=0.5, rank=2),
    ]
    adapter = Adapter(specs, {"block.ff": (6, 7)}, {"family": "flux", "config": {}, "weights": {}})
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return adapter.save(folder / "adapter")


@pytest.mark.parametrize("which", ["shipped", "varied"])
def test_coarse_steps_are_those_of_python(outside, tmp_path, which):
    path = ADAPTER if which == "shipped" else varied_adapter(tmp_path)
    adapter = Adapter.load(path, None)
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for scale in adapter.scales:
        weights = adapter.own(scale)
        channels = weights.spec.in_channels
        latents = torch.randn(2, channels, 2, 14, 10, generator=generator)  # 7x5 cells: ragged
        cells, sigma = cell_views.from_latents(latents), torch.tensor([0.3, 0.87])
        with torch.no_grad():
            step = weights.prepare(cells, sigma)
            tokens = step.tokens()
            blocks = torch.randn(tokens.shape, generator=generator)
            case = {
                "cells": cells.contiguous(),
                "sigma": sigma,
                "timestep": step.timestep,
                "tokens": tokens,
                "blocks": blocks,
                "velocity": step.velocity(blocks),
                "positions": centres(
                    tokens.shape[1] // (2 * -(-7 // scale)), scale, weights.positions, "cpu"
                ),
            }
        tensors |= {f"{scale}.{name}": tensor.clone().contiguous() for name, tensor in case.items()}
    save_file(tensors, tmp_path / "case.safetensors")
    lines = run(f"{outside}/with_torch", str(path), str(tmp_path / "case.safetensors")).splitlines()
    assert lines.pop() == "good"
    differences = {int(scale): float(value) for scale, value in (line.split() for line in lines)}
    assert list(differences) == list(adapter.scales)
    # Sums of at most a few hundred float32 products in another order.
    assert all(difference < 1e-5 for difference in differences.values()), differences


def test_misfits_are_named_in_cpp(outside):
    torch_version = torch.__version__.split("+")[0].rsplit(".", 1)[0]
    expected = [
        "patch_embed: cells must be a tensor, got an undefined one",
        "patch_embed: weight must be a tensor, got an undefined one",
        "patch_embed: bias must be a tensor, got an undefined one",
        "patch_embed: weight must be on the device of cells, cpu, got meta",
        "patch_embed: weight must have the dtype of cells, float32, got float64",
        "patch_embed: bias must have shape [D] = [3], got [4]",
        "patch_embed: input_scale must have shape [B or 1, C or 1] with B = 1 and C = 1, got [1]",
        "cells_from_packed: tokens must be a tensor, got an undefined one",
        "acceleration_quantiles: z2 must be a tensor, got an undefined one",
        f"ddit_ext: the program was compiled with the headers of ddit_ext {ddit_ext.__version__} "
        "and has loaded libddit_ext.so 9.9.9",
        "no error",  # only the last number differs
        f"ddit_ext: the program was compiled with the headers of torch {torch_version} "
        "and has loaded libtorch 2.9",
        'adapter: there is no file or folder "/nowhere"',
    ]
    assert run(f"{outside}/with_torch", "errors").splitlines() == expected


def old_torch(folder: Path) -> Path:
    old = folder / "torch"
    (old / "lib").mkdir(parents=True)
    for name in ("libtorch.so", "libtorch_cpu.so"):
        (old / "lib" / name).touch()
    headers = old / "include" / "torch" / "headeronly"
    headers.mkdir(parents=True)
    (headers / "version.h").write_text('#define TORCH_VERSION \\\n  "2.9.1"\n')
    return old


def test_torch_that_is_too_old_is_passed_over(tmp_path):
    """The one that was built against comes after it."""
    old = old_torch(tmp_path)
    configure(PROJECT, tmp_path / "build", f"-DCMAKE_PREFIX_PATH={CMAKE_PREFIX_PATH};{old}")
    found = (tmp_path / "build" / "CMakeCache.txt").read_text()
    assert f"DDIT_EXT_TORCH_LIBRARY:FILEPATH={old}/lib/libtorch_cpu.so" in found


def test_torch_that_is_too_old_is_refused_by_version(tmp_path):
    old = old_torch(tmp_path)
    said = configure(
        PROJECT,
        tmp_path / "build",
        f"-DCMAKE_PREFIX_PATH={CMAKE_PREFIX_PATH}",
        f"-DDDIT_EXT_TORCH_DIR={old}",
        fails=True,
    )
    said = " ".join(said.split())
    assert f"built against torch {torch.__version__} and needs 2.10 or later" in said
    assert "is 2.9.1" in said


def test_a_folder_outside_of_the_prefix_is_refused(tmp_path):
    options = (
        "-DDDIT_EXT_PYTHON=OFF",
        "-DDDIT_EXT_TORCH=OFF",
        "-DDDIT_EXT_CUDA=OFF",
        "-DCMAKE_INSTALL_LIBDIR=/lib64",
    )
    said = configure(ROOT, tmp_path, *options, fails=True)
    assert "CMAKE_INSTALL_LIBDIR must be relative to the prefix, got /lib64" in said


def test_nvcc_is_looked_for_again_where_an_earlier_build_had_none(tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.22)\nproject(p CXX)\nset(DDIT_EXT_CUDA AUTO)\n"
        f'include({ROOT}/cmake/SetUpCuda.cmake)\nmessage(STATUS "cuda: ${{DDIT_EXT_WITH_CUDA}}")\n'
    )
    without = run("cmake", "-S", str(tmp_path), "-B", str(tmp_path / "build"), CUDACXX="no-nvcc")
    assert "cuda: OFF" in without
    again = configure(tmp_path, tmp_path / "build")
    assert "Looking for a CUDA compiler" in again  # not taken from the cache
    assert f"cuda: {'ON' if shutil.which('nvcc') else 'OFF'}" in again


def install_without_python(build: Path, prefix: Path, *options: str) -> None:
    """A build in which CMake must not find any Python, installed into `prefix`."""
    configure(
        ROOT,
        build,
        "-DDDIT_EXT_PYTHON=OFF",
        "-DDDIT_EXT_CUDA=OFF",
        "-DCMAKE_DISABLE_FIND_PACKAGE_Python=ON",
        "-DCMAKE_DISABLE_FIND_PACKAGE_pybind11=ON",
        "-DCMAKE_INSTALL_LIBDIR=lib",
        *options,
    )
    run("cmake", "--build", str(build), "-j", "2")
    run("cmake", "--install", str(build), "--prefix", str(prefix))


@pytest.fixture(scope="module")
def libtorch(tmp_path_factory):
    """A folder like an unpacked libtorch: include/ and lib/ of the torch that runs here."""
    folder = tmp_path_factory.mktemp("libtorch")
    for name in ("include", "lib"):
        (folder / name).symlink_to(Path(torch.__file__).parent / name)
    return folder


@pytest.fixture(scope="module")
def moved_prefix(tmp_path_factory, libtorch):
    """A plain install with libtorch, moved afterwards: nothing in it may know where it was."""
    folder = tmp_path_factory.mktemp("install")
    install_without_python(folder / "build", folder / "first", f"-DCMAKE_PREFIX_PATH={libtorch}")
    (folder / "first").rename(folder / "moved")
    shutil.rmtree(folder / "build")
    return folder / "moved"


@pytest.mark.slow
def test_install_without_python(moved_prefix, libtorch, tmp_path):
    assert (
        moved_prefix / "lib" / "libddit_ext.so"
    ).resolve().name == f"libddit_ext.so.{ddit_ext.__version__}"
    assert not list(moved_prefix.rglob("*.json")) and not list(moved_prefix.rglob("_core*"))
    configure(PROJECT, tmp_path, f"-DCMAKE_PREFIX_PATH={moved_prefix};{libtorch}")
    run("cmake", "--build", str(tmp_path), "-j", "2")
    check_programs(tmp_path)


@pytest.mark.slow
def test_another_minor_version_is_not_found(moved_prefix, tmp_path):
    project = "cmake_minimum_required(VERSION 3.22)\nproject(p CXX)\nfind_package(ddit_ext 9.9 REQUIRED)\n"
    (tmp_path / "CMakeLists.txt").write_text(project)
    said = configure(tmp_path, tmp_path / "build", f"-DCMAKE_PREFIX_PATH={moved_prefix}", fails=True)
    assert "9.9" in said and f"version: {ddit_ext.__version__}" in said


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="pkg-config is not installed")
def test_pkg_config(moved_prefix, libtorch, tmp_path):
    path = str(moved_prefix / "lib" / "pkgconfig")
    names = (("without_torch", "ddit_ext_kernels", "-std=c++17"), ("with_torch", "ddit_ext", "-std=c++20"))
    for program, package, standard in names:
        flags = ("--define-variable=torch=" + str(libtorch), "--cflags", "--libs", package)
        said = run("pkg-config", *flags, PKG_CONFIG_PATH=path)
        source = str(PROJECT / f"{program}.cpp")
        run("g++", standard, source, "-o", str(tmp_path / program), *said.split())
    check_programs(tmp_path)
    version = run("pkg-config", "--modversion", "ddit_ext", PKG_CONFIG_PATH=path)
    assert version.strip() == ddit_ext.__version__


@pytest.mark.slow
def test_build_without_torch(tmp_path):
    prefix, build = tmp_path / "prefix", tmp_path / "outside"
    install_without_python(tmp_path / "build", prefix, "-DDDIT_EXT_TORCH=OFF")
    assert not list(prefix.rglob("libddit_ext*"))
    configure(PROJECT, build, f"-DCMAKE_PREFIX_PATH={prefix}", "-DWITH_TORCH=OFF")
    run("cmake", "--build", str(build), "-j", "2")
    check_programs(build)


@pytest.mark.slow
@pytest.mark.skipif("DDIT_TORCH_FOLDERS" not in os.environ, reason="DDIT_TORCH_FOLDERS names no other torch")
def test_other_versions_of_torch():
    folders = os.environ["DDIT_TORCH_FOLDERS"].split(os.pathsep)
    lines = run(sys.executable, str(ROOT / "scripts" / "check_torch_versions.py"), *folders).splitlines()
    assert [line.partition("=")[0] for line in lines] == ["torch"] * len(folders)
