"""Strategies: what `ddit_ext.patch(pipe, schedule=...)` takes. Frozen data with their own checks.

    Forecast    fewer model calls: some steps are computed, the others forecast
    Threshold   the paper's rule: larger patches where scores are below thresholds
    Budget      larger patches for a given speed
    TeaCache    skips steps while the model's input hardly changes
    Fixed       a scale, or a list of one scale a step

`start()` of a strategy makes the policy that decides during one run. `Policy` is the base for one of your own.
"""

from typing import Any

from .base import DEFAULT_QUANTILE, DEFAULT_SCALES, Policy, Strategy
from .budget import Budget
from .clock import StepTimes
from .convert import as_strategy
from .fixed import SKIP, Fixed
from .forecast import Forecast
from .tea_cache import TeaCache
from .threshold import Threshold

__all__ = [
    "DEFAULT_QUANTILE",
    "DEFAULT_SCALES",
    "SKIP",
    "Budget",
    "Fixed",
    "Forecast",
    "Policy",
    "StepTimes",
    "Strategy",
    "TeaCache",
    "Threshold",
    "as_strategy",
    "from_dict",
]

_KNOWN = {kind.__name__: kind for kind in (Budget, Fixed, Forecast, TeaCache, Threshold)}


def from_dict(data: Any) -> Strategy:
    """The strategy of `Strategy.to_dict()`'s data; TypeError or ValueError, by name, for anything else."""
    if not isinstance(data, dict) or data.get("strategy") not in _KNOWN:
        found = data.get("strategy") if isinstance(data, dict) else data
        raise ValueError(f"strategy must be one of {tuple(_KNOWN)}, got {found!r}")
    settings = {name: value for name, value in data.items() if name != "strategy"}
    if isinstance(settings.get("sizes"), dict):
        settings["sizes"] = from_dict(settings["sizes"])
    return _KNOWN[data["strategy"]](**settings)
