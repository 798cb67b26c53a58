"""What a calibration compares pictures by, where the user says it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class Measure:
    """A user's `measure(pictures, references, prompts)`, whose answers are checked.

    Attributes:
        name: of the callable, as tables and presets have it; "measure" for a lambda.
    """

    def __init__(self, given: Callable[[np.ndarray, np.ndarray, list[str]], Any]) -> None:
        if not callable(given):
            raise TypeError(
                f"measure must be callable(pictures, references, prompts) -> one number a picture, got {given!r}"
            )
        name: str = getattr(given, "__name__", type(given).__name__)
        self.name = "measure" if name == "<lambda>" else name
        self._given = given

    def __call__(self, pictures: np.ndarray, references: np.ndarray, prompts: list[str]) -> np.ndarray:
        """float64 [n]."""
        values = np.asarray(
            self._given(_read_only(pictures), _read_only(references), prompts), dtype=np.float64
        )
        if values.shape != (len(pictures),) or not np.isfinite(values).all():
            found = f"shape {values.shape}" if values.shape != (len(pictures),) else f"{values.tolist()}"
            raise ValueError(f"measure must give {len(pictures)} finite numbers, one a picture, got {found}")
        return values


def _read_only(pictures: np.ndarray) -> np.ndarray:
    view = pictures.view()
    view.flags.writeable = False
    return view
