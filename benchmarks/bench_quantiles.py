"""acceleration_quantiles on real latent sizes, against a copy of the four latents and against plain PyTorch.

    python benchmarks/bench_quantiles.py [--rounds 30] [--threads 2] [--dtypes float32] [--json FILE]

Candidates take turns. Speedups are given twice: the median over the rounds, and from each candidate's fastest
round, which a busy machine disturbs less. "Eager" is the faster of two ways to write the signal with the
functions of PyTorch; a third, pooled one, which loses the deviation where the mean is large, is told apart.
"""

import argparse

import torch
import torch.nn.functional as F
from _timing import interleaved, show, write_json

import ddit_ext

QUANTILE = 0.4
SIZES = {  # C, F, H, W
    "image 1024 x 1024": (16, 1, 128, 128),
    "video 832 x 480, 81 frames": (16, 21, 60, 104),
    "video 1280 x 720, 81 frames": (16, 21, 90, 160),
}
SCALES = ([2, 4], [1, 2, 4])


def third_difference(z: list) -> torch.Tensor:
    return z[0] - 3 * z[1] + 3 * z[2] - z[3]


def quantiles_of(sigmas: list, scales: list[int]) -> torch.Tensor:
    return torch.stack([torch.quantile(sigma.flatten(1), QUANTILE, dim=1) for sigma in sigmas], 1)


def regions(delta: torch.Tensor, scale: int):
    """The whole patches and the ragged ones at the edges, as [B, F, rows, r, columns, c, C, p, p]."""
    h, w = delta.shape[2:4]
    for top, rows in ((0, h // scale * scale), (h // scale * scale, h)):
        for left, columns in ((0, w // scale * scale), (w // scale * scale, w)):
            part = delta[:, :, top:rows, left:columns]
            if part.numel():
                r, c = min(scale, rows - top), min(scale, columns - left)
                yield part.unflatten(3, (-1, c)).unflatten(2, (-1, r))


def eager_variance(z: list, scales: list[int]) -> torch.Tensor:
    """torch.var over the axes of a patch, where they lie."""
    delta, sigmas = third_difference(z), []
    for scale in scales:
        parts = [
            part.var((3, 5, 7, 8), unbiased=False).mean(-1).sqrt().flatten(1)
            for part in regions(delta, scale)
        ]
        sigmas.append(torch.cat(parts, 1))
    return quantiles_of(sigmas, scales)


def eager_gathered(z: list, scales: list[int]) -> torch.Tensor:
    """Patches copied together first, so that torch.var reads them in one piece."""
    delta, sigmas = third_difference(z), []
    for scale in scales:
        parts = [
            part.permute(0, 1, 2, 4, 6, 3, 5, 7, 8)
            .flatten(5)
            .var(-1, unbiased=False)
            .mean(-1)
            .sqrt()
            .flatten(1)
            for part in regions(delta, scale)
        ]
        sigmas.append(torch.cat(parts, 1))
    return quantiles_of(sigmas, scales)


def eager_pooled(z: list, scales: list[int]) -> torch.Tensor:
    """Pooled squares minus squared means: quick, but float32 cancels where the mean is large."""
    delta, sigmas = third_difference(z), []
    batch, frames, h, w, channels, p, _ = delta.shape
    picture = delta.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch * frames, channels, h * p, w * p)
    squares = picture * picture
    for scale in scales:
        pool = {"kernel_size": scale * p, "ceil_mode": True, "count_include_pad": False}
        variance = F.avg_pool2d(squares, **pool) - F.avg_pool2d(picture, **pool).square()
        sigmas.append(variance.clamp_min(0).mean(1).sqrt().view(batch, -1))
    return quantiles_of(sigmas, scales)


EAGER = {"variance": eager_variance, "gathered": eager_gathered, "pooled": eager_pooled}


def latents_of(size: tuple[int, ...], layout: str, dtype: torch.dtype) -> list[torch.Tensor]:
    channels, frames, height, width = size
    planar = [torch.randn(1, channels, frames, height, width).to(dtype) for _ in range(4)]
    views = [ddit_ext.cells.from_latents(z) for z in planar]
    return [z.contiguous() for z in views] if layout == "packed" else views


def case(size: tuple[int, ...], layout: str, dtype: torch.dtype, scales: list[int], rounds: int) -> dict:
    z = latents_of(size, layout, dtype)
    wide = [latent.float() for latent in z]  # what eager code has to do with 16-bit latents first
    copies = [torch.empty_like(latent) for latent in z]
    expected = ddit_ext.ops.acceleration_quantiles(*z, scales, QUANTILE)
    for function in EAGER.values():
        torch.testing.assert_close(function(wide, scales), expected, rtol=1e-3, atol=1e-6)

    def copy():
        for target, latent in zip(copies, z, strict=True):
            target.copy_(latent)

    candidates = {
        "acceleration_quantiles": lambda: ddit_ext.ops.acceleration_quantiles(*z, scales, QUANTILE),
        "copy of the four latents": copy,
    }
    for name, function in EAGER.items():
        if dtype == torch.float32:
            candidates[f"eager, {name}"] = lambda function=function: function(z, scales)
        else:
            candidates[f"eager, {name}"] = lambda function=function: function([x.float() for x in z], scales)
    timed = interleaved(candidates, rounds)
    ours, exact = timed["acceleration_quantiles"], [timed["eager, variance"], timed["eager, gathered"]]
    pooled, copied = timed["eager, pooled"], timed["copy of the four latents"]
    return {
        "timed": timed,
        "faster_than_eager": compared(exact, ours),
        "faster_than_eager_pooled": compared([pooled], ours),
        "times_the_copy": {
            "median": round(1 / copied["ratio"], 2),
            "fastest": round(ours["min_s"] / copied["min_s"], 2),
        },
    }


def compared(others: list[dict], ours: dict) -> dict:
    return {
        "median": round(min(other["ratio"] for other in others), 1),
        "fastest": round(min(other["min_s"] for other in others) / ours["min_s"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--dtypes", nargs="+", default=["float32"], choices=["float32", "bfloat16", "float16"]
    )
    parser.add_argument("--json", help="write the results to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    results = {}
    for dtype in arguments.dtypes:
        for name, size in SIZES.items():
            for layout in ("packed", "planar"):
                for scales in SCALES:
                    title = f"{name}, {layout}, {dtype}, scales {tuple(scales)}"
                    result = case(size, layout, getattr(torch, dtype), scales, arguments.rounds)
                    results[title] = result
                    show(title, result["timed"])
                    for key in ("faster_than_eager", "faster_than_eager_pooled", "times_the_copy"):
                        print(f"  {key}: {result[key]}")
    if arguments.json:
        write_json(arguments.json, results)


if __name__ == "__main__":
    main()
