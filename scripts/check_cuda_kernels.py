"""Finds slow CUDA kernels without a GPU: in what the compiler makes of them, and in how their launches fill a GPU.

Every .cu file is compiled once for each architecture that is supported. It fails where
- a kernel spills registers or needs a stack frame: slow local memory in an inner loop;
- an inner loop has more instructions than its work takes (scripts/_machine_code.py has the limits);
- a call of a real model leaves multiprocessors without a block, and scripts/_waves.py does not say why it may.

It says so and passes where there is no nvcc. Launches are looked at where the emulation is built (`make emulation`).

python scripts/check_cuda_kernels.py [--arch 80 --arch 90a ...] [--out TABLE.md] [file.cu ...]
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import _machine_code
import _waves

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURES = ("80", "90a", "100", "120")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
KERNEL = re.compile(r"Compiling entry function '(\S+)' for")
USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")
EMULATION = ROOT / "build" / "emulation" / "libddit_ext_emu.so"


def disassembler() -> str:
    """cuobjdump of a CUDA toolkit, or of the package of that name."""
    if found := shutil.which("cuobjdump"):
        return found
    try:
        files = metadata.files("nvidia-cuda-cuobjdump") or []
    except metadata.PackageNotFoundError:
        raise SystemExit(
            "no cuobjdump was found: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
        ) from None
    return next(str(file.locate()) for file in files if file.name == "cuobjdump")


def disassembled(cuobjdump: str, cubin: Path) -> str:
    done = subprocess.run([cuobjdump, "-sass", str(cubin)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{cuobjdump} failed (it needs nvdisasm beside it or on the PATH):\n{done.stderr}")
    return done.stdout


def compile_verbosely(nvcc: str, source: Path, architecture: str, cubin: Path) -> str:
    """What ptxas says of each kernel of the file."""
    command = [nvcc, "-O3", "-std=c++17", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc' / 'include'}"]
    command += ["-gencode", f"arch=compute_{architecture},code=sm_{architecture}", "-Werror", "all-warnings"]
    command += ["-Xptxas", "-v", "-cubin", "-o", str(cubin), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{source} does not compile for sm_{architecture}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def resources(said: str) -> tuple[dict[str, _waves.Resources], list[str]]:
    """What each kernel takes, by its mangled name, and a line for each one with a frame or a spill."""
    taken, found, name = {}, [], "?"
    for line in said.splitlines():
        if match := KERNEL.search(line):
            name = match.group(1)
        elif (match := FRAME.search(line)) and any(int(count) for count in match.groups()):
            found.append(f"{name}: SPILL OR STACK FRAME, {match.group(0)}")
        elif match := USED.search(line):
            taken[name] = _waves.Resources(int(match.group(1)), int(match.group(2) or 0))
    return taken, found


def demangled(names: list[str]) -> dict[str, str]:
    if not names:
        return {}
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return dict(zip(names, map(_waves.readable, done.stdout.splitlines()), strict=True))


def check_code(
    nvcc: str, sources: list[Path], architectures: list[str]
) -> tuple[dict[tuple[str, str], _waves.Resources], bool]:
    """Compiles all and looks at the code: what kernels take, by architecture and name, and whether all is well."""
    everything, good = {}, True
    cuobjdump = disassembler()
    for source in sources:
        for architecture in architectures:
            with tempfile.TemporaryDirectory() as folder:
                cubin = Path(folder) / "kernels.cubin"
                taken, found = resources(compile_verbosely(nvcc, source, architecture, cubin))
                kernels = _machine_code.read(disassembled(cuobjdump, cubin))
            names = demangled([kernel.name for kernel in kernels])
            found += [f"{names[k.name]}: {line}" for k in kernels for line in _machine_code.problems(k)]
            loops = sum(loop.moves_data for kernel in kernels for loop in kernel.loops)
            most = max((kernel.registers for kernel in taken.values()), default=0)
            print(
                f"{source.resolve().relative_to(ROOT)}, sm_{architecture}: {len(kernels)} kernels, at most "
                f"{most} registers, {loops} loops that move data, {len(found)} problems",
                flush=True,
            )
            for line in found:
                print(f"  {line}", flush=True)
            good = good and not found and bool(taken) and len(kernels) == len(taken)
            everything |= {(architecture, names[name]): value for name, value in taken.items()}
    return everything, good


def check_launches(taken: dict[tuple[str, str], _waves.Resources], out: Path | None) -> bool:
    """A table of what calls of real models make of GPUs, and whether none leaves multiprocessors idle unexplained."""
    import torch

    torch.ops.load_library(str(EMULATION))
    rows = ["| call | GPU | kernel | blocks | resident | waves | evenness |", "|---|---|---|---|---|---|---|"]
    good = True
    for call, make in _waves.calls():
        for gpu in _waves.GPUS:
            for launch in _waves.launches(EMULATION, make, gpu.multiprocessors):
                needs = taken.get((gpu.architecture, launch.kernel))
                if needs is None:
                    continue  # not one of the files or architectures at hand
                fill = _waves.fill(launch, needs, gpu)
                row = f"| {call} | {gpu.name} ({gpu.multiprocessors}) | {launch.kernel} | {launch.blocks} of "
                row += (
                    f"{launch.threads} threads | {fill.resident} | {fill.waves:.2f} | {fill.evenness:.0%} |"
                )
                rows.append(row)
                if fill.idle and _waves.reason_for_few_blocks(call) is None:
                    good = False
                    print(
                        f"  {call}: {launch.blocks} blocks for the {gpu.multiprocessors} multiprocessors of {gpu.name}"
                    )
    rows += ["", "Fewer blocks than multiprocessors:", ""]
    rows += [f"- {call}: {reason}." for call, reason in _waves.FEW_BLOCKS.items()]
    if out is not None:
        out.write_text("\n".join(rows) + "\n")
    print(
        f"launches: {len(rows)} rows, {'no' if good else 'some'} multiprocessors are idle unexplained",
        flush=True,
    )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", action="append", help=f"default: {', '.join(ARCHITECTURES)}")
    parser.add_argument("--out", type=Path, help="write the table of launches here")
    parser.add_argument("files", nargs="*", type=Path, help="default: all of csrc")
    arguments = parser.parse_args()
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        print("check_cuda_kernels: skipped, there is no nvcc")
        return 0
    sources = arguments.files or sorted((ROOT / "csrc").rglob("*.cu"))
    taken, good = check_code(nvcc, sources, arguments.arch or list(ARCHITECTURES))
    if EMULATION.is_file():
        good = check_launches(taken, arguments.out) and good
    else:
        print("launches: skipped, the emulation is not built")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
