"""Runs of a cached pipeline at given sizes made by hand: a transformer of its own for every stay at a size.

Nothing is shared between the stays, so nothing of one size can be seen at another, and each begins with a full pass.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, groupby
from typing import Any

import flux_pipelines
import torch
import wan_pipelines
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from diffusers.hooks import SeaCacheConfig

from ddit_ext.coarse import Adapter
from ddit_ext.families import family_for
from ddit_ext.modules.swap import Changes

SIZES = [1] * 4 + [2] * 3 + [4] * 3 + [1] * 3
"""Stays of at least three steps, so that a cache has something to use again."""

RATIOS = [1.0, 0.9, 1.05, 0.98, 0.8, 1.01, 1.0, 0.97, 1.02, 0.99, 1.0, 0.96, 1.0]


def everywhere() -> int:
    """A timestep within all ranges below."""
    return 500


def first_block(begin: int = 0, now: Callable[[], int] = everywhere) -> FirstBlockCacheConfig:
    return FirstBlockCacheConfig(threshold=2.0)


def taylor(begin: int = 0, now: Callable[[], int] = everywhere) -> TaylorSeerCacheConfig:
    """Two warm-up steps in the run; a stay begins with one. All stays of SIZES begin alike in the interval of 3."""
    return TaylorSeerCacheConfig(
        cache_interval=3,
        disable_cache_before_step=2 if begin == 0 else 1,
        taylor_factors_dtype=torch.float32,
        cache_identifiers=[r".*blocks\.\d+\.attn\d?"],
    )


def mag(begin: int = 0, now: Callable[[], int] = everywhere) -> MagCacheConfig:
    """The ratios of the steps of the run; steps 0 to 4 are not skipped."""
    left = len(SIZES) - begin
    retained = max(0, 5 - begin)
    return MagCacheConfig(
        mag_ratios=RATIOS[begin:], num_inference_steps=left, retention_ratio=retained / left, threshold=0.3
    )


def pyramid(begin: int = 0, now: Callable[[], int] = everywhere) -> PyramidAttentionBroadcastConfig:
    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(100, 800),
        current_timestep_callback=now,
    )


def faster(begin: int = 0, now: Callable[[], int] = everywhere) -> FasterCacheConfig:
    return FasterCacheConfig(
        is_guidance_distilled=True,
        spatial_attention_timestep_skip_range=(100, 800),
        attention_weight_callback=lambda module: 0.5,
        current_timestep_callback=now,
    )


def sea(begin: int = 0, now: Callable[[], int] = everywhere) -> SeaCacheConfig:
    return SeaCacheConfig(threshold=5.0, retention_steps=0, cache_end_steps=0)


CONFIGS = {
    "first_block": first_block,
    "taylor": taylor,
    "mag": mag,
    "pyramid": pyramid,
    "faster": faster,
    "sea": sea,
}
SHARE_ONE_STATE = ("pyramid", "faster")
"""One state of these serves the branches of guidance, in a call at size 1 as diffusers has it."""


def make(family: str) -> Any:
    """A pipeline with enough blocks for every cache."""
    if family == "flux":
        return flux_pipelines.make_pipeline(num_layers=2, num_single_layers=2)
    return wan_pipelines.make_pipeline(num_layers=3)


def arguments(family: str, guided: bool, steps: int = len(SIZES)) -> dict[str, Any]:
    if family == "flux":
        return flux_pipelines.make_call(steps=steps, true_cfg=guided)
    return wan_pipelines.make_call(rows=4, columns=5, steps=steps, guidance=3.0 if guided else 1.0)


def run(family: str, pipe: Any, call: dict[str, Any], clock: Clock | None = None) -> torch.Tensor:
    if clock is not None:
        clock.outside = True
    return (flux_pipelines if family == "flux" else wan_pipelines).run(pipe, call)


class Clock:
    """A timestep as caches ask for it: within their ranges, but not at first, where FasterCache has nothing to use."""

    def __init__(self) -> None:
        self.outside = True

    def __call__(self) -> int:
        return 900 if self.outside else 500

    def watch(self, transformer: torch.nn.Module) -> None:
        """From the next call of the transformer on within the ranges."""

        def entered(module: Any, args: Any, output: Any) -> None:
            self.outside = False

        transformer.register_forward_hook(entered)


def enable(family: str, cache: str) -> tuple[Any, Clock]:
    """A pipeline with a cache; the clock is to be set outside before each run."""
    pipe, clock = make(family), Clock()
    pipe.transformer.enable_cache(CONFIGS[cache](0, clock))
    clock.watch(pipe.transformer)
    return pipe, clock


def by_hand(family: str, cache: str, call: dict[str, Any], sizes: list[int], guided: bool) -> torch.Tensor:
    """What a patched and cached run with these sizes has to end with."""
    pipe = make(family)
    branches = ("cond", "uncond") if guided else ("cond",)
    stays = [len(list(group)) for _, group in groupby(sizes)]
    begins = [0, *accumulate(stays)][:-1]
    copies: dict[tuple[int, str], tuple[Any, Clock]] = {}
    calls = 0

    def forward(**kwargs: Any) -> Any:
        nonlocal calls
        step, branch = calls // len(branches), branches[calls % len(branches)]
        calls += 1
        begin = max(place for place in begins if place <= step)
        scale = sizes[step]
        apart = branch if cache in SHARE_ONE_STATE and scale > 1 else ""
        if (begin, apart) not in copies:
            clock = Clock()
            transformer = make(family).transformer
            transformer.enable_cache(CONFIGS[cache](begin, clock))
            copies[begin, apart] = transformer, clock
        transformer, clock = copies[begin, apart]
        clock.outside = step == begin and (branch == "cond" or scale > 1)
        coordinates = dict(
            step_index=step, sigma=float(pipe.scheduler.sigmas[step]), num_inference_steps=len(sizes)
        )
        with transformer.cache_context(branch, **coordinates):
            if scale == 1:
                return transformer(**kwargs)
            known = family_for(transformer)
            weights = Adapter.training_free(transformer, (scale,)).weights(scale, kwargs["hidden_states"])
            sigma = known.noise_level(kwargs, float(pipe.scheduler.sigmas[step]))
            changes = Changes()
            try:
                return transformer(**known.enter_coarse(changes, kwargs, weights, sigma))
            finally:
                changes.undo()

    pipe.transformer.forward = forward
    return run(family, pipe, call)
