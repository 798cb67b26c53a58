"""Scores are computed right after the sampler's step and read at the next call; step times are read without waiting."""

import sys

import flux_pipelines
import pytest
import torch
import wan_pipelines
from skip_cases import ByScore

import ddit_ext
from ddit_ext import Budget, Forecast, TeaCache, Threshold, ops
from ddit_ext.reports.report import StepRecord
from ddit_ext.runtime import history
from ddit_ext.runtime.answer import Answer
from ddit_ext.runtime.run import RunState
from ddit_ext.runtime.step_clock import DeviceMarks, HostMarks, StepClock

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")
STEPS = 8


class Event:
    """One of a device whose work is done when somebody waits for it."""

    def __init__(self, cuda):
        self.cuda, self.at = cuda, None

    def record(self, stream):
        assert stream == "the current one"
        self.cuda.given += 1
        self.at = self.cuda.given
        self.cuda.log.append("recorded")

    def synchronize(self):
        self.cuda.done = max(self.cuda.done, self.at)
        self.cuda.log.append("waited for")

    def query(self):
        return self.at <= self.cuda.done

    def elapsed_time(self, end):
        assert self.query() and end.query()
        return 1000.0 * (end.at - self.at)


class Cuda:
    """Stands for torch.cuda: given and done count events, log says what was called."""

    def __init__(self):
        self.given, self.done, self.log = 0, 0, []

    def Event(self, enable_timing=False):  # noqa: N802
        return Event(self)

    def current_stream(self, device):
        return "the current one"


def test_the_order_of_a_step(monkeypatch):
    """The device is asked before callbacks run, and nobody waits before the next call."""
    cuda = Cuda()
    log = cuda.log
    monkeypatch.setattr(history, "Answer", lambda values: Answer(values, cuda))
    compute = ops.acceleration_quantiles
    monkeypatch.setattr(ops, "acceleration_quantiles", lambda *args: log.append("scores") or compute(*args))
    pipe = flux_pipelines.make_pipeline()
    pipe.transformer.x_embedder.register_forward_pre_hook(lambda *_: log.append("call"))
    step = type(pipe.scheduler).step
    monkeypatch.setattr(
        type(pipe.scheduler), "step", lambda *args, **kwargs: log.append("sampler") or step(*args, **kwargs)
    )
    ddit_ext.patch(pipe, schedule=Threshold(0.0))
    call = flux_pipelines.make_call(steps=STEPS)
    flux_pipelines.run(pipe, call | {"callback_on_step_end": lambda *_: log.append("callback") or {}})
    asked = ["scores", "recorded"]
    first = ["call", "sampler", "callback"] * 3 + [*asked, "waited for"]  # none was known to be wanted
    then = ["call", "sampler", *asked, "callback", "waited for"] * (STEPS - 4)
    assert log == [*first, *then, "call", "sampler", "callback"]


def latents_and_steps(pipelines, kind, batch, settings):
    pipe = pipelines.make_pipeline(kind)
    with ddit_ext.patch(pipe, **settings) as handle:
        latents = pipelines.run(pipe, pipelines.make_call(kind, batch=batch, steps=STEPS))
        steps = handle.report().to_dict()["steps"]
    for step in steps:
        del step["seconds"]
    return latents, steps


@pytest.mark.parametrize(
    ("pipelines", "kind", "batch", "settings"),
    [
        (flux_pipelines, "text", 1, dict(threshold=0.04)),
        (flux_pipelines, "text", 2, dict(schedule=ByScore(), batch="split")),
        (flux_pipelines, "img2img", 1, dict(schedule=Threshold(0.04))),
        (flux_pipelines, "text", 2, dict(schedule=Budget(1.6, costs=(0.4, 0.2)))),
        (flux_pipelines, "text", 1, dict(schedule=TeaCache(0.5, sizes=Threshold(0.04)))),
        (wan_pipelines, "two", 1, dict(threshold=0.04)),
    ],
)
def test_decisions_are_those_made_at_the_call(monkeypatch, pipelines, kind, batch, settings):
    latents, steps = latents_and_steps(pipelines, kind, batch, settings)
    assert any(step["scores"] for step in steps)
    monkeypatch.setattr(RunState, "ask", lambda self, run: None)
    plain, plain_steps = latents_and_steps(pipelines, kind, batch, settings)
    assert torch.equal(latents, plain) and steps == plain_steps


def test_scores_that_were_asked_for_before_a_latent_came_are_not_read():
    kept, view = history.History(), lambda latent: latent.view(1, 1, 2, 2, 4, 2, 2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        kept.push(torch.randn(1, 4, 16, generator=generator))
    before = kept.ask(view, (1, 2), 0.4).read()
    assert kept.scores(view, (1, 2), 0.4) == before
    assert kept.scores(view, (1, 2), 0.9) != before
    kept.ask(view, (1, 2), 0.4)
    kept.push(torch.randn(1, 4, 16, generator=generator))
    assert kept.scores(view, (1, 2), 0.4) != before


def record(index):
    return StepRecord(index, 0.5, None, 1, [1], 16)


def test_times_are_read_when_the_device_has_come_so_far():
    cuda = Cuda()
    marks = DeviceMarks(torch.device("cuda"), cuda)
    clock, steps = StepClock(marks), [record(i) for i in range(3)]
    start, told = marks.mark(), []
    for step in steps[:2]:
        middle, end = marks.mark(), marks.mark()
        clock.lasted(step, start, middle, over=False)
        told += clock.read()
        clock.lasted(step, start, end, over=True)
        told += clock.read()
        start = end
    assert told == [] and "waited for" not in cuda.log
    cuda.done = 3  # the first step
    assert clock.read() == [steps[0]] and steps[0].seconds == 2.0 and steps[1].seconds == 0.0
    clock.lasted(steps[2], start, marks.mark(), over=True)
    assert clock.read() == [] and cuda.log.count("waited for") == 0
    assert clock.read(wait=True) == steps[1:] and [step.seconds for step in steps] == [2.0, 2.0, 1.0]
    assert clock.read(wait=True) == []


def test_an_answer_goes_to_the_host_whatever_the_default_device_is():
    values = torch.arange(3.0)
    with torch.device("meta"):  # stands for a GPU
        assert Answer(values, Cuda()).read() == [0.0, 1.0, 2.0]


def test_a_clock_of_the_host_is_read_at_once():
    clock, step = StepClock(HostMarks()), record(0)
    clock.lasted(step, 1.0, 1.5, over=False)
    assert clock.read() == [] and step.seconds == 0.5
    clock.lasted(step, 1.0, 2.0, over=True)
    assert clock.read() == [step] and step.seconds == 1.0


def test_a_budget_by_a_devices_clock_waits_once_a_run():
    """Beside its scores: a step's time is known when the scores after it are."""
    cuda = Cuda()
    pipe = flux_pipelines.make_pipeline()
    handle = ddit_ext.patch(pipe, schedule=Budget(1.5))
    assert isinstance(handle._hook.marks, HostMarks)
    handle._hook.marks = DeviceMarks(torch.device("cuda"), cuda)
    flux_pipelines.run(pipe, flux_pipelines.make_call(steps=STEPS))
    # The first mark, two of each step (after the call, after the sampler's step), and what was still open at the end.
    assert cuda.log == ["recorded"] * (1 + 2 * STEPS) + ["waited for"] * cuda.log.count("waited for")
    assert all(step["seconds"] == 2.0 for step in handle.report().to_dict()["steps"])


@pytest.mark.parametrize(
    "strategy", [Budget(2), Forecast(calls=5, sizes=Budget(2)), TeaCache(0.1, sizes=Budget(2))]
)
def test_a_budget_on_a_gpu_is_timed_by_it_inside_of_other_strategies_too(strategy, monkeypatch):
    monkeypatch.setattr(sys.modules["ddit_ext.runtime.patch"], "device_of", lambda _: "cuda")
    handle = ddit_ext.patch(flux_pipelines.make_pipeline(), schedule=strategy)
    assert isinstance(handle._hook.marks, DeviceMarks)


def test_a_forecast_that_begins_in_the_middle_is_timed_to_its_end_by_a_devices_clock():
    cuda = Cuda()
    pipe = flux_pipelines.make_pipeline("img2img")
    handle = ddit_ext.patch(pipe, schedule=Forecast(calls=5))
    handle._hook.marks = DeviceMarks(torch.device("cuda"), cuda)
    flux_pipelines.run(pipe, flux_pipelines.make_call("img2img", steps=10) | {"strength": 0.6})
    computed = [step for step in handle.report().to_dict()["steps"] if step["scale"]]
    assert len(computed) == 3 and all(step["seconds"] for step in computed)
