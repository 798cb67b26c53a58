"""The run's log: a JSON object a line, every few steps."""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

from torch import Tensor

from .._files import replace_text

LEVEL_BINS = 10


def level_bin(sigma: Tensor) -> Tensor:
    """Index of the tenth of [0, 1] that each noise level lies in."""
    return (sigma * LEVEL_BINS).long().clamp(0, LEVEL_BINS - 1)


class TrainingLog:
    """Collects relative squared errors and writes their means, by scale and by tenth of the noise level.

    A line: ``{"step", "loss", "lr", "grad_norm", "seconds", "scales": {"2": {"error", "levels": {"0.9":
    …}}}}``; a level is named by its lower end, ``error`` is ‖v_s - v_t‖² / ‖v_t‖².
    """

    def __init__(self, path: Path | None, step: int):
        self._path = path
        self._behind = False
        self.lines: list[dict[str, Any]] = []
        self._reset()
        if path is not None and path.exists():
            self._forget_after(step)

    def add(self, loss: float, scale: int, sigma: Tensor, error: Tensor) -> None:
        self._losses.append(loss)
        for level, value in zip(level_bin(sigma).tolist(), error.tolist(), strict=True):
            self._errors[scale][level].append(value)

    def write(self, step: int, **fields: float) -> dict[str, Any]:
        scales = {}
        for scale, levels in sorted(self._errors.items()):
            values = [value for level in levels.values() for value in level]
            scales[str(scale)] = {
                "error": _mean(values),
                "levels": {f"{level / LEVEL_BINS:.1f}": _mean(levels[level]) for level in sorted(levels)},
            }
        line = {"step": step, "loss": _mean(self._losses), **fields, "scales": scales}
        self.lines.append(line)
        if self._path is not None:
            self._append(self._path, line)
        self._reset()
        return line

    def _append(self, path: Path, line: dict[str, Any]) -> None:
        """A log is no reason to end a run: what could not be written is written with the next line."""
        try:
            if self._behind:
                self._rewrite(path)
            else:
                with open(path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
            self._behind = False
        except OSError as error:
            self._behind = True
            warnings.warn(f"log {path} could not be written: {error}; the run goes on", stacklevel=4)

    def _rewrite(self, path: Path) -> None:
        replace_text(path, "".join(json.dumps(line) + "\n" for line in self.lines))

    def _reset(self) -> None:
        self._losses: list[float] = []
        self._errors: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))

    def _forget_after(self, step: int) -> None:
        """Drop what a killed run wrote after the checkpoint of this one, and a torn last line."""
        kept = []
        for text in self._path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if line.get("step", 0) <= step:
                kept.append(line)
        self.lines = kept
        self._rewrite(self._path)


def _mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)
