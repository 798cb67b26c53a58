"""Checks of values that users and files bring: each returns the value in its plain form, or raises and names it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any


def number(
    name: str, value: Any, least: float = -math.inf, most: float = math.inf, *, finite: bool = False
) -> float:
    """A float in [least, most]. TypeError for anything but a number, ValueError for NaN or one outside."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if math.isnan(value):
        raise ValueError(f"{name} must be a number, got NaN")
    if finite and math.isinf(value):
        raise ValueError(f"{name} must be finite, got {value!r}")
    if not least <= value <= most:
        if most == math.inf:
            expected = "not be negative" if least == 0 else f"be at least {least:g}"
        else:
            expected = f"be in [{least:g}, {most:g}]"
        raise ValueError(f"{name} must {expected}, got {value!r}")
    return float(value)


def numbers(name: str, values: Any, least: float = 0.0) -> tuple[float, ...]:
    """Finite floats, none below `least`."""
    return tuple(number(name, value, least, finite=True) for value in sequence(name, values))


def is_whole(value: Any) -> bool:
    """Whether it is a whole number and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole(name: str, value: Any, least: int = 1, most: float = math.inf) -> int:
    """An int of at least `least`, and at most `most`."""
    if not is_whole(value):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    if value > most:
        raise ValueError(f"{name} must be at most {most}, got {value!r}")
    return int(value)


def is_sequence(value: Any) -> bool:
    """Whether it holds values in an order: a list, a tuple, an array of one dimension."""
    if hasattr(value, "tolist"):
        return getattr(value, "ndim", 0) == 1
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def sequence(name: str, value: Any) -> Iterable[Any]:
    """The values of a list, tuple or array."""
    if not is_sequence(value):
        raise TypeError(f"{name} must be a sequence, got {value!r}")
    return value.tolist() if hasattr(value, "tolist") else value


def scales(name: str, value: Any) -> tuple[int, ...]:
    """Distinct ascending whole numbers that begin with 1."""
    expected = f"{name} must be distinct ascending whole numbers that begin with 1, such as (1, 2, 4)"
    if not is_sequence(value) or not len(value):
        raise TypeError(f"{expected}; got {value!r}")
    found = list(sequence(name, value))
    if not all(map(is_whole, found)):
        raise TypeError(f"{expected}; got {value!r}")
    checked = tuple(int(scale) for scale in found)
    if checked[0] != 1 or list(checked) != sorted(set(checked)):
        raise ValueError(f"{expected}; got {value!r}")
    return checked


def thresholds(name: str, value: Any, count: int) -> tuple[float, ...]:
    """One number for all `count` scales above 1, or one for each."""
    if not is_sequence(value):
        return (number(name, value, 0.0),) * count
    found = list(sequence(name, value))
    if len(found) != count:
        raise ValueError(f"{name} must be one number, or {count}: one per scale above 1; got {len(found)}")
    return tuple(number(name, each, 0.0) for each in found)


def protected(name: str, value: Any) -> tuple[int, int]:
    """Steps at the beginning and at the end of a run."""
    found = list(sequence(name, value)) if is_sequence(value) else []
    if len(found) != 2 or not all(is_whole(count) and count >= 0 for count in found):
        raise ValueError(f"{name} must be two whole numbers (first, last), not negative; got {value!r}")
    return int(found[0]), int(found[1])


def one_of(name: str, value: Any, allowed: Sequence[Any]) -> Any:
    """One of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {tuple(allowed)}, got {value!r}")
    return value


def scale(name: str, value: Any, scales: Sequence[int], skips: bool = False) -> int:
    """One of `scales`, or 0 where steps may be skipped."""
    if not is_whole(value) or (int(value) not in scales and not (skips and value == 0)):
        skip = ", or 0 to skip the step" if skips else ""
        fix = "; to skip steps, give the policy skips = True" if value == 0 and not skips else ""
        raise ValueError(f"{name}: expected one of the scales {tuple(scales)}{skip}, got {value!r}{fix}")
    return int(value)


def nearest(given: Any, known: Iterable[Any]) -> str | None:
    """The name that was probably meant; None where none is near."""
    near = difflib.get_close_matches(str(given), [str(name) for name in known], 1)
    return near[0] if near else None


def keywords(owner: str, given: Iterable[str], known: Sequence[str]) -> None:
    """TypeError for a keyword that `owner` does not have, with the one that was meant."""
    for name in given:
        if name not in known:
            near = nearest(name, known)
            meant = f"did you mean {near!r}?" if near else f"it has {', '.join(known)}"
            raise TypeError(f"{owner} got an unexpected keyword argument {name!r}; {meant}")
