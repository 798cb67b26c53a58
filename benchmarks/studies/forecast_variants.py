"""What a forecast may follow over a gap, how far, and where the calls lie: variants of the sampler, on two yardsticks.

    python benchmarks/studies/forecast_variants.py --model flux --prompts 16 --keep work/variants
    python benchmarks/studies/forecast_variants.py --model wan --prompts 8 --calls 9 --exact 64 --keep work/variants

PSNR of pictures to the run of all 28 steps and to the exact sample (UniPC, --exact steps). "Fitted": the two coefficients
of each gap, of the last slopes of the outputs, by least squares over the same prompts, so that the next sample is as
close to the exact one as a second-order step can be: the most that slopes and correctors by any rule could give, gap by
gap. --keep holds latents, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _runs import Batch, Method, batches, decode, run
from _solvers import Solver, growing

from ddit_ext import ForecastScheduler, embedded
from ddit_ext.fidelity import psnr

PROMPT_SEED, STEPS = 41, 28


class Placed:
    """A scheduler over the pipeline's own levels at `pick`: `update(self, k, v, x)` gives the next sample."""

    order, init_noise_sigma = 1, 1.0

    def __init__(self, own: Any, pick: list[int], update: Callable[[Placed, int, Any, Any], Any]) -> None:
        self._own, self._pick, self._update = copy.deepcopy(own), pick, update
        self.config = own.config

    def set_timesteps(
        self, steps: int | None = None, device: Any = None, sigmas: Any = None, mu: Any = None
    ) -> None:
        given = {"sigmas": sigmas, "mu": mu}
        self._own.set_timesteps(steps, device, **{name: v for name, v in given.items() if v is not None})
        self.places = [*self._pick, len(self._own.sigmas) - 1]
        self.levels = self._own.sigmas.double().tolist()
        self.sigmas, self.timesteps = self._own.sigmas[self.places], self._own.timesteps[self._pick]
        self.kept: dict[str, Any] = {}
        self._call = 0

    def set_begin_index(self, index: int = 0) -> None:
        pass

    def scale_model_input(self, x: torch.Tensor, *_: Any) -> torch.Tensor:
        return x

    def step(self, v: torch.Tensor, timestep: Any, x: torch.Tensor, return_dict: bool = True) -> tuple:
        new = self._update(self, self._call, v.float(), x.float())
        self._call += 1
        return (new,)


def line(samples: bool, exact: bool, slope: float, corrector: float = 1.0, fade: float = 0.0) -> Callable:
    """A line over sigma through the outputs, or through the samples that they point to.

    fade: the slope of a gap is multiplied by (noise after it / noise before it) to this power.
    """

    def update(at: Placed, k: int, v: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        i, e = at.places[k : k + 2]
        s, t = at.levels[i], at.levels[e]
        f, keep, w = v, 1.0, 0.0
        if samples:
            f, keep = x - s * v, t / s
        for a, b in zip(at.levels[i:e], at.levels[i + 1 : e + 1], strict=True):
            w = (b / a) * w + (1 - b / a) * (a - s) if samples else w + (b - a) * (a - s)
        if exact:
            w = (t - s) - (t * math.log(t / s) if t else 0.0) if samples else (t - s) ** 2 / 2
        new, share, d = x + (t - s) * v, slope * (t / s) ** fade, None
        if at.kept:
            d = (f - at.kept["f"]) / (s - at.kept["s"])
            before = at.kept["d"]
            bent = d if before is None else d - at.kept["share"] * before
            new = new + keep * at.kept["corrects"] * bent + share * w * d
        at.kept = {"f": f, "s": s, "d": d, "share": share, "corrects": corrector * w}
        return new

    return update


def fitted(path: torch.Tensor) -> Callable:
    """path: the samples to come close to, [level, prompt, ...], of all prompts that run together."""

    def update(at: Placed, k: int, v: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        i, e = at.places[k : k + 2]
        s, t = at.levels[i], at.levels[e]
        new, slopes = x + (t - s) * v, at.kept.get("slopes", [])
        if "v" in at.kept:
            slopes = [(v - at.kept["v"]) / (s - at.kept["s"]), *slopes][:2]
            columns = torch.stack([each.flatten() for each in slopes], 1)
            meant = (path[e] - new).flatten()[:, None]
            weights = torch.linalg.lstsq(columns, meant).solution[:, 0]
            new = new + sum(w * each for w, each in zip(weights, slopes, strict=True))
        at.kept = {"v": v, "s": s, "slopes": slopes}
        return new

    return update


class Watched(Solver):
    """A solver that notes the sample at every `every`-th of its levels, and at the end."""

    def __init__(self, own: Any, every: int, solver: str = "UniPC") -> None:
        super().__init__(own, solver)
        self.path, self._every, self._count = [], every, 0

    def step(self, output: Any, timestep: Any, sample: torch.Tensor, return_dict: bool = True) -> Any:
        if self._count % self._every == 0:
            self.path.append(sample.clone())
        self._count += 1
        new = super().step(output, timestep, sample, return_dict)
        if self._count == len(self.timesteps):
            self.path.append(new[0].clone())
        return new


def variants(model: str, calls: int) -> dict[str, Callable[[Any], Any]]:
    """name -> what makes the scheduler of the run from the pipeline's own."""
    found: dict[str, Callable[[Any], Any]] = {
        f"ForecastScheduler, {target}": lambda own, t=target: ForecastScheduler.from_scheduler(
            own, calls=calls, target=t
        )
        for target in ("run", "exact")
    }
    for growth in (1.5, 1.75) if model == "wan" else (1.75, 2.0):
        pick = growing(STEPS, calls, growth)
        for solver in ("UniPC", "DPM-Solver++ 2M", "DEIS"):
            found[f"{solver}, growth {growth}"] = lambda own, s=solver, p=pick: Solver(own, s, p)
        for samples in (False, True):
            for exact in (True,) if model == "wan" else (True, False):
                for slope, corrector, fade in (
                    (0, 1, 0),
                    (0.25, 1, 0),
                    (0.5, 1, 0),
                    (0.75, 1, 1),
                    (0.25, 0, 0),
                ):
                    name = f"{'samples' if samples else 'outputs'}, {'exact' if exact else 'run'}, slope {slope}, "
                    name += f"corrector {corrector}, fade {fade}, growth {growth}"
                    update = line(samples, exact, slope, corrector, fade)
                    found[name] = lambda own, u=update, p=pick: Placed(own, p, u)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("flux", "wan"), default="flux")
    parser.add_argument("--calls", type=int, nargs="+", default=[9, 7])
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--exact", type=int, default=100)
    parser.add_argument(
        "--fitted", action="store_true", help="the fitted coefficients, too: 112 more calls a prompt"
    )
    parser.add_argument("--keep", type=Path, required=True, help="folder for latents")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.keep.mkdir(parents=True, exist_ok=True)
    model = embedded.load(arguments.model)
    pipe, own = model.pipeline, model.pipeline.scheduler
    prompts = model.reference(arguments.prompts, seed=PROMPT_SEED)[1]
    made = batches(pipe, prompts, 8 if arguments.model == "flux" else 4, seed=PROMPT_SEED)

    def shown(name: str, make: Callable[[Any], Any] | None, steps: int = STEPS, parts: Any = made) -> Any:
        file = arguments.keep / f"{arguments.model} {arguments.prompts} {name}.pt"
        if not file.exists():
            method = Method(name, steps, scheduler=make)
            torch.save(torch.cat([run(pipe, part, method)[0] for part in parts]), file)
        return decode(pipe, torch.load(file))

    full = shown("full", None)
    exact = shown(f"exact {arguments.exact}", lambda own: Solver(own, "UniPC"), arguments.exact)
    print(f"all {STEPS} steps: {psnr(full, exact).mean():.2f} dB to the exact sample")
    for calls in arguments.calls:
        for name, make in variants(arguments.model, calls).items():
            pictures = shown(f"{name}, {calls}", make)
            near = psnr(pictures, full).mean(), psnr(pictures, exact).mean()
            print(f"{calls:3} {name:70} run {near[0]:6.2f}  exact {near[1]:6.2f}", flush=True)
    if arguments.fitted:
        inputs = {name: torch.cat([part.inputs[name] for part in made]) for name in made[0].inputs}
        together = [Batch([prompt for part in made for prompt in part.prompts], inputs)]
        watched = Watched(own, 4)
        run(pipe, together[0], Method("path", 4 * STEPS, scheduler=lambda _: watched))
        for calls in arguments.calls:
            update = fitted(torch.stack(watched.path))
            pick = growing(STEPS, calls, 1.75)
            make = lambda own, p=pick, u=update: Placed(own, p, u)  # noqa: E731
            pictures = shown(f"fitted, {calls}", make, parts=together)
            near = psnr(pictures, full).mean(), psnr(pictures, exact).mean()
            print(
                f"{calls:3} {'fitted, growth 1.75':70} run {near[0]:6.2f}  exact {near[1]:6.2f}", flush=True
            )


if __name__ == "__main__":
    main()
