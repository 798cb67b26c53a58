"""Forecasts that are worth a run: the one that needs no table, and others around it."""

from __future__ import annotations

import math
from dataclasses import replace

from ..strategies import Fixed, Forecast
from .reference import Reference
from .runner import Setting

VARIANTS = (
    {"growth": 1.5},
    {"growth": 2.0},
    {"slope": 0.5},
    {"slope": 1.0},
    {"growth": 1.25},
    {"slope": 0.25},
    {"slope": 0.5, "corrector": 0.5},
    {"growth": 1.5, "slope": 0.5},
    {"slope": 0.0},
    {"growth": 2.0, "slope": 0.5},
    {"slope": 0.5, "corrector": 0.0},
    {"slope": 0.75},
)
"""What is given in the place of a default, the more promising first."""

FEWEST = 2
"""A forecast is a line, which needs two computed steps."""


def forecasts(reference: Reference) -> list[Setting]:
    """Forecasts of as many calls as the time allows, the default first; none on a model of few steps.

    By PSNR coarse calls seldom win, so variants come before all of those but one; a measure may well prefer them.
    """
    calls = math.floor(reference.steps / reference.enough + 1e-9)
    if reference.few or not FEWEST <= calls < reference.steps:
        return []
    default = Forecast(calls=calls, target=reference.target)
    coarse = _coarse_first(default, reference)
    early = 1 if reference.measure is None else len(coarse)
    variants = [replace(default, **given) for given in VARIANTS]
    found = [default, *coarse[:early], *variants, *coarse[early:]]
    return [Setting(reference.steps, strategy) for strategy in found]


def fewer_calls(setting: Setting) -> Setting | None:
    """A call less; None where two are left, or coarse ones among them."""
    forecast = setting.strategy
    if forecast.calls <= FEWEST or forecast.sizes is not None:
        return None
    return Setting(setting.steps, replace(forecast, calls=forecast.calls - 1))


def _coarse_first(default: Forecast, reference: Reference) -> list[Forecast]:
    """Coarse calls of one scale before the full ones: in the time that whole calls leave over, in that of one call as well,
    and so many that about half of all calls are coarse.

    They pay where few calls are left (docs/studies/coarse-calls-first.md).
    """
    time, found = reference.steps / reference.enough, {}  # in full calls
    for scale in sorted(reference.seconds)[1:]:
        cost = reference.seconds[scale] / reference.seconds[1]
        for full in (default.calls, default.calls - 1, math.floor(time / (1 + cost) + 1e-9)):
            coarse = min(math.floor((time - full) / cost + 1e-9), reference.steps - full - 1)
            if cost < 1 and full >= FEWEST and coarse + full > default.calls:
                sizes = Fixed([scale] * coarse + [1] * full, stretch=True)
                found[replace(default, calls=coarse + full, sizes=sizes)] = None
    return list(found)
