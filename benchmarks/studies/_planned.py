"""Schedules of a study: a ramp from large patches to small ones, and the same steps shuffled."""

import random
from collections.abc import Sequence


def coarse_share(costs: Sequence[float], target_speedup: float) -> float:
    """The share of coarse steps, each scale as often as the other, at which a run is so fast.

    costs: of a step at each scale above 1, in full-size steps.
    """
    mean = sum(costs) / len(costs)
    if not (1 <= target_speedup <= 1 / mean):
        raise ValueError(f"target_speedup must be in [1, {1 / mean:.3g}], got {target_speedup:g}")
    return (1 - 1 / target_speedup) / (1 - mean)


def linear_ramp(scales: Sequence[int], share: float, steps: int) -> list[int]:
    """`share` of the steps are coarse, in equal stretches from the largest scale down, then scale 1."""
    coarse, kinds = round(share * steps), len(scales) - 1
    return [scales[kinds - step * kinds // coarse] if step < coarse else scales[0] for step in range(steps)]


def shuffled(sizes: Sequence[int], seed: int) -> list[int]:
    """The same steps in an order drawn from `seed`."""
    order = list(sizes)
    random.Random(seed).shuffle(order)
    return order
