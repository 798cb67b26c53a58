"""Places from recorded runs: dynamic programming over the errors of single gaps (see adaptive_places.py)."""

from __future__ import annotations

import math

import numpy as np
import torch
from _walks import STEPS, Prompts, gap_weight


class Errors:
    """Mean squares of what single gaps miss on recorded runs, [prompt], before and after the correction."""

    def __init__(self, choosing: Prompts, target: str) -> None:
        path, outputs = choosing.path(target)
        self.levels, self.target = choosing.levels, target
        self.x, self.v = path.flatten(2).double(), outputs.flatten(2).double()
        self._seen: dict[tuple, np.ndarray] = {}

    def _missing(self, i: int, e: int) -> torch.Tensor:
        return (self.levels[e] - self.levels[i]) * self.v[i] - (self.x[e] - self.x[i])

    def before(self, p: int, i: int, e: int, slope: float) -> np.ndarray:
        if ("before", p, i, e) not in self._seen:
            off = self._missing(i, e)
            if p < i:
                share = slope * ((self.levels[e] / self.levels[i]) ** 2 if self.target == "exact" else 1.0)
                weight = gap_weight(self.levels, i, e, self.target)
                off = off + share * weight * (self.v[i] - self.v[p]) / (self.levels[i] - self.levels[p])
            self._seen["before", p, i, e] = off.square().mean(-1).numpy()
        return self._seen["before", p, i, e]

    def after(self, i: int, e: int) -> np.ndarray:
        if ("after", i, e) not in self._seen:
            weight = gap_weight(self.levels, i, e, self.target)
            off = self._missing(i, e) + weight * (self.v[e] - self.v[i]) / (self.levels[e] - self.levels[i])
            self._seen["after", i, e] = off.square().mean(-1).numpy()
        return self._seen["after", i, e]

    def best(
        self, calls: int, slope: float, kappa: float, beta: int, prompts: list[int], longest: int = 12
    ) -> list[int]:
        """The places whose gaps miss least in sum.

        kappa: weight of what is missed before the correction. beta: what is missed at a noise level counts by this power
        of it, since early errors grow.
        """

        def cost(p: int, i: int, e: int) -> float:
            missed = self.before(p, i, e, slope)[prompts].mean()
            if e < STEPS:
                missed = kappa * missed + self.after(i, e)[prompts].mean()
            return missed * self.levels[i] ** (2 * beta)

        best = {(0, 0): (0.0, [0])}
        for _ in range(calls - 1):
            new: dict[tuple[int, int], tuple[float, list[int]]] = {}
            for (p, i), (sum_, places) in best.items():
                for e in range(i + 1, min(STEPS, i + longest + 1)):
                    here = sum_ + cost(p, i, e)
                    if here < new.get((i, e), (math.inf,))[0]:
                        new[i, e] = (here, [*places, e])
            best = new
        ends = [
            (sum_ + cost(p, i, STEPS), places)
            for (p, i), (sum_, places) in best.items()
            if STEPS - i <= longest
        ]
        return min(ends)[1]
