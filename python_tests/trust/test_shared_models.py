"""One transformer for several pipelines, threads and requests: each run as it is alone, or one error that says how."""

import copy
import pickle
import sys
import threading

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from flux_pipelines import make_call, make_pipeline, make_scheduler, run
from loops import Loop
from peft import LoraConfig, get_peft_model

import ddit_ext
from ddit_ext import ForecastScheduler
from ddit_ext.runtime.watched_sampler import plain_class

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 5
STRATEGIES = {
    "skipped": dict(schedule=[1, 1, 0, 1, 0]),
    "coarse": dict(schedule=[1, 2, 4, 1, 2]),
    "threshold": dict(threshold=1e9),
    "forecast": dict(schedule=ddit_ext.Forecast(calls=3)),
    "forecast of coarse steps": dict(schedule=ddit_ext.Forecast(calls=4, sizes=[1, 2, 1, 1])),
}


@pytest.fixture(autouse=True)
def switch_interval():
    interval = sys.getswitchinterval()
    yield
    sys.setswitchinterval(interval)


def with_its_own_sampler(pipe, sampler=None):
    other = FluxPipeline(**pipe.components | {"scheduler": sampler or make_scheduler()})
    other.set_progress_bar_config(disable=True)
    return other


def scales(handle):
    return [step["scale"] for step in handle.report().to_dict()["steps"]]


@pytest.mark.parametrize("name", STRATEGIES)
def test_eight_threads(name):
    pipe = make_pipeline()
    modules = dict(pipe.transformer.named_modules())
    with ddit_ext.patch(pipe, **STRATEGIES[name]) as handle:
        pipes = [pipe] + [with_its_own_sampler(pipe, copy.deepcopy(pipe.scheduler)) for _ in range(7)]
        alone = [run(each, make_call(steps=STEPS, seed=seed)) for seed, each in enumerate(pipes)]
        taken = scales(handle)
        assert len(taken) == STEPS and len(set(taken)) > 1
        wrong, errors, reports = [], [], []
        sys.setswitchinterval(1e-5)

        def serve(place, runs=20):
            try:
                for _ in range(runs):
                    made = run(pipes[place], make_call(steps=STEPS, seed=place))
                    if not torch.equal(made, alone[place]):
                        wrong.append(place)
                    reports.append(scales(handle) == taken)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=serve, args=(place,)) for place in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors and not wrong and len(reports) == 160 and all(reports)
    assert dict(pipe.transformer.named_modules()) == modules
    assert all(type(each.scheduler) is plain_class(type(each.scheduler)) for each in pipes)


def test_pipelines_with_samplers_that_the_patch_has_never_seen():
    """Made before or after the patch, each is followed as soon as it calls the transformer."""
    pipe = make_pipeline()
    before = with_its_own_sampler(pipe)
    with ddit_ext.patch(pipe, schedule=[1, 1, 2, 1, 2]) as handle:
        after = with_its_own_sampler(pipe)
        want = run(pipe, make_call(steps=STEPS))
        for other in (before, after):
            assert torch.equal(run(other, make_call(steps=STEPS)), want)
            assert scales(handle) == [1, 1, 2, 1, 2]
    assert type(before.scheduler) is type(after.scheduler) is FlowMatchEulerDiscreteScheduler


@pytest.mark.parametrize("schedule", [ddit_ext.Forecast(calls=3), [1] * STEPS], ids=["forecast", "sizes"])
def test_a_forecast_of_a_sampler_that_is_watched(schedule):
    """What the warning of a sampler that forecasts nothing recommends; the patch goes, the forecast stays."""
    pipe = make_pipeline()
    own, call = pipe.scheduler, make_call(steps=STEPS)
    other, plain = with_its_own_sampler(pipe, own), run(pipe, call)
    want = run(with_its_own_sampler(pipe, ForecastScheduler.from_scheduler(own, calls=3)), call)
    with ddit_ext.patch(pipe, schedule=schedule) as handle:
        assert type(own) is not FlowMatchEulerDiscreteScheduler
        other.scheduler = ForecastScheduler.from_scheduler(own, calls=3)
        assert type(other.scheduler.base) is FlowMatchEulerDiscreteScheduler
        assert torch.equal(run(other, call), want)
        assert scales(handle).count(1) == 3
    assert torch.equal(run(other, call), want) and torch.equal(run(pipe, call), plain)
    with ddit_ext.patch(other, schedule=[1] * 3):
        assert torch.equal(run(other, call), want)


def test_copies_of_a_forecast_whose_own_sampler_is_watched():
    pipe, call = make_pipeline(), make_call(steps=STEPS)
    made = ForecastScheduler.from_scheduler(pipe.scheduler, calls=3)
    want = run(with_its_own_sampler(pipe, made), call)
    pipe.scheduler = made.base
    with ddit_ext.patch(pipe, schedule=[1] * STEPS):
        for copied in (copy.copy(made), pickle.loads(pickle.dumps(made)), ForecastScheduler(made, calls=3)):
            assert type(copied.base) is FlowMatchEulerDiscreteScheduler
            assert torch.equal(run(with_its_own_sampler(pipe, copied), call), want)


class Announced:
    """A lock that tells when a thread wants it other than the one that made it."""

    def __init__(self, lock):
        self.lock, self.owner, self.wanted = lock, threading.get_ident(), threading.Event()

    def __enter__(self):
        if threading.get_ident() != self.owner:
            self.wanted.set()
        return self.lock.__enter__()

    def __exit__(self, *error):
        return self.lock.__exit__(*error)


@pytest.mark.parametrize("name", ["coarse", "forecast"])
def test_unpatching_while_a_call_of_another_thread_waits(name):
    """That call is made as it is, and no sampler is watched anew."""
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, **STRATEGIES[name])
    hook, sampler, outputs = handle._hook, pipe.scheduler, []
    sampler.set_timesteps(STEPS, mu=0.7)
    level = float(sampler.sigmas[0])
    holder = hook.watch if name == "forecast" else hook  # where a forecast's calls wait, too
    holder.lock = lock = Announced(holder.lock)
    other = threading.Thread(target=lambda: outputs.append(Loop(pipe).call(level)))
    with lock:
        other.start()
        assert lock.wanted.wait(60)
        handle.unpatch()
    other.join()
    assert torch.equal(outputs[0], Loop(pipe).call(level))
    assert not hook.watch._lines and type(sampler) is plain_class(type(sampler))
    assert handle.report().to_dict()["steps"] == [] or name == "forecast"


@pytest.mark.parametrize("name", ["skipped", "coarse", "threshold"])
def test_runs_that_take_turns_in_one_thread(name):
    """Requests interleaved step by step, each with its own sampler."""

    def loop(pipe, sampler, handle, seed):
        sampler.set_timesteps(STEPS, mu=0.7)
        mine = Loop(pipe)
        mine.latents = torch.randn(mine.latents.shape, generator=torch.Generator().manual_seed(seed))
        for t in sampler.timesteps:
            with handle.run(sampler=sampler):
                velocity = mine.call(float(t) / 1000)
                mine.latents = sampler.step(velocity, t, mine.latents, return_dict=False)[0]
            yield mine.latents

    pipe = make_pipeline()
    with ddit_ext.patch(pipe, **STRATEGIES[name]) as handle:
        alone = []
        for seed in range(3):
            *_, last = loop(pipe, make_scheduler(), handle, seed)
            alone.append(last)
            assert len(set(scales(handle))) > 1
        loops = [loop(pipe, make_scheduler(), handle, seed) for seed in range(3)]
        for _ in range(STEPS):
            turn = [next(each) for each in loops]
        assert all(torch.equal(*pair) for pair in zip(turn, alone, strict=True))


def test_turns_without_a_word_are_refused_where_they_are_ambiguous():
    pipe = make_pipeline()
    ddit_ext.patch(pipe, schedule=[1, 2, 1])
    first, second = pipe.scheduler, copy.copy(pipe.scheduler)
    for sampler in (first, second):
        sampler.set_timesteps(3, mu=0.7)
    with pytest.raises(RuntimeError, match=r"handle\.run\(sampler=\.\.\.\)"):
        Loop(pipe).call(float(first.timesteps[0]) / 1000)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_request_with_a_copy_of_pipeline_and_sampler(name, duplicate):
    pipe = make_pipeline()
    plain = run(pipe, make_call(steps=STEPS))
    handle = ddit_ext.patch(pipe, **STRATEGIES[name])
    want = run(pipe, make_call(steps=STEPS))
    taken, warned = scales(handle), handle.report().to_dict()["warnings"]
    request = copy.copy(pipe)
    request.scheduler = duplicate(pipe.scheduler)
    for _ in range(2):
        assert torch.equal(run(request, make_call(steps=STEPS)), want)
        assert scales(handle) == taken and handle.report().to_dict()["warnings"] == warned
    assert torch.equal(run(pipe, make_call(steps=STEPS)), want)
    handle.unpatch()
    assert torch.equal(run(pipe, make_call(steps=STEPS)), plain)
    if "forecast" not in name:  # a copied ForecastScheduler goes on forecasting: it is a sampler of its own
        assert torch.equal(run(request, make_call(steps=STEPS)), plain)


def test_copies_of_a_sampler_are_made_beside_its_run():
    """A copy never touches the original, which another thread may be stepping with."""
    pipe, call = make_pipeline(), make_call(steps=4)
    handle = ddit_ext.patch(pipe, schedule=[1, 2, 1, 1])
    want, stop = run(pipe, call), threading.Event()

    def copies():
        while not stop.is_set():
            (
                copy.copy(pipe.scheduler),
                copy.deepcopy(pipe.scheduler),
                pickle.loads(pickle.dumps(pipe.scheduler)),
            )

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    other = threading.Thread(target=copies)
    other.start()
    try:
        for _ in range(3):
            assert torch.equal(run(pipe, call), want)
            assert [step["scale"] for step in handle.report().to_dict()["steps"]] == [1, 2, 1, 1]
    finally:
        stop.set()
        other.join()
        sys.setswitchinterval(interval)


def test_a_pipeline_with_a_sampler_of_its_own_is_not_coarse():
    """Forecast(sizes=...) is for the pipeline it was given to: one that shares its model, made before, is told."""
    pipe, call = make_pipeline(), make_call(steps=4)
    other = type(pipe)(**pipe.components)
    other.scheduler = copy.deepcopy(pipe.scheduler)
    other.set_progress_bar_config(disable=True)
    plain = run(other, call)
    ddit_ext.patch(pipe, schedule=ddit_ext.Forecast(calls=3, sizes=2))
    with pytest.warns(UserWarning, match="nothing is forecast"):
        assert torch.equal(run(other, call), plain)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_model_that_was_exchanged_after_patch_is_named(name):
    """It runs as it is, and the patch still comes off the pipeline and off the model that it was on."""
    pipe, other, call = make_pipeline(), make_pipeline(seed=1), make_call(steps=STEPS)
    own, sampler = pipe.transformer, pipe.scheduler
    plain = run(pipe, call)
    handle = ddit_ext.patch(pipe, **STRATEGIES[name])
    run(pipe, call)
    pipe.transformer = other.transformer
    told = "its calls are as they are, forecasts go on" if "forecast" in name else "it is called as it is"
    with pytest.warns(
        UserWarning, match=f"the pipeline's transformer is another one than was patched: {told}, and"
    ):
        shown = run(pipe, call)
    as_it_is = other
    if "forecast" in name:
        settings = STRATEGIES[name]["schedule"].sampler
        forecasts = ddit_ext.ForecastScheduler.from_scheduler(make_scheduler(), **settings)
        as_it_is = with_its_own_sampler(other, forecasts)
    assert torch.equal(shown, run(as_it_is, call))
    handle.unpatch()
    assert pipe.scheduler is sampler and torch.equal(run(pipe, call), run(other, call))
    pipe.transformer = own
    assert torch.equal(run(pipe, call), plain)


def test_a_model_that_was_taken_out_or_compiled_is_no_other(recwarn):
    pipe = make_pipeline()
    own = pipe.transformer
    with ddit_ext.patch(pipe, schedule=[1, 1, 0, 1, 0]):
        recwarn.clear()
        pipe.transformer = None
        pipe.scheduler.set_timesteps(sigmas=[1.0, 0.5], mu=1.0)
        pipe.transformer = torch.compile(own, backend="eager")
        pipe.scheduler.set_timesteps(sigmas=[1.0, 0.5], mu=1.0)
    assert not recwarn.list


def test_a_model_that_was_wrapped_after_patch_is_no_other(recwarn):
    """PEFT's wrapper holds the patched model, whose calls go on as they were asked for."""
    pipe = make_pipeline()
    with ddit_ext.patch(pipe, schedule=[1, 2, 4, 1, 2]) as handle:
        recwarn.clear()
        pipe.transformer = get_peft_model(pipe.transformer, LoraConfig(r=2, target_modules=["to_q"]))
        run(pipe, make_call(steps=STEPS))
        assert scales(handle) == [1, 2, 4, 1, 2]
    assert not [each for each in recwarn.list if "another one" in str(each.message)]
