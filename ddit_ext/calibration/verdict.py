"""What a calibration decides: whether a speed can be reached, which candidate is chosen, and that in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..presets import Candidate
from ..strategies import Fixed, Forecast
from . import fixed
from .forecasts import FEWEST
from .reference import Reference
from .runner import Setting


class NotReached(ValueError):
    """No run was as fast as was asked for."""


def check_reach(reference: Reference, device: str) -> None:
    """ValueError, before any search, where even the fastest run is too slow by the step times on `device`."""
    steps = reference.steps
    settings = [fixed.fastest(steps, reference.seconds)]
    if not reference.few:
        settings.append(Setting(steps, Forecast(calls=FEWEST)))
    best = max(settings, key=reference.speed)
    speed = reference.speed(best)
    if reference.reached(speed):
        return
    costs = ", ".join(
        f"one at scale {scale} takes {seconds / reference.seconds[1]:.2f}"
        for scale, seconds in reference.seconds.items()
        if scale > 1
    )
    computed = len(best.strategy.computed_scales(best.steps))
    why = f"a model of {steps} steps keeps them" if reference.few else f"at least {computed} are computed"
    text = f"target_speedup={reference.speedup:g} can't be reached: at most {speed:.2f} can, with {best.words()}; {why}"
    if costs:
        text += f", and the last stays at scale 1. On {device}, in full-size steps, {costs}"
    raise ValueError(text)


def fewer_alone(candidate: Candidate) -> bool:
    """Whether it is fewer steps, all at scale 1."""
    return candidate.strategy == Fixed(1)


def choose(ended: Sequence[Candidate], reference: Reference) -> Candidate:
    """The closest of the finalists that are fast enough; NotReached without one."""
    fewer = [candidate for candidate in ended if reference.few and fewer_alone(candidate)]
    eligible = [candidate for candidate in ended if candidate not in fewer]
    reached = [candidate for candidate in eligible if candidate.reached]
    if not reached:
        best = max(eligible or ended, key=lambda candidate: candidate.speed)
        text = (
            f"target_speedup={reference.speedup:g} was not reached: the fastest that was measured is {best.speed:.2f}, "
            f"with {best.words()}; the step costs promised more than the runs gave"
        )
        if eligible and fewer:
            text += f"; fewer steps are not counted, since a model of {reference.steps} steps keeps them"
        raise NotReached(text)
    most = max(candidate.runs for candidate in reached)
    # Fewer steps have fewer runs where they were behind on those. A coarse measure ties often.
    return max(
        (candidate for candidate in reached if candidate.runs == most),
        key=lambda candidate: (candidate.closeness, candidate.psnr, candidate.speed),
    )


def explain(
    chosen: Candidate,
    tried: Sequence[Candidate],
    reference: Reference,
    done: int,
    on: Callable[[Candidate, int], Candidate],
) -> str:
    """What was chosen, in words, beside fewer steps.

    done: how many steps a run of it does. on: a candidate as it is on so many calls alone; rivals have fewer.
    """
    steps = reference.steps
    against = "their pictures" if reference.target == "run" else "the exact sample's pictures"
    text = (
        f"{chosen.words()}. {chosen.speed:.2f} times as fast as {steps} full-size steps, "
        f"{_closeness(chosen, reference)} to {against}."
    )
    if done < chosen.steps:  # img2img
        text += f" As this pipeline is called a run does {done} of {chosen.steps} steps."
    rivals = [candidate for candidate in tried if fewer_alone(candidate) and candidate.reached]
    if rivals and not fewer_alone(chosen):
        best = max(rivals, key=lambda candidate: candidate.closeness)
        text += f" Fewer steps alone ({best.words()}): {best.speed:.2f} times, {_closeness(best, reference)}"
        same = on(chosen, best.runs)
        if same.runs < chosen.runs:
            text += f" on the first {_calls(same.runs)}, where the chosen has {_closeness(same, reference)}"
        text += "."
        if best.closeness > same.closeness and reference.few:
            text += " A model of so few steps was made for just those, so their number stays."
    if chosen.steps < steps:
        text += f" Pass num_inference_steps={chosen.steps} to the pipeline."
    return text


def _calls(number: int) -> str:
    return "call" if number == 1 else f"{number} calls"


def _closeness(candidate: Candidate, reference: Reference) -> str:
    own = "" if reference.measure is None else f"{reference.measure.name} {candidate.score:.3g}, "
    return f"{own}{candidate.psnr:.1f} dB"
