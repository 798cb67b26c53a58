"""What a run did: as data, as a table, as a picture."""

from __future__ import annotations

import copy
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass
class StepRecord:
    """One denoising step.

    seconds: from the end of the sampler step before to the end of its own, so that those of a run add up to its loop,
    ControlNets and callbacks included. The first step of a run, and each one of a loop without the pipeline's sampler,
    begins at its first transformer call; without the sampler it ends with its last one.
    scale: 0 for a step that was skipped, which has no tokens in the blocks.
    """

    index: int
    noise_level: float
    scores: list[list[float]] | None
    scale: int
    scales: list[int]
    tokens: float
    seconds: float = 0.0
    changes: list[float] | None = None  # of each sample's input, where a stacked policy asked for them


@dataclass
class RunRecord:
    """What is written down while a run goes on."""

    scales: tuple[int, ...]
    thresholds: tuple[float, ...]
    dynamic: bool
    token_cost: float  # see Family.block_cost
    text_tokens: int = 0
    fine_tokens: int = 0
    grid: tuple[int, int, int] | None = None  # frames, rows and columns of base tokens
    target_speedup: float | None = None
    full_steps: int | None = None  # steps of the run that the target is against; None: as many as this one's
    policy: str = ""
    batch: str = "finest"
    source: str | None = None  # what the scores are made of
    skips: bool = False  # whether steps may be skipped
    stacked: bool = False  # by changes of the input, while the scores are of another source
    tokens_at: dict[int, int] = field(default_factory=dict)  # image tokens a sample, by size
    steps: list[StepRecord] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def arithmetic(self, tokens: int) -> float:
        """Of a block at so many image tokens, in multiplications / 2·width: `token_cost` for a token's layers, and
        attention 2·tokens·width a token, of the text's as well."""
        tokens += self.text_tokens
        return tokens * (self.token_cost + tokens)

    def costs(self, tokens: Mapping[int, int]) -> dict[int, float]:
        """The arithmetic of a step by size, in steps at p; tokens: image tokens by size."""
        fine = self.arithmetic(self.fine_tokens)
        return {scale: self.arithmetic(count) / fine for scale, count in tokens.items()}


class Report:
    """The last run of a patched pipeline, as it stood when asked; `print(report)` gives a table."""

    def __init__(self, run: RunRecord | None) -> None:
        self._run = copy.deepcopy(run) or RunRecord((1,), (), False, 1.0)  # the run may still go on
        self._steps = [asdict(step) for step in self._run.steps]
        if not self._run.stacked:
            for step in self._steps:
                del step["changes"]
        self._warnings = self._run.warnings + _remarks(self._run)

    def to_dict(self) -> dict[str, Any]:
        """Plain data:

        steps: [{index, noise_level (σ in [0, 1]), scores ([[one per scale] per sample], None where there was
        no signal), scale, scales (what each sample alone would have taken), tokens (image tokens a sample),
        seconds (see StepRecord); with `policies.Stacked` also changes (each sample's change of the input, by which a
        step is skipped, None where there was none; a skipped step has no scores)}]. scales, thresholds (none where
        the schedule has none), steps_per_scale {scale: count}, seconds (all steps), dynamic, source (of the scores:
        "latents", "outputs"; "input" has one score a sample, its change; None: not asked for), policy (in words), batch
        ("finest" or "split"), grid (frames, rows and columns of base tokens; None where positions are no grid), warnings.
        A skipped step has scale 0 and no tokens. In a split batch, scales are what the samples took, scale is the
        finest of them, tokens their mean.
        target_speedup: what was asked for by target_speedup or a preset, or None. speedup_measured: by this run's
        own step times, against as many steps at p, or those of the preset's full run; None where too few were (the
        first step of a run warms up).
        speedup_estimate: the transformer's arithmetic with every step at size 1 over its arithmetic as run;
        matrix products and attention alone, so an upper bound, above all for short sequences.
        """
        return {
            "steps": [dict(step) for step in self._steps],
            "speedup_estimate": self._speedup(),
            "steps_per_scale": {
                scale: sum(step["scale"] == scale for step in self._steps)
                for scale in (*self._run.scales, *([0] if self._run.skips else []))
            },
            "seconds": sum(step["seconds"] for step in self._steps),
            "scales": list(self._run.scales),
            "thresholds": list(self._run.thresholds),
            "dynamic": self._run.dynamic,
            "source": self._run.source,
            "grid": self._run.grid,
            "target_speedup": self._run.target_speedup,
            "speedup_measured": measured_speedup(self._run),
            "policy": self._run.policy,
            "batch": self._run.batch,
            "warnings": list(self._warnings),
        }

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict()` to a file; numbers that JSON does not have become null."""
        Path(path).write_text(json.dumps(_finite(self.to_dict()), indent=2, allow_nan=False) + "\n")

    def html(
        self,
        path: str | Path,
        pictures: Mapping[str, Any] | Sequence[Any] | None = None,
        *,
        clips: np.ndarray | None = None,
        references: np.ndarray | None = None,
    ) -> None:
        """Write one self-contained HTML file: sizes, scores, tokens and time of each step. ValueError without a run.

        pictures: {caption: picture} or a list, shown beside; PIL images or uint8 arrays [H, W, 3].
        clips, references: uint8 [n, F, H, W, 3] of this run and of a run to compare it with, such as the unpatched
        pipeline's with the same seeds: the page then tells how close each frame is, and whether it flickers.
        """
        if not self._steps:
            raise ValueError("report: there is no run to show yet")
        if (clips is None) != (references is None):
            raise ValueError("clips and references must be given together: one is compared with the other")
        from ..fidelity import temporal_fidelity
        from . import run_page

        compared = None if clips is None else temporal_fidelity(clips, references)
        Path(path).write_text(run_page(self.to_dict(), pictures, compared), encoding="utf-8")

    def plot(self, path: str | Path) -> None:
        """Draw scores and sizes over steps into a file. Needs matplotlib; ValueError without a run."""
        if not self._steps:
            raise ValueError("report: there is no run to plot yet")
        from .report_plot import draw

        draw(self.to_dict(), Path(path))

    def __str__(self) -> str:
        lines = [f"{'step':>4}  {'noise':>6}  {'size':>4}  {'tokens':>6}  {'seconds':>8}  scores"]
        for step in self._steps:
            size = (
                "/".join(map(str, sorted(set(step["scales"]))))
                if self._run.batch == "split"
                else step["scale"] or "skip"
            )
            changes = f"  change of the input {_short(step['changes'])}" if step.get("changes") else ""
            scores = "-" if step["scores"] is None else "  ".join(_short(row) for row in step["scores"])
            lines.append(
                f"{step['index']:>4}  {step['noise_level']:>6.3f}  {size:>4}  {step['tokens']:>6.6g}  "
                f"{step['seconds']:>8.3f}  {scores}{changes}"
            )
        data = self.to_dict()
        counts = ", ".join(
            f"{count} at {scale}" if scale else f"{count} skipped"
            for scale, count in data["steps_per_scale"].items()
        )
        lines.append(
            f"{len(self._steps)} steps ({counts}) in {data['seconds']:.2f} s; "
            f"speedup of the transformer by arithmetic: {data['speedup_estimate']:.2f}"
        )
        if data["target_speedup"] is not None:
            reached = data["speedup_measured"]
            shown = (
                "not known: too few steps were at p" if reached is None else f"{reached:.2f} by step times"
            )
            lines.append(f"speedup asked for: {data['target_speedup']:.2f}; reached: {shown}")
        return "\n".join(lines + [f"warning: {text}" for text in self._warnings])

    __repr__ = __str__

    def _speedup(self) -> float:
        run = self._run
        fine = len(self._steps) * run.arithmetic(run.fine_tokens)
        taken = 0.0
        for step in self._steps:
            if step["scale"] == 0:
                continue
            split = run.batch == "split"
            tokens = [run.tokens_at[size] for size in step["scales"]] if split else [step["tokens"]]
            taken += sum(map(run.arithmetic, tokens)) / len(tokens)
        return fine / taken if taken else 1.0


def measured_speedup(run: RunRecord) -> float | None:
    """How much longer the full run would have taken, by the median of this run's own steps at p.

    The full run has every step at p, and full_steps of them. Steps count from the second one; None without two at p.
    """
    fine = [step.seconds for step in run.steps[1:] if step.scale == 1]
    taken = sum(step.seconds for step in run.steps[1:])
    if len(fine) < 2 or taken <= 0 or run.batch == "split":
        return None
    more = (run.full_steps or len(run.steps)) / len(run.steps)
    return more * (len(run.steps) - 1) * statistics.median(fine) / taken


def _remarks(run: RunRecord) -> list[str]:
    """What a user would want to know about a run's outcome."""
    return _missed(run) + _sizes_taken(run) + _skipped(run)


def _missed(run: RunRecord) -> list[str]:
    """That the speed asked for was not reached, and what a coarse step took."""
    reached = measured_speedup(run)
    if run.target_speedup is None or reached is None or reached >= 0.95 * run.target_speedup:
        return []
    medians = {}
    for scale in run.scales:
        taken = [step.seconds for step in run.steps[1:] if step.scale == scale]
        if taken:
            medians[scale] = statistics.median(taken)
    costs = [f"at {scale}p {medians[scale] / medians[1]:.2f}" for scale in medians if scale > 1]
    shares = f"; a step took {', '.join(costs)} of the time of one at p" if costs else ""
    return [f"asked for {run.target_speedup:g} times the speed, reached {reached:.2f} by step times{shares}"]


def _sizes_taken(run: RunRecord) -> list[str]:
    """What is remarkable about the sizes of a dynamic run."""
    if not run.dynamic or not run.steps or run.scales == (1,):
        return []
    split = run.batch == "split"
    taken = [step.scales if split else [step.scale] for step in run.steps]
    signalled = [sizes for step, sizes in zip(run.steps, taken, strict=True) if step.scores is not None]
    if all(size == 1 for sizes in taken for size in sizes):
        if not signalled:
            return ["no step was coarse: no step had a signal"]
        above = "no step was coarse: every score was above its threshold; a larger threshold gives speed"
        return [above] if run.thresholds else []
    if (
        run.thresholds
        and len(signalled) > 1
        and all(size == run.scales[-1] for sizes in signalled for size in sizes)
    ):
        return [
            "every step with a signal took the largest size; a smaller threshold keeps more of the picture"
        ]
    if all(size > 1 for sizes in taken for size in sizes):
        return ["every step was coarse; protect=(0, n) keeps the last n steps fine"]
    return []


def _skipped(run: RunRecord) -> list[str]:
    """That a schedule which skips steps skipped none."""
    if not run.skips or not run.steps or any(step.scale == 0 for step in run.steps):
        return []
    stacked = any(step.changes is not None for step in run.steps)
    if not run.dynamic and not stacked:
        return ["no step was skipped: the schedule skips none of this run's steps"]
    if not stacked and all(step.scores is None for step in run.steps):
        return ["no step was skipped: no step had a signal"]
    return ["no step was skipped: a larger threshold skips more"]


def _short(row: Sequence[float]) -> str:
    return "/".join(f"{score:.1e}" for score in row)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
