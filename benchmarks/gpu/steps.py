"""Stage `steps`: the time of one transformer call at real geometry, at each patch size, and what a patch costs.

Random weights: the time of a step does not depend on what the model has learnt. Everything is on the host's
clock, launches and Python included, as a user meets it.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from _runs import patched
from _timing import interleaved, wall_clock
from torch import Tensor, nn

from .clock import warm_up
from .models import Model, models
from .part import Part, Skipped
from .shapes import QUANTILE, RANK, SCALES

ROUNDS = 15
FEWEST_ROUNDS = 3
RUN_STEPS = 6  # of a pipeline; a dynamic schedule decides in the last three
COMPILING_S = 30.0  # left for a candidate that is still to be compiled
GRAPHS = "compiled with CUDA graphs"
COMPILED = {"compiled": "", "compiled, LoRA": "LoRA", "compiled, LoRA merged": "LoRA merged", GRAPHS: "LoRA"}
"""Rows of compiled calls: which of the coarse calls are in each, by the end of their names."""

EVERY_OTHER = {"schedule": [1, 0] * (RUN_STEPS // 2), "forecast": 0.5}

Call = Callable[[], Any]


@dataclass
class Case:
    """A model on the device with one call of it; `coarse` has what could be made of a coarse call.

    outputs: of the eager calls, to compare the compiled ones with.
    """

    model: Model
    transformer: nn.Module
    arguments: dict[str, Any]
    coarse: dict[str, Call] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)

    def fine(self) -> Tensor:
        return self.transformer(**self.arguments)[0]


def run(part: Part) -> None:
    try:
        import diffusers  # noqa: F401  (what is missing is told before anything is built)
    except ImportError as error:
        raise Skipped(f"not available: {error}; give a folder with a diffusers wheel by --wheels") from error
    warnings.simplefilter("ignore")  # that runs are training-free is what is measured here
    warm_up(part.device)
    made = []
    with torch.no_grad():
        for model in models(part.tiny):
            part.add(**{model.name: {"tokens": {s: _tokens(model, s) for s in (1, *_coarse(part))}}})
            case = _attempt(part, f"{model.name}: build", lambda model=model: _case(part, model))
            if case is None:
                continue
            made.append(case)
            _attempt(part, f"{model.name}: eager", lambda case=case: _eager(part, case))
            _attempt(part, f"{model.name}: decision", lambda case=case: _decision(part, case))
            _attempt(part, f"{model.name}: pipeline", lambda case=case: _pipelines(part, case))
        for label in COMPILED:
            for case in made[:1] if part.tiny else made:
                _attempt(
                    part, f"{case.model.name}: {label}", lambda c=case, how=label: _compiled(part, c, how)
                )


def _coarse(part: Part) -> tuple[int, ...]:
    return (2,) if part.tiny else tuple(scale for scale in SCALES if scale > 1)


def _tokens(model: Model, scale: int) -> int:
    frames, rows, columns = model.grid
    return frames * -(-rows // scale) * -(-columns // scale)


def _attempt(part: Part, what: str, call: Callable[[], Any]) -> Any:
    """What fails is a problem of the stage; what comes after it is still tried."""
    try:
        return call()
    except Exception as error:
        part.problem(f"{what}: {type(error).__name__}: {str(error)[:400]}")
        return None


def _dtype(part: Part) -> torch.dtype:
    return torch.float32 if part.device == "cpu" else torch.bfloat16


def _case(part: Part, model: Model) -> Case:
    torch.manual_seed(0)
    started = time.perf_counter()
    case = Case(model, model.build(part.device, _dtype(part)), model.call(model, part.device, _dtype(part)))
    entry = part.results[model.name]
    entry["parameters"] = sum(parameter.numel() for parameter in case.transformer.parameters())
    entry["build_s"] = round(time.perf_counter() - started, 2)
    if not bool(case.fine().isfinite().all()):
        part.problem(f"{model.name}: the output of random weights is not finite, so its time is no model's")
    part.save()
    try:
        case.coarse = _coarse_calls(case, _coarse(part))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        # A family that this build does not steer: its own time is still read.
        entry["coarse"] = f"not available: {type(error).__name__}: {error}"
        part.leave_out(f"{model.name}, coarse calls: {entry['coarse']}")
    return case


def _coarse_calls(case: Case, scales: tuple[int, ...]) -> dict[str, Call]:
    """Calls at the coarse sizes: without a feed-forward LoRA, with one beside its layers, and merged into copies."""
    import ddit_ext.models
    from ddit_ext.multiscale import Adapter

    kind = getattr(ddit_ext.models, case.model.steering)
    latents = case.arguments["hidden_states"]
    sigma = torch.full((1,), 0.75, device=latents.device)
    calls: dict[str, Call] = {}
    for label, rank in (("", 0), (", LoRA", RANK), (", LoRA merged", RANK)):
        steering = kind(case.transformer)
        steering.low_rank.merge = label.endswith("merged")
        adapter = Adapter.create(case.transformer, scales, rank).eval()
        for scale in scales:
            for low_rank in adapter.own(scale).lora.values():
                # Zero at the start: then it would not show, and zeros multiply faster.
                nn.init.normal_(low_rank.b, std=0.1 * RANK**-0.5)
            weights = adapter.weights(scale, latents)

            def call(weights: Any = weights, steering: Any = steering) -> Tensor:
                with steering.coarse(case.arguments, weights, sigma) as arguments:
                    return case.transformer(**arguments)[0]

            calls[f"{scale}p{label}"] = call
    return calls


def _rounds(part: Part, once: float, share: float) -> int:
    """As many rounds of `once` seconds as fit into a share of the time that is left."""
    if part.tiny:
        return 2
    return max(FEWEST_ROUNDS, min(ROUNDS, int(part.left() * share / max(once, 1e-6))))


def _timed(part: Part, candidates: dict[str, Any], share: float, clock=wall_clock) -> dict[str, Any]:
    once = sum(clock(call) for call in candidates.values())  # warms up, too
    rounds = _rounds(part, once, share)
    return {"rounds": rounds, **interleaved(candidates, rounds, 0 if part.tiny else 1, clock)}


def _eager(part: Part, case: Case) -> None:
    candidates = {"p": case.fine, **case.coarse}
    for name, call in candidates.items():
        case.outputs[name] = call().clone()
        if case.outputs[name].shape != case.arguments["hidden_states"].shape:
            raise RuntimeError(f"{name}: the output's shape is not the latent's")
    timed = part.results[case.model.name]["eager"] = _timed(part, candidates, 0.15)
    part.results[case.model.name]["LoRA over none, eager"] = _over_none(timed, timed)
    part.save()


def _over_none(with_lora: dict[str, Any], without: dict[str, Any]) -> dict[str, float]:
    """What a LoRA adds to a step: its time over that of the same size without one, less 1, each over p in its rounds."""
    return {
        name: with_lora[name]["ratio"] / without[size]["ratio"] - 1
        for name in with_lora
        if (size := name.partition(", LoRA")[0]) != name and size in without
    }


def _decision(part: Part, case: Case) -> None:
    """Third difference, deviations and quantiles of the last four latents, and their copy to the host."""
    from ddit_ext.patching.history import History

    history = History()
    for _ in range(4):
        history.push(torch.randn_like(case.arguments["hidden_states"], dtype=torch.float32))

    view = partial(case.model.view, case.model)

    def decide() -> Any:
        return history.scores(view, SCALES, QUANTILE)

    part.results[case.model.name]["decision"] = _timed(part, {"scores on the host": decide}, 0.02)
    part.save()


def _pipelines(part: Part, case: Case) -> None:
    """Whole runs: unpatched, patched at schedule=1, dynamic with a threshold that nothing is below, and with skipped steps."""
    pipe = case.model.pipeline(case.transformer)
    pipe.set_progress_bar_config(disable=True)
    call = case.model.pipeline_call(case.model, case.arguments)

    def once(settings: dict[str, Any] | None) -> float:
        with patched(pipe, settings):
            return wall_clock(lambda: pipe(**call, num_inference_steps=RUN_STEPS, output_type="latent"))

    candidates: dict[str, Any] = {"unpatched": None}
    for name, settings in (
        ("schedule=1", {"schedule": 1}),
        ("dynamic, threshold=0", {"threshold": 0.0}),
        ("every other step forecast", EVERY_OTHER),
    ):
        try:
            once(settings)
        except (TypeError, NotImplementedError) as error:
            part.leave_out(f"{case.model.name}, {name}: not available: {error}")
        else:
            candidates[name] = settings
    part.results[case.model.name]["pipeline"] = {
        "steps": RUN_STEPS,
        **_timed(part, candidates, 0.2, clock=once),
    }
    part.save()
    if EVERY_OTHER in candidates.values():
        from ddit_ext._machine import clock_of

        with patched(pipe, EVERY_OTHER) as handle:
            handle.time_by(clock_of(torch.device(part.device)))
            pipe(**call, num_inference_steps=RUN_STEPS, output_type="latent")
            steps = handle.report().to_dict()["steps"]
        skipped, computed = (
            statistics.median(step["seconds"] for step in steps[1:] if bool(step["scale"]) is wanted)
            for wanted in (False, True)
        )
        part.results[case.model.name]["skipped step over one at p"] = skipped / computed
        part.save()


def _compiled(part: Part, case: Case, label: str) -> None:
    """The blocks compiled, each size on its own; the first call of a size compiles and is told apart."""
    if not hasattr(case.transformer, "compile_repeated_blocks"):
        part.leave_out(f"{case.model.name}, {label}: this diffusers has no compile_repeated_blocks")
        return
    wanted = {name: call for name, call in case.coarse.items() if name.partition(", ")[2] == COMPILED[label]}
    if label != "compiled" and not wanted:
        return
    if label in ("compiled", GRAPHS):
        torch._dynamo.config.recompile_limit = 64  # one graph a block class, size and LoRA
        how = {"backend": "eager"} if part.tiny else {"mode": "reduce-overhead"} if label == GRAPHS else {}
        case.transformer.compile_repeated_blocks(fullgraph=True, dynamic=False, **how)
    entry = part.results[case.model.name][label] = {"compile_s": {}, "difference": {}}
    candidates: dict[str, Call] = {}
    for name, uncompiled in {"p": case.fine, **wanted}.items():
        call = _as_step(uncompiled) if label == GRAPHS else uncompiled
        if part.left() < (0 if part.tiny else COMPILING_S):
            part.leave_out(f"{case.model.name}, {label}, {name}: no time was left")
            break
        entry["compile_s"][name] = round(wall_clock(call), 2)
        if name in case.outputs:
            entry["difference"][name] = _difference(call(), case.outputs[name])
        candidates[name] = call
        part.save()
    if candidates:
        entry.update(_timed(part, candidates, 0.2))
    without = part.results[case.model.name].get("compiled", {})
    if label.startswith("compiled, LoRA"):
        share = part.results[case.model.name].setdefault("LoRA over none, compiled", {})
        share.update(_over_none({name: entry[name] for name in candidates if name in entry}, without))
    part.save()


def _as_step(call: Call) -> Call:
    """A step of its own for CUDA graphs, which write over the outputs of the step before."""

    def step() -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return call()

    return step


def _difference(out: Tensor, eager: Tensor) -> float:
    """||out - eager|| / ||eager||: roundings, or a graph that left something out."""
    norm = torch.linalg.vector_norm
    return float(norm(out.float() - eager.float()) / norm(eager.float()))
