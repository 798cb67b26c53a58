"""The code on docs/cpp.md is built as it stands there, and run."""

import re
from pathlib import Path

import pytest
from test_cpp_package import ADAPTER, ROOT, configure, run

from ddit_ext.cmake_prefix import CMAKE_PREFIX_PATH

PAGE = (ROOT / "docs" / "cpp.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_every_block_is_of_a_kind_that_is_built():
    assert set(re.findall(r"^```(\w+)", PAGE, re.MULTILINE)) == {"cpp", "cmake"}
    assert len(blocks("cpp")) == 3 and len(blocks("cmake")) == 1


def test_options_on_the_page_exist():
    options = set(re.findall(r"DDIT_EXT_\w+", PAGE))
    cmake = (ROOT / "CMakeLists.txt").read_text()
    assert options and all(f"option({option} " in cmake for option in options)


def build_block(folder: Path, code: str, project: str) -> Path:
    folder.mkdir()
    (folder / "CMakeLists.txt").write_text(project)
    (folder / "mine.cpp").write_text(code)
    configure(folder, folder / "build", f"-DCMAKE_PREFIX_PATH={CMAKE_PREFIX_PATH}")
    run("cmake", "--build", str(folder / "build"))
    return folder / "build" / "mine"


def test_block_without_torch(tmp_path):
    (project,) = blocks("cmake")
    project = project.replace("COMPONENTS ddit_ext torch", "COMPONENTS kernels")
    project = project.replace("ddit_ext::ddit_ext ddit_ext::torch", "ddit_ext::kernels")
    program = build_block(tmp_path / "plain", blocks("cpp")[2], project)
    run(str(program))
    run(str(program), str(ADAPTER))


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_block_with_torch(tmp_path, index):
    program = build_block(tmp_path / "block", blocks("cpp")[index], blocks("cmake")[0])
    run(str(program))
    run(str(program), str(ADAPTER))
