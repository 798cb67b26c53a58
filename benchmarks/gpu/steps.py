"""What one transformer call takes at real geometry, at each patch size: the part that the stages of models share.

Random weights: the time of a step does not depend on what the model has learnt. Everything is on the host's
clock, launches and Python included, as a user meets it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from _timing import wall_clock
from torch import Tensor, nn

from .cases import Call, Case, timed
from .clock import warm_up
from .models import Model
from .part import Part, Skipped
from .shapes import QUANTILE, RANK, SCALES

COMPILING_S = 30.0  # left for a candidate that is still to be compiled
GRAPHS = "compiled with CUDA graphs"
COMPILED = {GRAPHS: "", "compiled": "", "compiled, LoRA": "LoRA", "compiled, LoRA merged": "LoRA merged"}
"""Rows of compiled calls: which of the coarse calls are in each, by the end of their names."""


def run_model(
    part: Part, model: Model, order: Callable[[Case], Iterable[tuple[str, Callable[[], Any]]]]
) -> None:
    """What `order` lists for a model, one after the other as long as there is time; it comes to its end or is stopped."""
    try:
        import diffusers  # noqa: F401  (what is missing is told before anything is built)
    except ImportError as error:
        raise Skipped(f"not available: {error}; give a folder with a diffusers wheel by --wheels") from error
    warnings.simplefilter("ignore")  # that runs are training-free is what is measured here
    warm_up(part.device)
    with torch.no_grad():
        part.add(**{model.name: {"tokens": {s: _tokens(model, s) for s in (1, *coarse_scales(part))}}})
        case = _attempt(part, f"{model.name}: build", lambda: _case(part, model))
        if case is None:
            return
        for what, measure in order(case):
            if part.left() < 2:
                part.leave_out(f"{model.name}, {what}: no time was left")
                continue
            _attempt(part, f"{model.name}: {what}", measure)


def coarse_scales(part: Part) -> tuple[int, ...]:
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
        case.coarse = _coarse_calls(case, coarse_scales(part))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        # A family that this build does not steer: its own time is still read.
        entry["coarse"] = f"not available: {type(error).__name__}: {error}"
        part.leave_out(f"{model.name}, coarse calls: {entry['coarse']}")
    return case


def _coarse_calls(case: Case, scales: tuple[int, ...]) -> dict[str, Call]:
    """Calls at the coarse sizes: without a feed-forward LoRA, with one beside its layers, and merged into copies."""
    import ddit_ext.families
    from ddit_ext.coarse import Adapter
    from ddit_ext.coarse.levels import RunLevel, RunLevels

    kind = getattr(ddit_ext.families, case.model.family)
    latents = case.arguments["hidden_states"]
    sigma = RunLevel(RunLevels([1.0, 0.75, 0.5]), 1)  # a step of a run, as patch() has it
    calls: dict[str, Call] = {}
    for label, rank in (("", 0), (", LoRA", RANK), (", LoRA merged", RANK)):
        family = kind(case.transformer)
        family.low_rank.merge = label.endswith("merged")
        adapter = Adapter.create(case.transformer, scales, rank).eval()
        for scale in scales:
            for low_rank in adapter.own(scale).lora.values():
                # Zero at the start: then it would not show, and zeros multiply faster.
                nn.init.normal_(low_rank.b, std=0.1 * RANK**-0.5)
            weights = adapter.weights(scale, latents)

            def call(weights: Any = weights, family: Any = family) -> Tensor:
                with family.coarse(case.arguments, weights, sigma) as arguments:
                    return case.transformer(**arguments)[0]

            calls[f"{scale}p{label}"] = call
    return calls


def eager(part: Part, case: Case, lora: bool) -> None:
    """Calls alone, each waited for; without LoRAs also ten that are queued one after the other, as a fixed schedule
    does: what the host takes between calls is hidden there."""
    wanted = {name: call for name, call in case.coarse.items() if ("LoRA" in name) == lora}
    candidates = {"p": case.fine, **wanted}
    for name, call in candidates.items():
        case.outputs[name] = call().clone()
        if case.outputs[name].shape != case.arguments["hidden_states"].shape:
            raise RuntimeError(f"{name}: the output's shape is not the latent's")
    entry = part.results[case.model.name]
    found = timed(part, candidates, 0.1)
    entry["eager, LoRA" if lora else "eager"] = found
    if lora:
        entry["LoRA over none, eager"] = _over_none(found, entry.get("eager", {}))
    else:
        queued = {
            name: wall_clock(lambda call=call: _queue(call)) / QUEUED for name, call in candidates.items()
        }
        entry["queued_s"] = queued
    part.save()


QUEUED = 10


def _queue(call: Call) -> None:
    for _ in range(QUEUED):
        call()


def _over_none(with_lora: dict[str, Any], without: dict[str, Any]) -> dict[str, float]:
    """What a LoRA adds to a step: its time over that of the same size without one, less 1, each over p in its rounds."""
    return {
        name: with_lora[name]["ratio"] / without[size]["ratio"] - 1
        for name in with_lora
        if (size := name.partition(", LoRA")[0]) != name and size in without
    }


def decision(part: Part, case: Case) -> None:
    """Third difference, deviations and quantiles of the last four latents, and their copy to the host."""
    from ddit_ext.runtime.history import History

    history = History()
    for _ in range(4):
        history.push(torch.randn_like(case.arguments["hidden_states"], dtype=torch.float32))

    view = partial(case.model.view, case.model)

    def decide() -> Any:
        return history.scores(view, SCALES, QUANTILE)

    part.results[case.model.name]["decision"] = timed(part, {"scores on the host": decide}, 0.02)
    part.save()


def compiled(part: Part, case: Case, label: str) -> None:
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
    # The smallest call first: the host's part in it is the largest, and graphs take that away.
    for name, uncompiled in reversed({"p": case.fine, **wanted}.items()):
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
        entry.update(timed(part, dict(reversed(candidates.items())), 0.1))
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
