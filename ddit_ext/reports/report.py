"""What a run did: as data, as a table, as a picture."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..strategies import SKIP
from .outcome import measured_speedup, outcome, summary

if TYPE_CHECKING:
    import numpy as np

    from ..families import Family
    from ..strategies import Strategy


@dataclass
class StepRecord:
    """One denoising step.

    seconds: from the end of the sampler step before to the end of its own, so that those of a run add up to its loop,
    ControlNets and callbacks included. The first step of a run, and each one of a loop without the pipeline's sampler,
    begins at its first transformer call; without the sampler it ends with its last one.
    scale: 0 for a step that was skipped or forecast; a forecast one takes no time.
    tokens: image tokens a sample in the blocks; None where the model's family is not known.
    """

    index: int
    noise_level: float
    scores: list[list[float]] | None
    scale: int
    scales: list[int]
    tokens: float | None
    seconds: float = 0.0
    changes: list[float] | None = None  # of each sample's input, where they were asked for beside scores


@dataclass
class RunRecord:
    """What is written down while a run goes on."""

    scales: tuple[int, ...]
    thresholds: tuple[float, ...]
    dynamic: bool
    token_cost: float = 1.0  # see Family.block_cost
    text_tokens: int = 0
    fine_tokens: int | None = None  # image tokens at scale 1; None: not known
    grid: tuple[int, int, int] | None = None  # frames, rows and columns of base tokens
    target_speedup: float | None = None
    full_steps: int | None = None  # steps of the run that the target is against; None: as many as this one's
    policy: str = ""
    batch: str = "finest"
    source: str | None = None  # what the scores are made of
    skips: bool = False  # whether steps may be skipped
    forecasts: bool = False  # whether steps are forecast
    untrained: bool = False  # whether larger patches have no trained adapter
    compares_input: bool = False  # whether changes of the input come beside scores
    tokens_at: dict[int, int] = field(default_factory=dict)  # image tokens a sample, by size
    steps: list[StepRecord] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, strategy: Strategy, split: bool = False) -> RunRecord:
        """An empty record of a run by a strategy."""
        return cls(
            scales=tuple(strategy.scales),
            thresholds=tuple(strategy.thresholds),
            dynamic=strategy.source is not None,
            target_speedup=strategy.target_speedup,
            policy=repr(strategy),
            batch="split" if split else "finest",
            source=strategy.source,
            skips=strategy.skips,
            forecasts=strategy.sampler is not None,
            compares_input=strategy.compares_input,
        )

    def count_tokens(self, family: Family, arguments: Mapping[str, Any]) -> None:
        """Read grid and tokens from the arguments of a call; unknown is what it has no count or grid for."""
        try:
            self.fine_tokens = family.tokens(arguments, 1)
            self.text_tokens, self.token_cost = family.block_cost(arguments)
            grid = family.grid(arguments)
        except (TypeError, ValueError):
            return  # pictures of several sizes, or positions that are no grid
        self.grid = grid.frames, grid.rows, grid.columns

    def arithmetic(self, tokens: int) -> float:
        """The arithmetic of a block at so many image tokens, in multiplications / 2·width: `token_cost` for a token's layers, and
        attention 2·tokens·width a token, of the text's as well."""
        tokens += self.text_tokens
        return tokens * (self.token_cost + tokens)

    def costs(self, tokens: Mapping[int, int]) -> dict[int, float]:
        """The arithmetic of a step by size, in steps at scale 1; tokens: image tokens by size."""
        fine = self.arithmetic(self.fine_tokens)
        return {scale: self.arithmetic(count) / fine for scale, count in tokens.items()}


class Report:
    """The last run of a patched pipeline, as it stood when asked; `print(report)` gives a table."""

    def __init__(self, run: RunRecord | None) -> None:
        self._run = copy.deepcopy(run) or RunRecord((1,), (), False)  # the run may still go on
        self._steps = [asdict(step) for step in self._run.steps]
        if not self._run.compares_input:
            for step in self._steps:
                del step["changes"]
        self._warnings = self._run.warnings + outcome(self._run)

    def to_dict(self) -> dict[str, Any]:
        """Plain data:

        steps: [{index, noise_level (σ in [0, 1]), scores ([[one per scale] per sample], None where there was
        no signal), scale, scales (what each sample alone would have taken), tokens (image tokens a sample),
        seconds (see StepRecord); with `TeaCache(sizes=...)` also changes (each sample's change of the input, by which a
        step is skipped, None where there was none; a skipped step has no scores)}]. scales, thresholds (none where
        the schedule has none), steps_per_scale {scale: count}, seconds (all steps), dynamic, source (of the scores:
        "latents"; "input" has one score a sample, its change; None: not asked for), policy (in words), batch
        ("finest" or "split"), grid (frames, rows and columns of base tokens; None where positions are no grid), warnings.
        A skipped or forecast step has scale 0 and no tokens; a forecast one has no seconds. In a split batch, scales are what the samples took, scale is the
        finest of them, tokens their mean.
        target_speedup: what was asked for by target_speedup or a preset, or None. speedup_measured: by this run's
        own step times, against as many steps at scale 1, or those of the preset's full run; None where too few were (the
        first step of a run warms up).
        uncomputed: what a step of scale 0 is, "forecast" or "skipped".
        speedup_estimate: the transformer's arithmetic with every step at size 1 over its arithmetic as run;
        matrix products and attention alone, so an upper bound, above all for short sequences.
        summary: the lines that the table begins with.
        """
        return {
            "steps": [dict(step) for step in self._steps],
            "summary": summary(self._run, self._speedup()),
            "speedup_estimate": self._speedup(),
            "steps_per_scale": {
                scale: sum(step["scale"] == scale for step in self._steps)
                for scale in (*self._run.scales, *([0] if self._run.skips or self._run.forecasts else []))
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
            "uncomputed": self._uncomputed,
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
        """Draw the page's charts into a file. Needs matplotlib; ValueError without a run."""
        if not self._steps:
            raise ValueError("report: there is no run to plot yet")
        from .plot import draw

        draw(self.to_dict(), Path(path))

    def __str__(self) -> str:
        scored = any(step["scores"] is not None or step.get("changes") for step in self._steps)
        head = f"{'step':>4}  {'sigma':>6}  {'scale':>8}  {'tokens':>6}  {'seconds':>8}"
        lines = summary(self._run, self._speedup())
        if self._steps:
            lines.append(head + ("  scores" if scored else ""))
        for step in self._steps:
            scale = step["scale"] or self._uncomputed
            if self._run.batch == "split":
                scale = "/".join(map(str, sorted(set(step["scales"]))))
            tokens = "-" if step["tokens"] is None else f"{step['tokens']:.6g}"
            line = f"{step['index']:>4}  {step['noise_level']:>6.3f}  {scale:>8}  {tokens:>6}  {step['seconds']:>8.3f}"
            if scored:
                changes = f"  change of the input {_short(step['changes'])}" if step.get("changes") else ""
                scores = "-" if step["scores"] is None else "  ".join(_short(row) for row in step["scores"])
                line += f"  {scores}{changes}"
            lines.append(line)
        return "\n".join(lines + [f"warning: {text}" for text in self._warnings])

    __repr__ = __str__

    @property
    def _uncomputed(self) -> str:
        return "forecast" if self._run.forecasts else "skipped"

    def _speedup(self) -> float:
        run = self._run
        if run.fine_tokens is None:  # a family that is not known: all computed steps are full-size
            return len(self._steps) / max(sum(step["scale"] != SKIP for step in self._steps), 1)
        fine = len(self._steps) * run.arithmetic(run.fine_tokens)
        taken = 0.0
        for step in self._steps:
            if step["scale"] == SKIP:
                continue
            split = run.batch == "split"
            tokens = [run.tokens_at[size] for size in step["scales"]] if split else [step["tokens"]]
            taken += sum(map(run.arithmetic, tokens)) / len(tokens)
        return fine / taken if taken else 1.0


def _short(row: Sequence[float]) -> str:
    return "/".join(f"{score:.1e}" for score in row)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
