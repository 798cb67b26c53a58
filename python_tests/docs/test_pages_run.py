"""What README and docs say works: from a wheel, in an environment of its own, with the checkout as the current folder."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAND_INS = ROOT / "python_tests" / "helpers" / "page_stand_ins.py"
PAGES = [
    "README",
    "docs/quickstart",
    "docs/forecast",
    "docs/larger-patches",
    "docs/strategies",
    "docs/wan",
    "docs/caches",
]

# Lines of shell that are not run here, by how they begin, with the reason.
NOT_RUN = {
    "pip install": "the environment of this test has it all, from the wheel",
    "make ": "make builds the checkout; the other tests run what it builds",
    ".venv/bin/": "the checkout's own environment",
    "accelerate launch": "several GPUs",
}

pytestmark = pytest.mark.slow


def run(*command, cwd=ROOT, **environment):
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """The folder with the programs of an environment that has the wheels, and the other packages of this one."""
    folder = tmp_path_factory.mktemp("install")
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    for project in (ROOT, ROOT / "embedded"):
        code, _, said = run(
            *(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"),
            *("-w", folder / "wheels", project),
            PATH=path,
        )
        assert code == 0, said
    venv.create(folder / "env", with_pip=False)
    site = next((folder / "env" / "lib").glob("python*")) / "site-packages"
    # Packages of this environment, but not its own editable install of the checkout: .pth files there are not read.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "env" / "bin" / "python"
    wheels = sorted((folder / "wheels").glob("*.whl"))
    code, _, said = run(
        *(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--ignore-installed", *wheels),
        cwd=folder,
    )
    assert code == 0, said
    code, where, said = run(
        python, "-c", "import ddit_ext; print(ddit_ext.__file__)", cwd=folder, PYTHONPATH=""
    )
    assert code == 0 and str(site) in where, where + said
    return folder / "env" / "bin"


def test_the_library_is_small(installed):
    (wheel,) = (installed.parents[1] / "wheels").glob("ddit_ext-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.endswith((".safetensors", ".png"))]
    assert wheel.stat().st_size < 2e6


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(installed, page, tmp_path):
    code, out, said = run(installed / "python", STAND_INS, ROOT / f"{page}.md", cwd=tmp_path, PYTHONPATH="")
    assert code == 0, out + said
    assert "block 1 ran" in out


def commands():
    """Each line of shell in README and docs, once."""
    found = []
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in re.findall(r"^```bash\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
            found += [line.split("  #")[0].strip() for line in block.splitlines() if line.strip()]
    return list(dict.fromkeys(line for line in found if not line.startswith(tuple(NOT_RUN))))


@pytest.mark.parametrize("line", commands())
def test_a_command_runs_in_the_checkout(installed, line, tmp_path):
    line = re.sub(r"(--out|--html) (\S+)", rf"\1 {tmp_path}/\2", line)
    if line.startswith("ddit calibrate"):
        line += " --steps 12"
    path = os.pathsep.join([str(installed), os.environ["PATH"]])
    code, out, said = run("bash", "-c", line, PATH=path, PYTHONPATH="")
    assert code == 0, out + said


def test_python_in_the_checkout_says_what_hides_the_installed_package(installed, tmp_path):
    copy = tmp_path / "checkout"
    (copy / "ddit_ext").mkdir(parents=True)
    (copy / "CMakeLists.txt").write_text("")
    for file in (ROOT / "ddit_ext").glob("*.py"):
        (copy / "ddit_ext" / file.name).write_text(file.read_text())
    code, _, said = run(installed / "python", "-c", "import ddit_ext", cwd=copy, PYTHONPATH="")
    assert code == 1 and "is a checkout of ddit_ext that was not built in place" in said
    assert "use the ddit command" in said
