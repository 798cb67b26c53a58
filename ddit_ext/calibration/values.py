"""Checks of plain values that a preset's file may bring; ValueError or TypeError names the value."""

from __future__ import annotations

import math
from typing import Any


def within(name: str, value: Any, least: float, most: float) -> float:
    checked = number(name, value, least)
    if checked > most:
        raise ValueError(f"{name} must be in {[least, most]}, got {value!r}")
    return checked


def pairs(first: Any) -> list[tuple[int, int]]:
    for pair in first:
        if len(pair) != 2:
            raise ValueError(f"first must hold pairs [scale, steps], got {pair!r}")
    return [(whole("scale", scale), whole("steps", count)) for scale, count in first]


def number(name: str, value: Any, least: float = -math.inf) -> float:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not known or value < least:
        bound = f" of at least {least:g}" if least > -math.inf else ""
        raise ValueError(f"{name} must be a number{bound}, got {value!r}")
    return float(value)


def whole(name: str, value: Any, least: int = 1) -> int:
    if type(value) is not int or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return value


def numbers(name: str, values: Any, least: float = 0) -> list[float]:
    return [number(name, value, least) for value in values]
