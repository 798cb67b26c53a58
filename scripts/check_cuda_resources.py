"""Compiles every .cu file for the architectures that are supported and fails where a kernel spills registers or needs
a stack frame: either means slow local memory in an inner loop. Says so and passes where there is no nvcc.

python scripts/check_cuda_resources.py [--arch 80 --arch 90a ...] [file.cu ...]
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURES = ("80", "90a", "100", "120")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
KERNEL = re.compile(r"Compiling entry function '(\S+)' for")
REGISTERS = re.compile(r"Used (\d+) registers")


def compile_verbosely(nvcc: str, source: Path, architecture: str) -> str:
    """What ptxas says of each kernel of the file."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                nvcc,
                "-O3",
                "-std=c++17",
                f"-I{ROOT / 'csrc'}",
                f"-I{ROOT / 'csrc' / 'include'}",
                "-Xptxas",
                "-v",
            ]
            + ["-gencode", f"arch=compute_{architecture},code=sm_{architecture}", "-Werror", "all-warnings"]
            + ["-cubin", "-o", str(Path(folder) / "kernels.cubin"), str(source)],
            capture_output=True,
            text=True,
        )
    if done.returncode != 0:
        raise SystemExit(f"{source} does not compile for sm_{architecture}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def problems(said: str) -> tuple[int, int, list[str]]:
    """Number of kernels, the most registers that one uses, and a line for each kernel with a frame or a spill."""
    kernels, found, name = 0, [], "?"
    for line in said.splitlines():
        if match := KERNEL.search(line):
            name, kernels = match.group(1), kernels + 1
        elif (match := FRAME.search(line)) and any(int(count) for count in match.groups()):
            found.append(f"{name}: {match.group(0)}")
    return kernels, max(map(int, REGISTERS.findall(said)), default=0), found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", action="append", help=f"default: {', '.join(ARCHITECTURES)}")
    parser.add_argument("files", nargs="*", type=Path, help="default: all of csrc")
    arguments = parser.parse_args()
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        print("check_cuda_resources: skipped, there is no nvcc")
        return 0
    failed = False
    for source in arguments.files or sorted((ROOT / "csrc").rglob("*.cu")):
        for architecture in arguments.arch or ARCHITECTURES:
            kernels, registers, found = problems(compile_verbosely(nvcc, source, architecture))
            name = source.resolve().relative_to(ROOT)
            print(f"{name}, sm_{architecture}: {kernels} kernels, at most {registers} registers", flush=True)
            for line in found:
                print(f"  SPILL OR STACK FRAME {line}", flush=True)
            failed = failed or bool(found) or kernels == 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
