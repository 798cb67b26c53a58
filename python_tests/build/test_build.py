"""What was built: its layers, how it loads, what it says of itself."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.utils.cpp_extension

import ddit_ext

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(ddit_ext.__file__).parent


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        cwd=ROOT,
    )


def includes(file: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', file.read_text(), flags=re.MULTILINE)


def native_sources(*folders: str) -> list[Path]:
    return [f for folder in folders for f in sorted((ROOT / "csrc" / folder).rglob("*")) if f.is_file()]


# The at::Tensor face: the public headers with torch types.
TENSOR_HEADERS = {"adapter.h", "coarse_step.h", "ddit_ext.h", "ops.h", "tensors.h"}
TORCH_FREE = [
    file
    for file in native_sources("kernels", "include", "scheduler", "io", "plain", "core")
    if file.parent.name != "ddit_ext" or file.name not in TENSOR_HEADERS
]


@pytest.mark.parametrize("file", TORCH_FREE, ids=lambda f: f.name)
def test_only_the_ops_know_torch(file):
    foreign = [name for name in includes(file) if re.match(r"(torch|ATen|c10|caffe2)/", name)]
    assert not foreign, f"{file} includes {foreign}"


@pytest.mark.parametrize("file", native_sources("ops"), ids=lambda f: f.name)
def test_the_ops_use_the_stable_abi_only(file):
    allowed = ("torch/csrc/stable/", "torch/headeronly/", "torch/csrc/inductor/aoti_torch/")
    torch_headers = [name for name in includes(file) if re.match(r"(torch|ATen|c10|caffe2)/", name)]
    assert all(name.startswith(allowed) for name in torch_headers), torch_headers


def test_every_schema_stands_in_one_place():
    defining = [file.name for file in native_sources("ops") if "m.def(" in file.read_text()]
    assert defining == ["schemas.h"]


def test_device_headers_have_a_twin_in_the_emulation():
    def names(folder: str) -> list[str]:
        return sorted(file.name for file in (ROOT / folder / "kernels" / "cuda").iterdir())

    itself = {
        "fast_div.cuh",
        "launch.cuh",
        "numbers.cuh",
    }  # compiled as they are, over CUDA headers of its own
    assert sorted(set(names("csrc")) - itself) == names("cpp_tests/emulation/include")


@pytest.mark.slow
@pytest.mark.parametrize("header", sorted(TENSOR_HEADERS))
def test_headers_include_each_op_that_they_call(header):
    """Alone, in a program that takes torch's ops one by one."""
    folders = [str(PACKAGE / "include"), *torch.utils.cpp_extension.include_paths()]
    result = subprocess.run(
        ["g++", "-std=c++20", "-fsyntax-only", "-DAT_PER_OPERATOR_HEADERS", "-x", "c++", "-"]
        + [f"-I{folder}" for folder in folders],
        input=f"#include <ddit_ext/{header}>\n",
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


def test_build_info():
    info = ddit_ext.build_info()
    assert info.version == ddit_ext.__version__
    assert info.torch_met == torch.__version__
    assert info.torch_built.split(".")[0].isdigit()
    assert info.cuda == bool(info.architectures)
    assert info.compiler


def test_version_comes_from_one_place():
    version = re.search(r'__version__ = "(.+)"', (PACKAGE / "_version.py").read_text()).group(1)
    built = json.loads((PACKAGE / "lib" / "build_info.json").read_text())
    assert built["version"] == version
    others = [ROOT / "pyproject.toml", ROOT / "setup.py", ROOT / "CMakeLists.txt"]
    assert not [file.name for file in others if version in file.read_text()]


def test_installed_for_cmake():
    printed = subprocess.run(
        [sys.executable, "-m", "ddit_ext.cmake_prefix"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    prefix = Path(printed.stdout.strip())
    assert (prefix / "ddit_ext" / "ddit_extConfig.cmake").is_file()
    assert (PACKAGE / "lib" / "libddit_kernels.a").is_file()
    assert (PACKAGE / "include" / "ddit_ext" / "patch_scheduler.h").is_file()


def test_importing_is_light():
    result = run_python(
        "import sys, ddit_ext\n"
        "print([m for m in ('diffusers', 'transformers', 'peft', 'matplotlib') if m in sys.modules])\n"
        "print(all(name in dir(ddit_ext) for name in ddit_ext.__all__))"
    )
    assert result.stdout.split("\n")[:2] == ["[]", "True"], result.stderr


def test_every_public_name_is_there():
    assert all(hasattr(ddit_ext, name) for name in ddit_ext.__all__)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="module 'ddit_ext' has no attribute 'nothing'"):
        ddit_ext.nothing  # noqa: B018


def test_the_library_can_be_chosen(tmp_path):
    copy = tmp_path / "libddit_ext.so"
    copy.write_bytes((PACKAGE / "lib" / "libddit_ext.so").read_bytes())
    result = run_python(
        "import ddit_ext; print('/libddit_ext.so' in open('/proc/self/maps').read());"
        f"print({str(copy)!r} in open('/proc/self/maps').read())",
        DDIT_EXT_LIBRARY=str(copy),
    )
    assert result.stdout.split() == ["True", "True"], result.stderr


def test_a_failed_load_says_why(tmp_path):
    broken = tmp_path / "libddit_ext.so"
    broken.write_text("not a library")
    result = run_python("import ddit_ext", DDIT_EXT_LIBRARY=str(broken))
    assert result.returncode != 0
    message = result.stderr
    assert "ImportError: ddit_ext could not load" in message
    assert "file too short" in message or "invalid ELF header" in message  # the loader's own reason
    assert f"built against torch {ddit_ext.build_info().torch_built}" in message
    assert f"met torch {torch.__version__}" in message


@pytest.mark.parametrize(
    "library, said",
    [
        ("/nowhere/libddit_ext.so", "DDIT_EXT_LIBRARY is /nowhere/libddit_ext.so, and there is no such file"),
        (str(Path(torch.__file__).parent / "lib" / "libc10.so"), "libc10.so holds no ops of ddit_ext"),
    ],
    ids=["missing", "another"],
)
def test_a_wrong_choice_of_library_is_named(library, said):
    result = run_python("import ddit_ext", DDIT_EXT_LIBRARY=library)
    assert "ImportError: " in result.stderr and said in result.stderr


def test_without_torch_the_build_names_the_commands(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch')\n")
    result = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=ROOT,
    )
    assert result.returncode != 0
    assert "pip install torch\n" in result.stderr
    assert "pip install --no-build-isolation ." in result.stderr
