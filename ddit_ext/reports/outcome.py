"""What a run's outcome comes to, in words: the lines that a report begins with, and its warnings."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..strategies import SKIP

if TYPE_CHECKING:
    from .report import RunRecord

LITTLE = 1.1
"""A run below this speed saved next to nothing."""


def summary(run: RunRecord, estimate: float) -> list[str]:
    """What was done, how fast it was, and what that means for the picture.

    Args:
        estimate: how many times less arithmetic than a run with every step at scale 1.
    """
    count = len(run.steps)
    if not count:
        return ["no run yet: call the pipeline, then ask for the report"]
    taken = [step.scale for step in run.steps]
    computed = count - taken.count(SKIP)
    shown = [f"{computed} of {count} steps computed"]
    if len(run.scales) > 1:
        shown.append(
            ", ".join(f"{taken.count(scale)} at scale {scale}" for scale in run.scales if scale in taken)
        )
    shown = [", ".join(part for part in shown if part)]
    reached = measured_speedup(run)
    against = "" if run.full_steps in (None, count) else f" against the preset's {run.full_steps} steps"
    if reached is not None:
        shown.append(f"{reached:.2f} times as fast{against} by step times")
    else:
        shown.append(f"{estimate:.2f} times less arithmetic")
    if run.target_speedup is not None:
        shown.append(f"{run.target_speedup:g} asked for")
    lines = [", ".join(shown) + _meaning(run, reached or estimate)]
    seconds = sum(step.seconds for step in run.steps)
    known = "" if reached is None else f", {estimate:.2f} times less arithmetic in the transformer"
    lines.append(f"{seconds:.2f} s{known}" + (f"; {run.policy}" if run.policy else ""))
    return lines


def _meaning(run: RunRecord, speed: float) -> str:
    """What a user who reads one line should know."""
    coarse = sum(step.scale > 1 for step in run.steps)
    if speed < LITTLE:
        return ": next to nothing was saved; try patch(pipe, target_speedup=2)"
    if coarse and run.untrained:
        return f": {coarse} steps at larger patches without a trained adapter, so expect another image than the full run's"
    return ""


def measured_speedup(run: RunRecord) -> float | None:
    """How much longer the full run would have taken, by the median of this run's own full-size steps.

    The full run has every step at scale 1, and full_steps of them. None without two full-size steps after the first.
    """
    fine = [step.seconds for step in run.steps[1:] if step.scale == 1]
    if len(fine) < 2 or run.batch == "split":
        return None
    taken = warm_seconds([(step.scale, step.seconds) for step in run.steps])
    return (run.full_steps or len(run.steps)) * statistics.median(fine) / taken if taken > 0 else None


def warm_seconds(steps: Sequence[tuple[int, float]]) -> float:
    """The seconds of a run without its warm-up: the first step counts as much as the median of the others at its scale.

    steps: the scale and the seconds of each.
    """
    (scale, first), *later = steps
    alike = [taken for at, taken in later if at == scale]
    return sum(taken for _, taken in later) + statistics.median(alike or [first])


def outcome(run: RunRecord) -> list[str]:
    """What a user would want to know about a run's outcome."""
    return _missed(run) + _scales_taken(run) + _skipped(run)


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
    costs = [f"at scale {scale} {medians[scale] / medians[1]:.2f}" for scale in medians if scale > 1]
    shares = f"; a step took {', '.join(costs)} of the time of one at scale 1" if costs else ""
    return [f"asked for {run.target_speedup:g} times the speed, reached {reached:.2f} by step times{shares}"]


def _scales_taken(run: RunRecord) -> list[str]:
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
    if not run.skips or not run.steps or any(step.scale == SKIP for step in run.steps):
        return []
    compared = any(step.changes is not None for step in run.steps)
    if not run.dynamic and not compared:
        return ["no step was skipped: the schedule skips none of this run's steps"]
    if not compared and all(step.scores is None for step in run.steps):
        return ["no step was skipped: no step had a signal"]
    return ["no step was skipped: a larger threshold skips more"]
