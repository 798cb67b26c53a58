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
    """Forecasts of as many calls as the time allows, the default first; none on a model of few steps."""
    calls = math.floor(reference.steps / reference.enough + 1e-9)
    if reference.few or not FEWEST <= calls < reference.steps:
        return []
    default = Forecast(calls=calls, target=reference.target)
    found = [default, *_early_coarse(default, reference), *(replace(default, **given) for given in VARIANTS)]
    return [Setting(reference.steps, strategy) for strategy in found]


def fewer_calls(setting: Setting) -> Setting | None:
    """A call less; None where two are left, or coarse ones among them."""
    forecast = setting.strategy
    if forecast.calls <= FEWEST or forecast.sizes is not None:
        return None
    return Setting(setting.steps, replace(forecast, calls=forecast.calls - 1))


def _early_coarse(default: Forecast, reference: Reference) -> list[Forecast]:
    """Half of the calls given up for more of one coarse scale, which begin the run, where that gives more calls."""
    seconds, full = reference.seconds, max(FEWEST, default.calls // 2)
    found = []
    for scale in sorted(seconds):
        if scale == 1 or seconds[scale] >= seconds[1]:
            continue
        left = (reference.steps / reference.enough - full) * seconds[1]
        coarse = min(math.floor(left / seconds[scale] + 1e-9), reference.steps - full - 1)
        if coarse + full > default.calls:
            sizes = Fixed([scale] * coarse + [1] * full, stretch=True)
            found.append(replace(default, calls=coarse + full, sizes=sizes))
    return found
