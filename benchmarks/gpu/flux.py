"""Stage `flux`: FLUX.1-dev's geometry, what a call's time goes into, and 28 steps end to end, eager and with graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch

from . import device_time, pipelines, steps
from .cases import Case
from .models import models
from .part import Part


def run(part: Part) -> None:
    steps.run_model(part, models(part.tiny)[0], partial(_order, part))


def _order(part: Part, case: Case) -> Iterable[tuple[str, Callable[[], Any]]]:
    """What matters most first: the time may be up before the end. Blocks stay compiled."""
    coarse = steps.coarse_scales(part)
    bare = {"p": case.fine} | {name: call for name, call in case.coarse.items() if "LoRA" not in name}
    runs = partial(pipelines.measure, part, case)
    yield "profile", lambda: device_time.measure(part, case.model.name, dict(reversed(bare.items())))
    yield "eager", lambda: steps.eager(part, case, lora=False)
    yield "runs", lambda: runs("runs", coarse)
    yield "graphs", lambda: steps.compiled(part, case, steps.GRAPHS)
    yield "runs with graphs", lambda: _with_graphs(part, case, lambda: runs("runs with graphs", coarse))
    yield "decision", lambda: steps.decision(part, case)
    yield "eager, LoRA", lambda: steps.eager(part, case, lora=True)
    for label in list(steps.COMPILED)[1:]:
        yield label, partial(steps.compiled, part, case, label)


def _with_graphs(part: Part, case: Case, run: Callable[[], None]) -> None:
    """The blocks are compiled with graphs; each call of the transformer is a step for them."""
    if steps.GRAPHS not in part.results[case.model.name]:
        part.leave_out(f"{case.model.name}, runs with graphs: nothing is compiled with graphs")
        return
    hook = case.transformer.register_forward_pre_hook(lambda *_: torch.compiler.cudagraph_mark_step_begin())
    try:
        run()
    finally:
        hook.remove()
