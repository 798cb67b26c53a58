"""Preset files of formats 1 to 4 as data of format 5, in which a strategy stands where a "choice" stood.

Format 4 is 0.1.0's. Those before it were written for a day; what reads them apart from it is the corrector's default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

BOTH_ENDS = 5 / 7
"""The share of a forecast's full-size computed steps that came before its coarse ones."""


def upgraded(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data of format 5; KeyError, TypeError or ValueError for what no such file holds."""
    scales, quantile = data["scales"], data["quantile"]
    kept = {name: value for name, value in data.items() if name not in ("choice", "scales", "quantile")}
    candidates = data["candidates"]
    if not isinstance(candidates, list):
        raise TypeError(f"candidates must be list, got {type(candidates).__name__}")
    return kept | {
        "target": "run",
        "strategy": _strategy(data["choice"], scales, quantile),
        "candidates": [
            {name: value for name, value in entry.items() if name not in ("choice", "predicted_speed")}
            | {"steps": entry["choice"]["steps"], "strategy": _strategy(entry["choice"], scales, quantile)}
            for entry in candidates
        ],
    }


def _strategy(choice: Mapping[str, Any], scales: Sequence[int], quantile: float) -> dict[str, Any]:
    steps, kind, settings = choice["steps"], choice["kind"], choice["settings"]
    if kind in ("coarse_first", "fine_ends"):
        coarse = settings["first"] if kind == "coarse_first" else settings["coarse"]
        return _fixed(_sizes(steps, settings.get("before", 0), coarse))
    if kind == "thresholds":
        return {
            "strategy": "Threshold",
            "threshold": settings["thresholds"],
            "scales": scales,
            "quantile": quantile,
            "protect": [0, 1],
            "warmup_scale": settings["warmup_scale"],
            "only_finer": True,
            "mixed": "hold",
        }
    if kind == "budget":
        return {
            "strategy": "Budget",
            "speedup": settings["target"],
            "scales": scales,
            "quantile": quantile,
            "costs": settings["costs"],
            "reference": settings["reference"],
        }
    if kind == "skips":
        return {
            "strategy": "TeaCache",
            "threshold": settings["threshold"],
            "coefficients": settings["coefficients"],
            "protect": [settings["protect_first"], settings["protect_last"]],
        }
    if kind == "forecasts":
        computed, coarse = settings["computed"], settings["coarse"]
        full = computed - sum(count for _, count in coarse)
        before = max(1, min(round(BOTH_ENDS * full), full - 1))
        return {
            "strategy": "Forecast",
            "calls": computed,
            "growth": settings["growth"],
            "slope": settings["forecast"],
            "corrector": settings.get("corrector", 0.0),
            "sizes": _fixed(_sizes(computed, before, coarse)) if coarse else None,
        }
    raise ValueError(f"kind must be one of an older format's, got {kind!r}")


def _fixed(sizes: list[int]) -> dict[str, Any]:
    if set(sizes) == {1}:
        return {"strategy": "Fixed", "sizes": 1}
    return {"strategy": "Fixed", "sizes": sizes, "stretch": True}


def _sizes(steps: int, before: int, coarse: Sequence[Sequence[int]]) -> list[int]:
    """So many full-size steps, those of `coarse` ([[scale, count], ...]), and full-size ones again."""
    sizes = [1] * before + [scale for scale, count in coarse for _ in range(count)]
    if len(sizes) > steps:
        raise ValueError(f"choice: expected at most {steps} steps, got {len(sizes)}")
    return sizes + [1] * (steps - len(sizes))
