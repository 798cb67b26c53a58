"""Picks thresholds and controls for a target speed, by running: coarse steps change the scores of the steps after them.

A trial that chose thresholds from score traces at p alone reached 1.3x where 3x was asked for: a change of size makes
the third difference jump, and the next steps go back to p. A stand-in for a calibration, kept to what the benchmark
needs: one threshold for both coarse sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ddit_ext.calibration.fixed import BOTH_ENDS


def cost(chosen: list[list[int]], seconds: dict[int, float]) -> float:
    """Mean seconds of runs whose steps took the ``chosen`` scales."""
    return sum(seconds[scale] for run in chosen for scale in run) / len(chosen)


def threshold_for(
    run: Callable[[float], list[list[int]]],
    seconds: dict[int, float],
    target: float,
    bounds: tuple[float, float],
    rounds: int = 7,
    close: float = 0.0,
) -> tuple[float, float, list[list[int]]]:
    """Bisects the threshold whose runs come nearest to ``target`` times the speed of p.

    Args:
        run: threshold -> the scales that the steps of each calibration run took.
        seconds: measured seconds of one step at each scale.
        bounds: a threshold at which nothing is coarse, and one at which everything with a signal is.
        close: no further round where the speed is off by no more than this share.

    Returns:
        the threshold, the speed its runs would have by ``seconds``, and their scales.
    """
    low, high = map(math.log, bounds)
    tried = []
    for _ in range(rounds):
        threshold = math.exp((low + high) / 2)
        chosen = run(threshold)
        speed = len(chosen[0]) * seconds[1] / cost(chosen, seconds)
        tried.append((abs(speed - target), threshold, speed, chosen))
        if abs(speed / target - 1) <= close:
            break
        low, high = (math.log(threshold), high) if speed < target else (low, math.log(threshold))
    _, threshold, speed, chosen = min(tried, key=lambda entry: entry[0])
    return threshold, speed, chosen


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


def both_ends(steps: int, seconds: dict[int, float], target: float) -> list[int] | None:
    """A fixed schedule as fast as ``target`` times p: fine at both ends, 2p between; None where 2p does not reach it.

    Five sevenths of the fine steps come first: what was closest of all fixed orders in docs/studies/which-rule.md.
    """
    coarse = round(steps * (1 - 1 / target) / (1 - seconds[2] / seconds[1]))
    fine = steps - coarse
    if fine < 2:
        return None
    first = min(max(1, round(fine * BOTH_ENDS)), fine - 1)
    return [1] * first + [2] * coarse + [1] * (fine - first)
