"""Runs of the embedded FLUX whose calls lie where a rule says, by the closed form of ForecastScheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import torch
from _runs import Method, batches, decode, run
from _solvers import Solver
from ddit_ext._core import ForecastPlan
from forecast_variants import Watched

from ddit_ext import embedded

STEPS, GROWTH = 28, 1.75
Place = Callable[["Walk"], int]


class _Begun(Exception):
    pass


class Prompts:
    """Prompts with their noise, the pictures to compare with, and the model as a function of sample and noise level."""

    def __init__(
        self, name: str, model: embedded.Embedded, count: int, seeds: tuple[int, int], exact: int, keep: Path
    ):
        self.pipe = model.pipeline
        self.made = batches(self.pipe, model.reference(count, seed=seeds[0])[1], 8, seed=seeds[1])
        self._calls = [self._begin(batch) for batch in self.made]
        self.levels = self.pipe.scheduler.sigmas.double().tolist()
        self._keep, self._name = keep, name
        full = self.kept("full", lambda: self._all(Method("full", STEPS)))
        found = self.kept(
            "exact", lambda: self._all(Method("exact", exact, scheduler=lambda own: Solver(own, "UniPC")))
        )
        self.pictures = {"run": decode(self.pipe, full), "exact": decode(self.pipe, found)}
        self.count = len(full)

    def kept(self, what: str, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        file = self._keep / f"{self._name} {what}.pt"
        if not file.exists():
            torch.save(make(), file)
        return torch.load(file)

    def _all(self, method: Method) -> torch.Tensor:
        return torch.cat([run(self.pipe, batch, method)[0] for batch in self.made])

    def _begin(self, batch: Any) -> dict[str, Any]:
        """What the pipeline gives the transformer at its first step of all."""
        found: dict[str, Any] = {}

        def begun(module: Any, given: tuple, told: dict[str, Any]) -> None:
            found.update(told)
            raise _Begun

        hook = self.pipe.transformer.register_forward_pre_hook(begun, with_kwargs=True)
        try:
            run(self.pipe, batch, Method("begin", STEPS))
        except _Begun:
            pass
        finally:
            hook.remove()
        return found

    @torch.inference_mode()
    def velocities(
        self, number: int, rows: list[int], x: torch.Tensor, sigmas: Sequence[float]
    ) -> torch.Tensor:
        """The model's outputs for some prompts of a batch, each at a level of its own."""
        told = {
            name: value[rows]
            if isinstance(value, torch.Tensor) and name not in ("txt_ids", "img_ids")
            else value
            for name, value in self._calls[number].items()
        }
        told |= {"hidden_states": x, "timestep": torch.tensor(sigmas, dtype=x.dtype)}
        return self.pipe.transformer(**told)[0]

    def path(self, target: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples [level, prompt, ...] of the run of all steps or of the exact one, and the model's outputs there."""
        solver, every = ("Euler", 1) if target == "run" else ("UniPC", 4)

        def recorded() -> torch.Tensor:
            parts = []
            for batch in self.made:
                watched = Watched(self.pipe.scheduler, every, solver)
                run(self.pipe, batch, Method("path", every * STEPS, scheduler=lambda _, w=watched: w))
                parts.append(torch.stack(watched.path))
            return torch.cat(parts, 1)

        def outputs() -> torch.Tensor:
            found, first = [], 0
            for number, batch in enumerate(self.made):
                rows = list(range(len(batch.prompts)))
                here = path[:, first : first + len(rows)]
                steps = [
                    self.velocities(number, rows, here[k], [self.levels[k]] * len(rows)) for k in range(STEPS)
                ]
                found, first = [*found, torch.stack(steps)], first + len(rows)
            return torch.cat(found, 1)

        path = self.kept(f"path {target}", recorded)
        if target == "run":  # its steps are the model's outputs
            return path, path.diff(dim=0) / torch.tensor(self.levels).diff()[:, None, None, None]
        return path, self.kept(f"outputs {target}", outputs)

    def walked(
        self, place: Callable[[int], Place], calls: int, target: str, only: int | None = None
    ) -> list[Walk]:
        """Runs of all prompts, with the settings of so many calls; place: a prompt's number -> its places.

        only: so many batches.
        """
        walks, first = [], 0
        for number, batch in enumerate(self.made[:only]):
            count = len(batch.prompts)
            here = [
                Walk(self.levels, calls, target, x, place(first + k))
                for k, x in enumerate(batch.inputs["latents"])
            ]
            while rows := [k for k in range(count) if here[k].level < STEPS]:
                x = torch.stack([here[k].x for k in rows])
                outputs = self.velocities(number, rows, x, [self.levels[here[k].level] for k in rows])
                for k, v in zip(rows, outputs, strict=True):
                    here[k].step(v.float())
            walks, first = walks + here, first + count
        return walks


class Walk:
    """One prompt's run by the closed form, whose next call is wherever `place` says.

    Attributes:
        places: levels of the calls so far; outputs: the model's there.
        missed: root of the mean square of the slope that the last gap had beyond the one that it followed.
    """

    def __init__(self, levels: list[float], calls: int, target: str, x: torch.Tensor, place: Place) -> None:
        self.levels, self.target, self.x, self._place = levels, target, x.float(), place
        self.slope = ForecastPlan(levels, calls, growth=GROWTH).slope
        self.level, self.places, self.outputs = 0, [], []
        self.missed, self._kept = 0.0, None

    def step(self, v: torch.Tensor) -> None:
        """Cross the gap after the call at `level`, whose output is v."""
        d = None
        if self.outputs:
            d = (v - self.outputs[-1]) / (self.levels[self.level] - self.levels[self.places[-1]])
            before, share, weight = self._kept
            bent = d if before is None else d - share * before
            self.missed = rms(bent)
            self.x = self.x + weight * bent
        self.places.append(self.level)
        self.outputs.append(v)
        end = self._place(self)
        weight, share = gap_weight(self.levels, self.level, end, self.target), self.slope
        if self.target == "exact":
            share *= (self.levels[end] / self.levels[self.level]) ** 2
        self.x = self.x + (self.levels[end] - self.levels[self.level]) * v
        if d is not None:
            self.x = self.x + share * weight * d
        self._kept, self.level = (d, share, weight), end


def gap_weight(levels: Sequence[float], i: int, e: int, target: str) -> float:
    """What a line of slope 1 adds over a gap."""
    if target == "exact":
        return (levels[e] - levels[i]) ** 2 / 2
    return sum((levels[j + 1] - levels[j]) * (levels[j] - levels[i]) for j in range(i, e))


def rms(values: torch.Tensor) -> float:
    return float(values.square().mean().sqrt())
