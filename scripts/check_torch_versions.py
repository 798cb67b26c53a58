"""The one libddit_ext.so that is installed here, under other versions of torch, CUDA builds included.

    pip install --no-deps --target FOLDER torch==2.14.0   # one folder a version, with the nvidia-* packages it needs
    python scripts/check_torch_versions.py FOLDER... [--json benchmarks/results/torch_versions.json]

In a FOLDER lies `torch` as pip unpacks it, and beside it `nvidia`, where its libraries look for CUDA's. No GPU and no
driver are needed. For each of them:

* cpp_tests/outside is configured and built against that torch's headers and libraries, and both programs run, also on
  the misfits;
* Python loads the library into that torch and runs the three ops on the CPU; they give what they give here.

Ends with 1 if something fails, and says what.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

import torch
from safetensors.torch import load_file

import ddit_ext
from ddit_ext.cmake_prefix import CMAKE_PREFIX_PATH
from ddit_ext.embedded import weights

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = Path(ddit_ext.__file__).parent / "lib" / "libddit_ext.so"
ADAPTER = weights.folder("flux") / "adapter"

# Runs in the other torch, which has no ddit_ext in Python: only the library.
OPS = """
import sys
import torch
from safetensors.torch import save_file
torch.ops.load_library(sys.argv[1])
ops, generator, out = torch.ops.ddit_ext, torch.Generator().manual_seed(0), {}
for dtype in (torch.float32, torch.bfloat16, torch.float64):
    def make(*shape):  # of whole numbers: sums of products are exact, in any order
        return torch.randint(-4, 5, shape, generator=generator).to(dtype)
    cells = make(2, 1, 5, 4, 3, 2, 2)
    tokens = ops.patch_embed(cells, make(6, 3, 4, 4), make(6), make(2, 3, 4, 4), make(6, 2), 0.5, 2)
    back = ops.patch_deembed(
        tokens, make(3, 4, 4, 6), make(3, 4, 4), make(2, 6), make(3, 4, 4, 2), 0.5, 2, [1, 5, 4])
    scores = ops.acceleration_quantiles(
        cells, *(make(2, 1, 5, 4, 3, 2, 2) for _ in range(3)), [1, 2, 4], 0.4)
    name = str(dtype).removeprefix("torch.")
    out |= {name + ".tokens": tokens, name + ".back": back, name + ".scores": scores}
save_file(out, sys.argv[2])
print(torch.__version__, torch.version.cuda, torch.__file__, sep="\\n")
"""


class Failure(Exception):
    pass


def run(*command: object, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env={**os.environ, **environment}
    )
    if done.returncode != 0:
        raise Failure(f"{' '.join(map(str, command))[:200]}\n{done.stdout}{done.stderr}")
    return done.stdout


def outside_project(folder: Path, build: Path) -> dict:
    """Seconds to configure and build (on the clock, and of one core), after both programs have run with the torch in `folder`."""
    start, before = time.perf_counter(), os.times().children_user + os.times().children_system
    generator = ("-G", "Ninja") if shutil.which("ninja") else ()
    run(
        *("cmake", *generator, "-S", ROOT / "cpp_tests" / "outside", "-B", build),
        f"-DCMAKE_PREFIX_PATH={CMAKE_PREFIX_PATH}",
        f"-DDDIT_EXT_TORCH_DIR={folder / 'torch'}",
    )
    run("cmake", "--build", build)
    seconds = time.perf_counter() - start
    processor_seconds = os.times().children_user + os.times().children_system - before
    loaded = {
        line.split()[0]: line.split()[2]
        for line in run("ldd", build / "with_torch").splitlines()
        if "=>" in line
    }
    for name, expected in (("libtorch_cpu.so", folder / "torch" / "lib"), ("libddit_ext.so", LIBRARY.parent)):
        if Path(loaded[name]).resolve().parent != expected.resolve():
            raise Failure(f"{name}: expected that of {expected}, got {loaded[name]}")
    if run(build / "without_torch", ADAPTER) != "2 scales\ngood\n" or run(build / "with_torch") != "good\n":
        raise Failure("the programs did not say that all is good")
    misfits = run(build / "with_torch", "errors").splitlines()
    silent = [line for line in misfits if line == "no error"]
    if not misfits or silent:
        raise Failure(f"{len(silent)} of {len(misfits)} misfits raised nothing")
    return {
        "build_seconds": round(seconds, 1),
        "build_processor_seconds": round(processor_seconds, 1),
        "misfits_named": len(misfits),
    }


def run_ops(folder: Path | None, scratch: Path) -> tuple[list[str], dict[str, torch.Tensor]]:
    """torch's version, its CUDA and its file; and what the ops gave. Of the torch in `folder`, or that of here."""
    environment = {} if folder is None else {"PYTHONPATH": str(folder)}
    said = run(sys.executable, "-c", OPS, LIBRARY, scratch / "ops.safetensors", **environment).splitlines()
    if folder is not None and not Path(said[2]).is_relative_to(folder):
        raise Failure(f"expected the torch of {folder}, got {said[2]}")
    return said, load_file(scratch / "ops.safetensors")


def check(folder: Path, expected: dict[str, torch.Tensor], scratch: Path, build: bool) -> dict:
    (version, cuda, _), given = run_ops(folder, scratch)
    for name, tensor in expected.items():
        if not torch.equal(given[name], tensor):
            raise Failure(f"{name} differs by {(given[name] - tensor).abs().max().item():.3g}")
    result = {"torch": version, "cuda": cuda, "ops_equal": len(expected)}
    return result | (outside_project(folder, scratch / "build") if build else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--ops-only", action="store_true", help="build nothing, only run the ops")
    parser.add_argument("--json", type=Path, help="also write the results there")
    options = parser.parse_args()
    results, failed = [], False
    with tempfile.TemporaryDirectory() as scratch:
        _, expected = run_ops(None, Path(scratch))
    for folder in options.folders:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                results.append(check(folder.resolve(), expected, Path(scratch), not options.ops_only))
                print(" ".join(f"{name}={value}" for name, value in results[-1].items()), flush=True)
            except Failure as failure:
                failed = True
                print(f"{folder.name}: {failure}", flush=True)
    if options.json and not failed:
        info = ddit_ext.build_info()
        record = {
            "command": " ".join(
                ["python", Path(sys.argv[0]).name, *(Path(part).name for part in sys.argv[1:])]
            ),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "library": {
                "ddit_ext": info.version,
                "built_with_torch": info.torch_built,
                "compiler": info.compiler,
            },
            "results": results,
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    sys.exit(failed)


if __name__ == "__main__":
    main()
