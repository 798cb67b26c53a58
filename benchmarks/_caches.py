"""diffusers' caches at a few settings each, from careful to bold, as factories for `Method.cache`."""

from __future__ import annotations

import ast
import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
from _runs import Batch, Method, run
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)

Factory = Callable[[Any], Any]


def magnitude_ratios(pipe: Any, made: list[Batch], steps: int) -> list[float]:
    """MagCache's ratios of this model: the mean over batches of what its calibration prints at the end of a run."""
    found = []
    for batch in made:
        printed = io.StringIO()
        with redirect_stdout(printed):
            measuring = MagCacheConfig(calibrate=True, num_inference_steps=steps)
            run(
                pipe, batch, Method("MagCache's calibration", steps, cache=lambda _, config=measuring: config)
            )
        lists = [
            line for line in printed.getvalue().splitlines() if line.startswith("[") and line.endswith("]")
        ]
        ratios = [ast.literal_eval(line) for line in lists if line[1:2].isdigit()]
        if len(ratios) != 1 or len(ratios[0]) != steps:
            raise RuntimeError(
                f"MagCache's calibration: expected {steps} printed ratios, got {printed.getvalue()!r}"
            )
        found.append(ratios[0])
    return np.mean(found, axis=0).tolist()


def first_block(threshold: float) -> Factory:
    """Skips all blocks but the first while that one's output changes by less than the threshold."""
    return lambda pipe: FirstBlockCacheConfig(threshold=threshold)


def mag(ratios: Sequence[float], threshold: float, skips: int, retained: float) -> Factory:
    """Skips all blocks while the ratios' accumulated error is below the threshold, at most `skips` steps in a row."""
    return lambda pipe: MagCacheConfig(
        threshold=threshold,
        max_skip_steps=skips,
        retention_ratio=retained,
        num_inference_steps=len(ratios),
        mag_ratios=list(ratios),
    )


def taylor(interval: int) -> Factory:
    """Predicts what the last block returns, and skips the others, between full steps `interval` apart.

    Like its lite mode, which predicts proj_out instead: a coarse call replaces that.
    """

    def config(pipe: Any) -> TaylorSeerCacheConfig:
        last = len(pipe.transformer.single_transformer_blocks) - 1
        return TaylorSeerCacheConfig(
            cache_interval=interval,
            taylor_factors_dtype=torch.float32,
            skip_predict_identifiers=[
                r"transformer_blocks\.\d+",
                rf"single_transformer_blocks\.(?!{last}$)\d+",
            ],
            cache_identifiers=[rf"single_transformer_blocks\.{last}"],
        )

    return config


def pyramid(skips: int) -> Factory:
    """Uses each attention's output for `skips` steps, at all timesteps but the first and last."""
    return lambda pipe: PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=skips,
        spatial_attention_timestep_skip_range=(100, 950),
        current_timestep_callback=lambda: pipe.current_timestep,
    )


def faster(skips: int) -> Factory:
    """Extrapolates each attention's output from the last two for `skips` steps, from timestep 900 on."""
    return lambda pipe: FasterCacheConfig(
        spatial_attention_block_skip_range=skips,
        spatial_attention_timestep_skip_range=(-1, 900),
        attention_weight_callback=lambda module: 0.5,
        is_guidance_distilled=True,
        current_timestep_callback=lambda: pipe.current_timestep,
    )


def settings(ratios: Sequence[float]) -> dict[str, dict[str, Factory]]:
    """Cache -> setting -> factory, each from careful to bold."""
    return {
        "FirstBlockCache": {f"{t:g}": first_block(t) for t in (0.1, 0.2, 0.4)},
        "MagCache": {
            f"{t:g}, {k} in a row": mag(ratios, t, k, r)
            for t, k, r in ((0.06, 3, 0.2), (0.24, 3, 0.1), (1, 7, 0.1))
        },
        "TaylorSeer": {f"every {n}": taylor(n) for n in (2, 3, 6)},
        "PyramidAttentionBroadcast": {f"every {n}": pyramid(n) for n in (2, 5)},
        "FasterCache": {f"every {n}": faster(n) for n in (2, 5)},
    }
