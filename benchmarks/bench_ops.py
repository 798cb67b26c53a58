"""patch_embed and patch_deembed at FLUX's width, against F.linear on ready patches.

    python benchmarks/bench_ops.py [--rounds 30] [--threads N] [--json FILE]

C = 16, D = 3072, 64 x 64 cells of 2 x 2 pixels (1024 x 1024 images), bfloat16, LoRA of rank 32.
"""

import argparse

import torch
import torch.nn.functional as F
from _timing import interleaved, show, write_json

import ddit_ext

CHANNELS, WIDTH, CELLS, P, RANK = 16, 3072, 64, 2, 32


def embed_case(scale: int, dtype: torch.dtype, rounds: int) -> dict:
    side, n = scale * P, (CELLS // scale) ** 2
    packed = torch.randn(1, CELLS * CELLS, CHANNELS * P * P).to(dtype)
    cells = ddit_ext.cells.from_packed(packed, CELLS, CELLS, P)
    weight = (torch.randn(WIDTH, CHANNELS, side, side) / side).to(dtype)
    bias = torch.randn(WIDTH).to(dtype)
    lora_a = torch.randn(RANK, CHANNELS, side, side).to(dtype)
    lora_b = torch.randn(WIDTH, RANK).to(dtype)
    patches = torch.randn(n, CHANNELS * side * side).to(dtype)
    matrix = weight.flatten(1)
    return interleaved(
        {
            "F.linear alone": lambda: F.linear(patches, matrix, bias),
            "patch_embed": lambda: ddit_ext.ops.patch_embed(cells, weight, bias, scale=scale),
            "patch_embed with LoRA": lambda: ddit_ext.ops.patch_embed(
                cells, weight, bias, lora_a, lora_b, 0.5, scale
            ),
        },
        rounds,
    )


def deembed_case(scale: int, dtype: torch.dtype, rounds: int) -> dict:
    side, n = scale * P, (CELLS // scale) ** 2
    tokens = torch.randn(1, n, WIDTH).to(dtype)
    weight = (torch.randn(CHANNELS, side, side, WIDTH) / WIDTH**0.5).to(dtype)
    bias = torch.randn(CHANNELS, side, side).to(dtype)
    lora_a = torch.randn(RANK, WIDTH).to(dtype)
    lora_b = torch.randn(CHANNELS, side, side, RANK).to(dtype)
    matrix, flat_bias, grid = weight.flatten(0, 2), bias.flatten(), [1, CELLS, CELLS]
    return interleaved(
        {
            "F.linear alone": lambda: F.linear(tokens, matrix, flat_bias),
            "patch_deembed": lambda: ddit_ext.ops.patch_deembed(tokens, weight, bias, scale=scale, grid=grid),
            "patch_deembed with LoRA": lambda: ddit_ext.ops.patch_deembed(
                tokens, weight, bias, lora_a, lora_b, 0.5, scale, grid
            ),
        },
        rounds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--json", help="also write the results there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dtype = getattr(torch, options.dtype)
    results = {}
    with torch.inference_mode():
        for case in (embed_case, deembed_case):
            for scale in (1, 2, 4):
                title = f"{case.__name__.removesuffix('_case')}, scale {scale}, {options.dtype}"
                results[title] = case(scale, dtype, options.rounds)
                show(title, results[title])
    if options.json:
        write_json(options.json, results)


if __name__ == "__main__":
    main()
