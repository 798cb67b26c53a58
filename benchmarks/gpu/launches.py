"""Six launches for `ncu`: python3 -m gpu.launches in benchmarks/. All else that it runs is torch's own."""

from __future__ import annotations

import torch

import ddit_ext

from .shapes import QUANTILE, SCALES, SHAPES, deembed_arguments, embed_arguments

KERNELS = "regex:move_patches|scale_patches|acceleration_quantiles"
LAUNCHES = 6


def calls() -> list:
    """Two sizes of gathering, two of scattering, two of the quantiles."""
    like = (torch.bfloat16, "cuda")
    flux, wan = SHAPES[0], SHAPES[1]
    made = []
    for shape, scale in ((flux, 2), (wan, 4)):
        bare = {"lora_a": None, "lora_b": None}
        embed = embed_arguments(shape, 1, scale, *like) | bare
        deembed = deembed_arguments(shape, 1, scale, *like) | bare
        z = [shape.latents(1, torch.float32, "cuda") for _ in range(4)]
        made += [
            lambda a=embed: ddit_ext.ops.patch_embed(**a),
            lambda a=deembed: ddit_ext.ops.patch_deembed(**a),
            lambda z=z: ddit_ext.ops.acceleration_quantiles(*z, list(SCALES), QUANTILE),
        ]
    return made


if __name__ == "__main__":
    with torch.no_grad():
        for call in calls():
            call()
    torch.cuda.synchronize()
