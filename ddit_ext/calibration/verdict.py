"""What a calibration decides: whether a speed can be reached, which candidate is chosen, and that in words."""

from __future__ import annotations

from collections.abc import Sequence

from . import plan
from .preset import Candidate
from .search import Full


class NotReached(ValueError):
    """No run was as fast as was asked for."""


def check_reach(full: Full, device: str) -> None:
    """ValueError, before any search, where even the fastest run is too slow by the step times on `device`."""
    best = plan.fastest(full.steps, full.seconds)
    speed = full.speed(best)
    if full.reached(speed):
        return
    costs = ", ".join(
        f"{scale}p takes {seconds / full.seconds[1]:.2f}"
        for scale, seconds in full.seconds.items()
        if scale > 1
    )
    sizes = f"a step at {costs} of the time of a step at p" if costs else "there is no coarse size in scales"
    why = f"a model of {full.steps} steps keeps them" if full.few else f"at least {best.steps} steps are left"
    raise ValueError(
        f"target_speedup={full.target:g} can't be reached: at most {speed:.2f} can, with {best.words()}. "
        f"On this machine ({device}) {sizes}; {why}, and the last stays at p"
    )


def choose(ended: Sequence[Candidate], full: Full) -> Candidate:
    """The closest of the finalists that are fast enough; NotReached without one."""
    fewer = [candidate for candidate in ended if full.few and candidate.choice.fine]
    eligible = [candidate for candidate in ended if candidate not in fewer]
    reached = [candidate for candidate in eligible if candidate.reached]
    if not reached:
        best = max(eligible or ended, key=lambda candidate: candidate.speed)
        text = (
            f"target_speedup={full.target:g} was not reached: the fastest that was measured is {best.speed:.2f}, with "
            f"{best.choice.words()}; the step costs promised more than the runs gave"
        )
        if eligible and fewer:
            text += f"; fewer steps at p are not counted, since a model of {full.steps} steps keeps them"
        raise NotReached(text)
    return max(reached, key=lambda candidate: (candidate.psnr, candidate.speed))


def explain(chosen: Candidate, tried: Sequence[Candidate], full: Full, done: int) -> str:
    """What was chosen, in words, beside fewer steps at p. done: how many steps a run of it does."""
    choice = chosen.choice
    fewer = choice.steps < full.steps
    if choice.fine:
        kind = "Fewer steps, all of them at p"
    else:
        skipped = {"skips": "skipped", "forecasts": "forecast"}
        some = skipped.get(choice.kind, "coarser")
        kind = f"Fewer steps, and some of them {some}" if fewer else f"As many steps, some of them {some}"
    text = (
        f"{kind}: {choice.words()}. {chosen.speed:.2f} times as fast as {full.steps} steps at p, "
        f"{chosen.psnr:.1f} dB to their pictures."
    )
    if done < choice.steps:  # img2img
        text += f" As this pipeline is called a run does {done} of {choice.steps} steps"
        text += ", with as large a share of each size." if choice.fixed and not choice.fine else "."
    rivals = [candidate for candidate in tried if candidate.choice.fine and candidate.reached]
    if rivals and not choice.fine:
        best = max(rivals, key=lambda candidate: candidate.psnr)
        text += f" Fewer steps alone ({best.choice.words()}): {best.speed:.2f} times, {best.psnr:.1f} dB."
        if best.psnr > chosen.psnr:
            text += " A model of so few steps was made for just those, so their number stays."
    if fewer:
        text += f" Pass num_inference_steps={choice.steps} to the pipeline."
    return text
