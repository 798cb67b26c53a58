"""Picks thresholds and controls for a target speed from score traces at p and the measured cost of each size.

A stand-in for a calibration, kept to what the benchmark needs: one threshold for both coarse sizes.
"""

from __future__ import annotations

import math

import numpy as np

Traces = np.ndarray  # [batch, step, scale]; the largest score of the batch, nan where there was none


def traces_of(reports: list[dict]) -> Traces:
    """Worst score of each batch (the finest sample decides), by step and scale."""
    scales = len(next(step["scores"] for step in reports[0]["steps"] if step["scores"])[0])
    return np.array(
        [
            [
                np.max(step["scores"], axis=0) if step["scores"] else [np.nan] * scales
                for step in report["steps"]
            ]
            for report in reports
        ],
        float,
    )


def decide(traces: Traces, scales: tuple[int, ...], threshold: float) -> np.ndarray:
    """The scale each step of each batch would take: int ``[batch, step]``."""
    chosen = np.ones(traces.shape[:2], int)
    for index, scale in enumerate(scales):
        if scale > 1:
            chosen = np.where(traces[:, :, index] < threshold, scale, chosen)
    return chosen


def cost(chosen: np.ndarray, seconds: dict[int, float]) -> float:
    """Mean seconds of a run whose steps take the ``chosen`` scales."""
    return float(np.vectorize(seconds.__getitem__)(chosen).sum(axis=1).mean())


def threshold_for(
    traces: Traces, scales: tuple[int, ...], seconds: dict[int, float], target: float
) -> tuple[float, float]:
    """Threshold whose decisions on the traces come nearest to ``target`` times the speed of p, and that speed."""
    steps = traces.shape[1]
    low, high = math.log(np.nanmin(traces)) - 1, math.log(np.nanmax(traces)) + 1
    for _ in range(60):
        middle = (low + high) / 2
        speed = steps * seconds[1] / cost(decide(traces, scales, math.exp(middle)), seconds)
        low, high = (middle, high) if speed < target else (low, middle)
    threshold = math.exp(high)
    return threshold, steps * seconds[1] / cost(decide(traces, scales, threshold), seconds)


def coarse_first(steps: int, seconds: dict[int, float], target: float, mix: dict[int, float]) -> list[int]:
    """A fixed schedule, coarsest first, with the sizes of ``mix`` in its proportions, as fast as ``target`` times p."""
    shares = {scale: share for scale, share in mix.items() if scale > 1 and share > 0} or {2: 1.0}
    total = sum(shares.values())
    saved = sum(share / total * (seconds[1] - seconds[scale]) for scale, share in shares.items())
    count = min(steps, round(steps * seconds[1] * (1 - 1 / target) / saved))
    schedule: list[int] = []
    for scale in sorted(shares, reverse=True):
        schedule += [scale] * round(count * shares[scale] / total)
    schedule = schedule[:count] + [min(shares)] * (count - len(schedule))
    return schedule + [1] * (steps - count)
