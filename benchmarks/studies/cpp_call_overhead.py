"""What a call from C++ costs besides its arithmetic: each op at the smallest shapes it takes, over aten ops.

    python benchmarks/studies/cpp_call_overhead.py [--rounds 300] [--json benchmarks/studies/results/cpp_call_overhead.json]

Builds benchmarks/studies/cpp_call_overhead with the installed package and runs it on one thread, in inference mode; the
candidates take turns within a round. A figure is the median over rounds of the ratio within a round, with its 95 %
interval. Each op stands beside two aten ops:

* of its arity, by what it is given and gives: patch_embed is a conv2d whose stride is its kernel (x, weight, bias and
  four numbers), patch_deembed its transpose, acceleration_quantiles takes four tensors and two numbers as
  scaled_dot_product_attention does;
* the cheapest that was found with as many tensors: linear with three, stack with four, batch_norm with five. The two
  products of a LoRA are in the op's time, so its ratio to batch_norm is no overhead alone.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
from _timing import median_interval, write_json

from ddit_ext.cmake_prefix import CMAKE_PREFIX_PATH

PROJECT = Path(__file__).parent / "cpp_call_overhead"
LINEAR, BATCH_NORM = "linear(x, w, b)", "batch_norm(x, w, b, mean, var)"
CONV, CONV_TRANSPOSE = "conv2d(x, w, b)", "conv_transpose2d(x, w, b)"
ATTENTION, STACK = "scaled_dot_product_attention(q, k, v, mask)", "stack(z0, z1, z2, z3)"
PEERS = {
    "patch_embed": (CONV, LINEAR),
    "patch_embed, scale 2": (CONV, LINEAR),
    "patch_embed, LoRA": (CONV, BATCH_NORM),
    "patch_deembed": (CONV_TRANSPOSE, LINEAR),
    "patch_deembed, LoRA": (CONV_TRANSPOSE, BATCH_NORM),
    "acceleration_quantiles": (ATTENTION, STACK),
}


def build(folder: Path) -> Path:
    generator = ("-G", "Ninja") if shutil.which("ninja") else ()
    configure = ["cmake", *generator, "-S", PROJECT, "-B", folder, f"-DCMAKE_PREFIX_PATH={CMAKE_PREFIX_PATH}"]
    for command in (configure, ["cmake", "--build", folder]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "call_overhead"


def measure(program: Path, rounds: int, calls: int) -> dict[str, list[float]]:
    """Nanoseconds a call of each candidate, one figure a round."""
    done = subprocess.run(
        [program, str(rounds), str(calls)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    names, *lines = [line.split("\t") for line in done.stdout.splitlines()]
    columns = zip(*([float(value) for value in line] for line in lines), strict=True)
    return dict(zip(names, map(list, columns), strict=True))


def middle(values: list[float]) -> dict[str, float]:
    low, high = median_interval(values)
    return {"median": statistics.median(values), "low": low, "high": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--calls", type=int, default=200, help="of each candidate in a round")
    parser.add_argument("--json", help="also write the results there")
    options = parser.parse_args()
    if options.rounds < 1 or options.calls < 1:
        parser.error(f"--rounds and --calls must be at least 1, got {options.rounds} and {options.calls}")
    with tempfile.TemporaryDirectory() as folder:
        taken = measure(build(Path(folder)), options.rounds, options.calls)
    results = {
        "threads_of_the_program": 1,
        "nanoseconds": {name: middle(values) for name, values in taken.items()},
        "ratios": {
            op: {peer: middle([a / b for a, b in zip(taken[op], taken[peer], strict=True)]) for peer in peers}
            for op, peers in PEERS.items()
        },
    }
    for name, figure in results["nanoseconds"].items():
        print(f"{name:<44} {figure['median']:8.0f} ns [{figure['low']:.0f}, {figure['high']:.0f}]")
    for op, ratios in results["ratios"].items():
        for peer, figure in ratios.items():
            print(f"{op} / {peer}: {figure['median']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}]")
    if options.json:
        write_json(options.json, results)


if __name__ == "__main__":
    main()
