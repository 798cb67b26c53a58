"""Stage `wan`: calls of Wan 2.1 1.3B's geometry, with and without LoRA, eager and compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from . import device_time, steps
from .cases import Case
from .models import models
from .part import Part


def run(part: Part) -> None:
    steps.run_model(part, models(part.tiny)[1], partial(_order, part))


def _order(part: Part, case: Case) -> Iterable[tuple[str, Callable[[], Any]]]:
    bare = {name: call for name, call in case.coarse.items() if "LoRA" not in name}
    yield "eager", lambda: steps.eager(part, case, lora=False)
    yield "profile", lambda: device_time.measure(part, case.model.name, bare)
    yield "decision", lambda: steps.decision(part, case)
    yield "eager, LoRA", lambda: steps.eager(part, case, lora=True)
    for label in steps.COMPILED:
        yield label, partial(steps.compiled, part, case, label)
