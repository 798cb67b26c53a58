"""A pytest plugin: each pipeline that diffusers' own tests make is patched at its first call.

SUITE_MODE: a key of MODES. SUITE_ONLY: a file with the names of the tests to run; empty: all. SUITE_LOG: a file that gets one
line of JSON for each call of a pipeline and for each outcome.
What asks for an accelerator only because a CPU is slow (offloading, float16) runs on the CPU too.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import json
import os
import re
import warnings
import weakref
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import _torchvision  # noqa: F401, before transformers
import accelerate.hooks
import diffusers
import numpy as np
import pytest
import torch
import transformers.integrations.peft

import ddit_ext
from ddit_ext.runtime.patched_call import find_hook

STEPS = 4
"""Runs of fewer steps take so many, in all modes: a forecast of half of the diffusers tests' usual 2 has nothing to go by."""

MODES = {
    "plain": None,
    "schedule=1": {"schedule": 1},
    "schedule=2": {"schedule": 2},
    "forecast": {"schedule": ddit_ext.Forecast(speedup=2)},
}

NEEDS_ACCELERATOR = re.compile(r"accelerator|requires (CUDA|CUDA or XPU)|float16 requires", re.IGNORECASE)


class Log:
    """What the tests did, line by line. test: the one that runs now; calls: of pipelines so far in it."""

    def __init__(self) -> None:
        self.test, self.calls = "", 0
        self._file = open(os.environ["SUITE_LOG"], "a")

    def write(self, **entry: Any) -> None:
        self._file.write(json.dumps({"test": self.test} | entry) + "\n")
        self._file.flush()


def digest(value: Any) -> str:
    """A word for the bits of an output: tensors, arrays, pictures, and lists of them."""
    found = hashlib.sha256()

    def add(each: Any) -> None:
        if isinstance(each, torch.Tensor):
            each = each.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        if isinstance(each, list | tuple):
            for inner in each:
                add(inner)
        elif isinstance(each, np.ndarray) or hasattr(each, "tobytes"):
            found.update(each.tobytes())
        else:
            found.update(repr(each).encode())

    add(list(value.values()) if hasattr(value, "values") else value)
    return found.hexdigest()[:16]


def patched_call(call: Callable, arguments: dict | None, log: Log, seen: weakref.WeakSet) -> Callable:
    """A pipeline's `__call__` that patches it first, once, and writes down what came of it."""

    @functools.wraps(call)
    def wrapped(self, *args, **kwargs):
        if arguments is not None and self not in seen:
            seen.add(self)
            patch(self, arguments)
        if kwargs.get("num_inference_steps", STEPS) < STEPS:
            kwargs["num_inference_steps"] = STEPS
        output = call(self, *args, **kwargs)
        log.write(call=log.calls, kind=type(self).__name__, bits=digest(output), scales=scales(self))
        log.calls += 1
        return output

    return wrapped


def denoisers(pipe: Any) -> list[torch.nn.Module]:
    found = [getattr(pipe, name, None) for name in ("transformer", "transformer_2")]
    return [module for module in found if module is not None]


def patch(pipe: Any, arguments: dict) -> None:
    """Patch a pipeline, but for one without a transformer, or that shares it with one that is patched."""
    if denoisers(pipe) and not any(map(find_hook, denoisers(pipe))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ddit_ext.patch(pipe, **arguments)


def scales(pipe: Any) -> list[int]:
    """The scales of each step of a patched pipeline's last run."""
    records = [hook.record for module in denoisers(pipe) if (hook := find_hook(module)) is not None]
    return [step.scale for step in records[0].steps] if records and records[0] else []


def offload_to_the_cpu() -> None:
    """Offloading without a device takes the CPU, in the place of raising that there is no accelerator."""
    for name in ("enable_model_cpu_offload", "enable_sequential_cpu_offload"):
        method = getattr(diffusers.DiffusionPipeline, name)

        def offload(self, gpu_id=None, device=None, _method=method):
            return _method(self, gpu_id=gpu_id, device=device or "cpu")

        setattr(diffusers.DiffusionPipeline, name, functools.wraps(method)(offload))

    # From the CPU to the CPU accelerate takes a weight for one that is tied to itself, and it is no parameter any more.
    place = accelerate.hooks.set_module_tensor_to_device

    def placed(module, name, *args, tied_params_map=None, **kwargs):
        held = module._parameters.get(name)
        if held is not None and not isinstance(held, torch.nn.Parameter):
            module._parameters[name] = torch.nn.Parameter(held, requires_grad=held.requires_grad)
        return place(module, name, *args, **kwargs)

    accelerate.hooks.set_module_tensor_to_device = placed


def shrink_references() -> None:
    """Qwen-Image's editing takes references of 64x64 pixels: a million, as it would, takes a CPU minutes a call."""
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus

    for module in (pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus):
        module.calculate_dimensions = functools.partial(
            lambda dimensions, area, ratio: dimensions(min(area, 64**2), ratio), module.calculate_dimensions
        )


class Suite:
    """The plugin's hooks."""

    def __init__(self) -> None:
        self.log = Log()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        only = set(Path(os.environ["SUITE_ONLY"]).read_text().splitlines())
        items[:] = [item for item in items if not only or item.nodeid in only]
        for item in items:
            for node in item.listchain():
                node.own_markers[:] = [mark for mark in node.own_markers if not _for_an_accelerator(mark)]

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        gc.collect()
        gc.freeze()  # each test collects twice: what was imported need not be looked at again

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.log.test, self.log.calls = item.nodeid, 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            crash = getattr(report.longrepr, "reprcrash", None)
            text = crash.message if crash is not None else str(report.longrepr or "")
            self.log.write(outcome=report.outcome, text=text[:400])


def _for_an_accelerator(mark: pytest.Mark) -> bool:
    return mark.name == "skipif" and bool(NEEDS_ACCELERATOR.search(str(mark.kwargs.get("reason", ""))))


def pytest_configure(config: pytest.Config) -> None:
    suite, seen = Suite(), weakref.WeakSet()
    config.pluginmanager.register(suite)
    if not torch.cuda.is_available():
        offload_to_the_cpu()
        shrink_references()
    # For LoRAs of text encoders transformers asks for a PEFT that may not be out yet.
    transformers.integrations.peft.MIN_PEFT_VERSION = version("peft")
    arguments = MODES[os.environ["SUITE_MODE"]]
    for name in dir(diffusers):
        kind = getattr(diffusers, name)
        if name.endswith("Pipeline") and isinstance(kind, type) and "__call__" in vars(kind):
            kind.__call__ = patched_call(kind.__call__, arguments, suite.log, seen)
