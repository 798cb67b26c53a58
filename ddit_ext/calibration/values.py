"""Checks of plain values that a preset's file may bring; ValueError or TypeError names the value."""

from __future__ import annotations

import math
from typing import Any


def within(name: str, value: Any, least: float, most: float) -> float:
    (number,) = numbers(name, [value], least=least)
    if number > most:
        raise ValueError(f"{name} must be in {[least, most]}, got {value!r}")
    return number


def pairs(first: Any) -> list[tuple[int, int]]:
    for pair in first:
        if len(pair) != 2:
            raise ValueError(f"first must hold pairs [scale, steps], got {pair!r}")
    return [(whole("scale", scale), whole("steps", count)) for scale, count in first]


def whole(name: str, value: Any, least: int = 1) -> int:
    if type(value) is not int or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return value


def numbers(name: str, values: Any, least: float = 0) -> list[float]:
    for value in values:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or value < least
        ):
            raise ValueError(f"{name} must hold numbers of at least {least:g}, got {value!r}")
    return [float(value) for value in values]
