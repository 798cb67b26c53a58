"""Checks of what patch() takes and a policy of a user's own may bring; `name` is what an error calls it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any


def number(name: str, value: Any) -> None:
    """TypeError, ValueError unless it is a number, infinite ones included."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if math.isnan(value):
        raise ValueError(f"{name} must be a number, got NaN")


def share(name: str, value: Any) -> None:
    """TypeError, ValueError unless it is a number in [0, 1]."""
    number(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value!r}")


def whole(value: Any) -> bool:
    """Whether it is a whole number, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def sizes(name: str, scales: Any) -> tuple[int, ...]:
    """Distinct ascending whole numbers that begin with 1."""
    expected = f"{name} must be distinct ascending whole numbers that begin with 1, such as (1, 2, 4)"
    if not isinstance(scales, Sequence) or isinstance(scales, str | bytes) or not scales:
        raise TypeError(f"{expected}; got {scales!r}")
    if not all(map(whole, scales)):
        raise TypeError(f"{expected}; got {scales!r}")
    checked = tuple(int(scale) for scale in scales)
    if checked[0] != 1 or list(checked) != sorted(set(checked)):
        raise ValueError(f"{expected}; got {scales!r}")
    return checked


def thresholds(name: str, threshold: Any, count: int) -> tuple[float, ...]:
    """One number for all `count` scales above 1, or one each."""
    if isinstance(threshold, Sequence) and not isinstance(threshold, str | bytes):
        if len(threshold) != count:
            raise ValueError(
                f"{name} must be one number, or {count}: one per scale above 1; got {len(threshold)}"
            )
        numbers = list(threshold)
    else:
        numbers = [threshold] * count
    for value in numbers:
        number(name, value)
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value!r}")
    return tuple(float(value) for value in numbers)


def protected(name: str, protect: Any) -> tuple[int, int]:
    """Steps at the beginning and at the end."""
    pair = isinstance(protect, Sequence) and len(protect) == 2
    if not pair or not all(whole(n) and n >= 0 for n in protect):
        raise ValueError(f"{name} must be two whole numbers (first, last), not negative; got {protect!r}")
    return int(protect[0]), int(protect[1])
