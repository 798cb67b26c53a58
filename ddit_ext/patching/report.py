"""What a run did: as data, as a table, as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class StepRecord:
    """One denoising step. `seconds`: from its first transformer call to the end of the sampler's step."""

    index: int
    noise_level: float
    scores: list[list[float]] | None
    scale: int
    scales: list[int]
    tokens: int
    seconds: float = 0.0


@dataclass
class RunRecord:
    """What is written down while a run goes on."""

    scales: tuple[int, ...]
    thresholds: tuple[float, ...]
    dynamic: bool
    width: int  # of a token inside the transformer
    text_tokens: int = 0  # in the blocks' self-attention
    fine_tokens: int = 0
    token_cost: float | None = None  # see Steering.block_cost; None: FLUX's 6·width
    steps: list[StepRecord] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Report:
    """The last run of a patched pipeline, as it stood when asked; `print(report)` gives a table."""

    def __init__(self, run: RunRecord | None) -> None:
        self._run = run or RunRecord((1,), (), False, 1)
        self._steps = [asdict(step) for step in self._run.steps]
        self._warnings = self._run.warnings + _remarks(self._run)

    def to_dict(self) -> dict[str, Any]:
        """Plain data:

        steps: [{index, noise_level (σ in [0, 1]), scores ([[one per scale] per sample], None where there was
        no signal), scale, scales (what each sample alone would have taken), tokens (image tokens a sample),
        seconds}]. scales, thresholds, steps_per_scale {scale: count}, seconds (all steps), dynamic, warnings.
        speedup_estimate: the transformer's arithmetic with every step at size 1 over its arithmetic as run;
        matrix products and attention alone, so an upper bound, above all for short sequences.
        """
        return {
            "steps": [dict(step) for step in self._steps],
            "speedup_estimate": self._speedup(),
            "steps_per_scale": {
                scale: sum(step["scale"] == scale for step in self._steps) for scale in self._run.scales
            },
            "seconds": sum(step["seconds"] for step in self._steps),
            "scales": list(self._run.scales),
            "thresholds": list(self._run.thresholds),
            "dynamic": self._run.dynamic,
            "warnings": list(self._warnings),
        }

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict()` to a file; numbers that JSON does not have become null."""
        Path(path).write_text(json.dumps(_finite(self.to_dict()), indent=2, allow_nan=False) + "\n")

    def plot(self, path: str | Path) -> None:
        """Draw scores and sizes over steps into a file. Needs matplotlib; ValueError without a run."""
        if not self._steps:
            raise ValueError("report: there is no run to plot yet")
        from .report_plot import draw

        draw(self.to_dict(), Path(path))

    def __str__(self) -> str:
        lines = [f"{'step':>4}  {'noise':>6}  {'size':>4}  {'tokens':>6}  {'seconds':>8}  scores"]
        for step in self._steps:
            scores = "-" if step["scores"] is None else "  ".join(_short(row) for row in step["scores"])
            lines.append(
                f"{step['index']:>4}  {step['noise_level']:>6.3f}  {step['scale']:>4}  {step['tokens']:>6}  "
                f"{step['seconds']:>8.3f}  {scores}"
            )
        data = self.to_dict()
        counts = ", ".join(f"{count} at {scale}" for scale, count in data["steps_per_scale"].items())
        lines.append(
            f"{len(self._steps)} steps ({counts}) in {data['seconds']:.2f} s; "
            f"speedup of the transformer by arithmetic: {data['speedup_estimate']:.2f}"
        )
        return "\n".join(lines + [f"warning: {text}" for text in self._warnings])

    __repr__ = __str__

    def _speedup(self) -> float:
        run = self._run
        each = 6.0 * run.width if run.token_cost is None else run.token_cost
        fine = len(self._steps) * _cost(run.fine_tokens + run.text_tokens, each)
        taken = sum(_cost(step["tokens"] + run.text_tokens, each) for step in self._steps)
        return fine / taken if taken else 1.0


def _cost(tokens: int, each: float) -> float:
    """Multiplications of a block / 2·width: `each` for a token's layers, attention 2·tokens·width a token."""
    return tokens * (each + tokens)


def _remarks(run: RunRecord) -> list[str]:
    """What a user would want to know about a dynamic run's outcome."""
    signalled = [step for step in run.steps if step.scores is not None]
    if not run.dynamic or not signalled or run.scales == (1,):
        return []
    if all(step.scale == 1 for step in signalled):
        return ["no step was coarse: every score was above its threshold; a larger threshold gives speed"]
    if len(signalled) > 1 and all(step.scale == run.scales[-1] for step in signalled):
        return [
            "every step with a signal took the largest size; a smaller threshold keeps more of the picture"
        ]
    return []


def _short(row: Sequence[float]) -> str:
    return "/".join(f"{score:.1e}" for score in row)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
