"""Rules that say where a run's next call lies, and the signals that they follow (see adaptive_places.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from _walks import STEPS, Place, Prompts, Walk, rms


def third(walk: Walk, end: int) -> float:
    """The error of a second-order step from the last call to `end`."""
    at = [walk.levels[place] for place in walk.places[-3:]]
    v = walk.outputs[-3:]
    bend = ((v[2] - v[1]) / (at[2] - at[1]) - (v[1] - v[0]) / (at[1] - at[0])) / (at[2] - at[0])
    gap, before = walk.levels[end] - at[2], at[2] - at[1]
    return rms(bend) * abs(gap**3 / 3 + gap**2 * before / 2)


def missed(walk: Walk, end: int) -> float:
    """What a slope as wrong as the last one is worth from the last call to `end`."""
    return walk.missed * (walk.levels[end] - walk.levels[walk.places[-1]]) ** 2 / 2


SIGNALS = {"third": (third, 3), "missed": (missed, 2)}


def fixed(places: Sequence[int]) -> Place:
    ends = [*places[1:], STEPS]
    return lambda walk: ends[len(walk.places) - 1]


def free(opening: Sequence[int], signal: Callable[[Walk, int], float], tolerance: float) -> Place:
    """After the opening, the longest gap whose signal is within the tolerance."""

    def place(walk: Walk) -> int:
        if len(walk.places) < len(opening):
            return opening[len(walk.places)]
        end = walk.level + 1
        while end < STEPS and signal(walk, end + 1) <= tolerance:
            end += 1
        return end

    return place


def stretched(
    places: Sequence[int], signal: Callable[[Walk, int], float], power: int, usual: Sequence[float]
) -> Place:
    """The fixed gaps, changed by how the signal compares with its usual value at that call; the rest is spread anew."""
    ends = [*places, STEPS]

    def place(walk: Walk) -> int:
        k = len(walk.places) - 1
        if k + 1 == len(places):
            return STEPS
        if k < 2:
            return ends[k + 1]
        planned = (ends[k + 1] - ends[k]) * (STEPS - walk.level) / (STEPS - ends[k])
        seen = signal(walk, min(STEPS, walk.level + max(1, round(planned))))
        change = (usual[k] / max(seen, 1e-12)) ** (1 / power)
        end = walk.level + max(1, round(planned * min(max(change, 0.5), 2.0)))
        return min(end, STEPS - (len(places) - 1 - k))  # the calls to come need a level each

    return place


def usual_signals(walks: list[Walk], signal: Callable[[Walk, int], float]) -> list[float]:
    """At each call of finished runs at fixed places, the geometric mean over prompts of the signal for the gap after it."""
    found = [float("nan")] * 2
    for k in range(2, len(walks[0].places)):
        seen = []
        for walk in walks:
            past = _Past(walk, k + 1)
            seen.append(math.log(max(signal(past, [*walk.places, STEPS][k + 1]), 1e-12)))
        found.append(math.exp(float(np.mean(seen))))
    return found


class _Past:
    """A finished run as it was after so many calls."""

    def __init__(self, walk: Walk, calls: int) -> None:
        self.levels, self.places, self.outputs = walk.levels, walk.places[:calls], walk.outputs[:calls]
        i, e = self.places[-2:]
        d = (self.outputs[-1] - self.outputs[-2]) / (walk.levels[e] - walk.levels[i])
        share = walk.slope * ((walk.levels[e] / walk.levels[i]) ** 2 if walk.target == "exact" else 1.0)
        if calls > 2:
            h, v = walk.levels[i] - walk.levels[self.places[-3]], self.outputs[-2] - self.outputs[-3]
            d = d - share * v / h
        self.missed = rms(d)


def tuned(
    choosing: Prompts, opening: Sequence[int], signal: Any, calls: int, target: str, first: float
) -> float:
    """The tolerance at which the mean number of calls is near `calls`: a secant over its logarithm, three runs of 8 prompts."""
    at, found = math.log(first), []
    for _ in range(3):
        tolerance = math.exp(at)
        walks = choosing.walked(lambda _, t=tolerance: free(opening, signal, t), calls, target, only=1)
        found.append((at, float(np.mean([len(walk.places) for walk in walks]))))
        print(f"    tolerance {tolerance:.3g}: {found[-1][1]:.2f} calls", flush=True)
        slope = -calls / 3
        if len(found) > 1 and found[-1][0] != found[-2][0]:
            slope = (found[-1][1] - found[-2][1]) / (found[-1][0] - found[-2][0])
        at += min(max((calls - found[-1][1]) / min(slope, -0.5), -2.0), 2.0)
    return math.exp(min(found, key=lambda each: abs(each[1] - calls))[0])
