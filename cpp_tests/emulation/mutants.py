"""Removes one synchronisation or factor from the CUDA kernels at a time and expects the emulated tests to notice.

For every barrier, wait, atomic and fence in csrc/kernels/**/*.{cu,cuh}, and for every factor of patch_embed's cells with
what finds it by sample and channel: a copy of the sources without it is built and its tests run, mode after mode in one process (mutant_modes.py), until one fails. A mutant that no mode notices
survives: either a test is missing, or the line is not needed. Exit status 1 where one survives that is not in HARMLESS.

python cpp_tests/emulation/mutants.py [--list] [--match TEXT] [--keep FOLDER]
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mutant_modes import MODES as ALL_MODES

MODES = len(ALL_MODES)
ROOT = Path(__file__).resolve().parents[2]
COPIED = ("CMakeLists.txt", "cmake", "csrc", "cpp_tests/emulation", "ddit_ext/_version.py")

# What is removed, and what stands in its place: an atomic becomes the read and write that others may come between, so
# all that it stored is lost. A factor becomes that of the first sample, of the first channel, or 1.
REMOVALS = (
    (re.compile(r"__syncthreads\(\);"), ";"),
    (re.compile(r"__syncwarp\([^()]*\);"), ";"),
    (re.compile(r"__threadfence(?:_block)?\(\);"), ";"),
    (re.compile(r"\batomic[A-Z]\w*\("), "ddit_emulation::not_done("),
    (re.compile(r"\b(?:cuda::)?add_acquire_release\("), "ddit_emulation::not_done("),
    (re.compile(r" \* factor\b"), ""),
    (re.compile(r" \+ place\.factors\b"), ""),
    (re.compile(r" \* moves\.(?:sample|channel)_factors\b"), " * 0"),
    (re.compile(r"params\.factors\.(?:sample|channel)_stride\b"), "0"),
    (re.compile(r"/\*by_channel=\*/true\b"), "false"),
)
NOT_DONE = """
#ifndef DDIT_NOT_DONE
#define DDIT_NOT_DONE
namespace ddit_emulation {
template <class T>
T not_done(T* target, T) {
  return *target;
}
}  // namespace ddit_emulation
#endif
"""

# "file: the line's text (which of the equal lines)": why nothing can go wrong without it.
HARMLESS: dict[str, str] = {
    "csrc/kernels/acceleration_quantiles/cuda_select.cuh: atomicMin(&shared.levels[l].lowest, lowest); (1)": (
        "without any minimum the lowest stays 2^32 - 1, and the distances are the bits plus 1: in the same order, "
        "in more digits"
    ),
}


@dataclass(frozen=True)
class Mutant:
    file: Path  # relative to ROOT
    line: int
    text: str  # of the line
    occurrence: int  # among the equal lines of the file, from 1
    mutated: str  # the whole file

    @property
    def name(self) -> str:
        return f"{self.file}: {self.text} ({self.occurrence})"


def kernel_files() -> list[Path]:
    """All that the emulation compiles; csrc/kernels/cuda has twins there, which stand in for it."""
    files = sorted((ROOT / "csrc" / "kernels").rglob("*.cu*"))
    return [file.relative_to(ROOT) for file in files if file.parent.name != "cuda"]


def mutants_of(file: Path) -> list[Mutant]:
    lines = (ROOT / file).read_text().split("\n")
    mutants, seen = [], {}
    for number, line in enumerate(lines):
        code = line.split("//")[0]
        for pattern, replacement in REMOVALS:
            for match in pattern.finditer(code):
                text = line.strip()
                seen[text] = seen.get(text, 0) + 1
                changed = code[: match.start()] + replacement + code[match.end() :]
                mutated = "\n".join([*lines[:number], changed, *lines[number + 1 :]])
                if "not_done" in replacement:
                    mutated = mutated.replace("\nnamespace ddit", NOT_DONE + "\nnamespace ddit", 1)
                mutants.append(Mutant(file, number + 1, text, seen[text], mutated))
    return mutants


class Copy:
    """The sources in a folder of their own, with a build of the emulation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            source = ROOT / name
            for file in [source] if source.is_file() else sorted(source.rglob("*")):
                if file.is_file():
                    self.write(file.relative_to(ROOT), file.read_bytes())
        configure = ["cmake", "-S", str(folder), "-B", str(folder / "build"), "-G", "Ninja"]
        configure += [
            "-DDDIT_EXT_EMULATION=ON",
            "-DDDIT_EXT_CUDA=OFF",
            "-DDDIT_EXT_WERROR=OFF",  # a mutant may leave a parameter unused
            f"-DPython_EXECUTABLE={sys.executable}",
        ]
        subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)

    def build(self) -> None:
        command = ["cmake", "--build", str(self.folder / "build"), "--target", "ddit_ext_emu"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"the emulation does not build:\n{done.stdout}{done.stderr}")

    def write(self, file: Path, content: bytes) -> None:
        """With a new time where it changes, so that the build sees it, and only there."""
        target = self.folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.is_file() or target.read_bytes() != content:
            target.write_bytes(content)

    def failure(self, tests: list[str], modes: str, limit: int | None = None) -> str | None:
        """The test and mode that fail, the first of them; None where all pass.

        A crash is a failure, too, and so are tests that take more than `limit` seconds of a processor: an endless
        loop, however busy the machine is.
        """
        environment = {
            **os.environ,
            "DDIT_EXT_EMULATION_LIBRARY": str(self.folder / "build" / "libddit_ext_emu.so"),
            "DDIT_REQUIRE_EMULATION": "1",
            "DDIT_MUTANT_MODES": modes,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        }
        command = [sys.executable, "-m", "pytest", "-v", "-x", "--tb=no", "-p", "no:cacheprovider"]
        command += ["-p", "mutant_modes", "-k", "emu", *tests]
        if limit is not None:
            command = ["bash", "-c", f'ulimit -t {limit}; exec "$@"', "limited", *command]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode not in (0, 1) and "no tests ran" in done.stdout:
            raise SystemExit(f"no test was found in {tests}:\n{done.stdout}{done.stderr}")
        if done.returncode == 0:
            return None
        started = re.findall(r"^\S+::(\S+) ", done.stdout, re.MULTILINE)
        return started[-1] if started else f"status {done.returncode} before any test"


def tests_of(file: Path) -> list[str]:
    """The tests of the op that a kernel's folder is named after; of all ops where there is none of that name."""
    folder = ROOT / "python_tests" / "ops"
    own = sorted(folder.glob(f"test_{file.parent.name}*.py"))
    ops = (f"test_{kernel.parent.name}*.py" for kernel in kernel_files())
    return [str(test) for test in own or sorted({test for op in ops for test in folder.glob(op)})]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="name the mutants and stop")
    parser.add_argument(
        "--match", default="", help="only mutants with this in their name, as --list shows it"
    )
    parser.add_argument("--keep", type=Path, help="build here, and leave it for the next time")
    arguments = parser.parse_args()
    every = [mutant for file in kernel_files() for mutant in mutants_of(file)]
    if unknown := set(HARMLESS) - {mutant.name for mutant in every}:
        raise SystemExit(f"HARMLESS names lines that are not there: {sorted(unknown)}")
    mutants = [mutant for mutant in every if arguments.match in mutant.name]
    if arguments.list:
        print("\n".join(mutant.name for mutant in mutants))
        return 0

    survivors = []
    with tempfile.TemporaryDirectory() as temporary:
        copy = Copy(arguments.keep or Path(temporary))
        copy.build()
        limits = {}
        for file in sorted({mutant.file for mutant in mutants}):
            before = os.times().children_user
            if failed := copy.failure(tests_of(file), "one"):
                raise SystemExit(f"the tests of {file} fail as it is: {failed}")
            limits[file] = 60 + 5 * MODES * round(os.times().children_user - before)
        for mutant in mutants:
            copy.write(mutant.file, mutant.mutated.encode())
            copy.build()
            noticed = copy.failure(tests_of(mutant.file), "all", limits[mutant.file])
            copy.write(mutant.file, (ROOT / mutant.file).read_bytes())
            reason = HARMLESS.get(mutant.name)
            if noticed is not None:
                print(f"noticed   {mutant.file}:{mutant.line} {mutant.text}  by {noticed}", flush=True)
                if reason:
                    survivors.append(f"{mutant.name}: is in HARMLESS, but the tests notice it")
            elif reason:
                print(f"harmless  {mutant.file}:{mutant.line} {mutant.text}: {reason}", flush=True)
            else:
                print(f"SURVIVES  {mutant.file}:{mutant.line} {mutant.text}", flush=True)
                survivors.append(mutant.name)
    print(f"{len(mutants)} mutants, {len(survivors)} unexplained")
    print("".join(f"  {name}\n" for name in survivors), end="")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
