"""The closed loop: candidates are run on one call, the promising ones on all, and what is too slow is made faster."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..fidelity import psnr
from ..presets import Candidate
from ..strategies import Budget, Fixed, Forecast, Threshold
from . import fixed, forecasts, scored
from .pictures import SHOWN, first_frames, prompts_of
from .reference import Reference
from .runner import Measured, Setting, times_faster

FIRST_COST, COST_A_CALL = 3.0, 0.75
"""What a search without coarse scales may cost beside the dense runs, in full runs: so many, and so much a call more."""

CHECKED = 4
"""Calls on which rivals of the most promising forecast, and fewer steps, are compared with it."""

FINALISTS = 2
"""So many fixed settings with coarse steps are run on every call."""

ROUNDS = 4
"""A finalist that is too slow is made faster at most so often."""

FASTER: dict[type, Callable[[Setting, Reference, float], Setting | None]] = {
    Fixed: lambda setting, reference, speed: fixed.faster(setting, reference),
    Forecast: lambda setting, reference, speed: forecasts.fewer_calls(setting),
    Budget: scored.less_time,
    Threshold: scored.larger_threshold,
}
"""By strategy: the next faster setting, where a run had only so much speed."""


class Search:
    """Everything that was tried for one target speed.

    Attributes:
        tried: a Candidate for each setting.
        runs: the run of the first call by each, without pictures.
        shown: by each, (picture, its PSNR) of the first samples.
    """

    def __init__(self, reference: Reference, scales: Sequence[int], quantile: float) -> None:
        self.reference, self.runner = reference, reference.runner
        self._scales, self._quantile = tuple(scales), quantile
        self.tried: dict[Setting, Candidate] = {}
        self.runs: dict[Setting, Measured] = {}
        self.shown: dict[Setting, list[tuple[np.ndarray, float]]] = {}
        self._pairs: dict[Setting, list[np.ndarray]] = {}  # PSNR, one array a call
        self._scores: dict[Setting, list[np.ndarray]] = {}  # the same by the user's measure
        self._speeds: dict[Setting, list[float]] = {}

    def go(self) -> list[Setting]:
        """The finalists, which were measured on every call, and their closest rivals."""
        coarse = self._coarse() if len(self._scales) > 1 else []
        ended = [setting for finalist in coarse for setting in self._final(finalist)]
        rivals = [*self._forecast(), *filter(None, [fixed.fewer_steps(self.reference)])]
        if rivals:  # on a few calls, and on all of them the closer one
            closest, *others = self._ranked(rivals, min(CHECKED, len(self.runner.calls)))
            ended += [*self._final(closest), *others]
        return ended

    def measure(self, setting: Setting, calls: int) -> Candidate:
        """The setting on the first `calls` calls; those that were run are not run again."""
        pairs, speeds = self._pairs.setdefault(setting, []), self._speeds.setdefault(setting, [])
        scores, compare = self._scores.setdefault(setting, []), self.reference.measure
        for number in range(len(pairs), calls):
            full, done = self.reference.run(number), self.runner.run(number, setting)
            pairs.append(psnr(done.pictures, full.pictures))
            if compare is not None:
                prompts = prompts_of(self.runner.calls[number], len(done.pictures))
                scores.append(compare(done.pictures, full.pictures, prompts))
            shown = self.shown.setdefault(setting, [])
            new = first_frames(done.pictures)[: SHOWN - len(shown)]
            shown += [(frame.copy(), float(value)) for frame, value in zip(new, pairs[-1], strict=False)]
            looks = (
                setting.strategy.computed_scales(setting.steps) is None
            )  # at scores, which takes time, too
            speeds.append(full.seconds / done.seconds if looks else times_faster(done, full))
            if number == 0:
                self.runs[setting] = replace(done, pictures=None)  # which take memory
        speed = statistics.median(speeds)
        candidate = Candidate(
            steps=setting.steps,
            strategy=setting.strategy,
            speed=speed,
            psnr=_mean(pairs),
            runs=len(pairs),
            reached=self.reference.reached(speed),
            score=_mean(scores) if scores else None,
        )
        self.tried[setting] = candidate
        return candidate

    def on(self, chosen: Candidate, calls: int) -> Candidate:
        """A candidate's closeness on the first `calls` of its calls alone."""
        setting = Setting(chosen.steps, chosen.strategy)
        pairs, scores = self._pairs[setting][:calls], self._scores[setting][:calls]
        return replace(chosen, psnr=_mean(pairs), score=_mean(scores) if scores else None, runs=len(pairs))

    def most_runs(self) -> int:
        """How many runs of candidates a search without coarse scales takes, if none is too slow."""
        calls = len(self.runner.calls)
        return int((FIRST_COST + COST_A_CALL * calls) * self.reference.enough + 1e-9)

    def _forecast(self) -> list[Setting]:
        """The closest forecast by runs that are worth FIRST_COST and COST_A_CALL, together with those of fewer steps."""
        found, calls = forecasts.forecasts(self.reference), len(self.runner.calls)
        if not found:
            return []
        checked = min(CHECKED, calls)
        left = self.most_runs() - checked - (calls - 1)  # those of fewer steps, and the rest of the winner's
        screened = found[: max(1, left)]
        ranked = self._ranked(screened, 1)
        left -= len(screened)
        rivals = 1 + max(0, left) // max(checked - 1, 1)
        return self._ranked(ranked[:rivals], checked if rivals > 1 else 1)[:1]

    def _ranked(self, settings: Sequence[Setting], calls: int) -> list[Setting]:
        """The closest first, on so many calls; by PSNR where a measure doesn't tell."""
        ran = {setting: self.measure(setting, calls) for setting in settings}
        return sorted(ran, key=lambda setting: (-ran[setting].closeness, -ran[setting].psnr))

    def _coarse(self) -> list[Setting]:
        """The closest fixed scales, and the closest by scores."""
        tried = self._fixed()
        finalists = tried[:FINALISTS]
        if not self.reference.few:
            best = finalists[0] if finalists else None
            settings = scored.budgets(self.reference, self._scales, self._quantile, best)
            ranked = self._by_reach(settings)
            if ranked:
                found = scored.by_threshold(self.reference, self._scales, self._quantile, ranked[0].steps)
                ranked = self._by_reach([*ranked, *([found] if found is not None else [])])
            finalists += ranked[:1]
        return finalists

    def _by_reach(self, settings: Sequence[Setting]) -> list[Setting]:
        """Those that are fast enough first, and the closest of them."""
        return sorted(self._ranked(settings, 1), key=lambda setting: not self.tried[setting].reached)

    def _fixed(self) -> list[Setting]:
        """Some numbers of steps; then other orders, other scales, a few steps more and fewer, around the best so far."""
        ranked = self._ranked(fixed.lengths(self.reference), 1)
        for variants in (fixed.orders, fixed.mixes, fixed.neighbours) if ranked else ():
            ranked = self._ranked(list(dict.fromkeys([*ranked, *variants(ranked[0], self.reference)])), 1)
        return ranked

    def _final(self, setting: Setting) -> list[Setting]:
        """A finalist on every call; where it is too slow, faster ones after it."""
        ended: list[Setting] = []
        following: Setting | None = setting
        while following is not None and len(ended) < ROUNDS:
            ended.append(following)
            candidate = self.measure(following, len(self.runner.calls))
            if candidate.reached:
                break
            following = FASTER[type(following.strategy)](following, self.reference, candidate.speed)
        return ended


def _mean(values: Sequence[np.ndarray]) -> float:
    return float(np.concatenate(values).mean())
