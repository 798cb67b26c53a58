"""A sampler that two threads use at once: the first is told, and the second's picture is the right one."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from flow_families import FAMILIES
from flux_pipelines import make_call, make_pipeline
from flux_pipelines import run as flux_run
from loops import Loop

import ddit_ext
from ddit_ext import Forecast

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 6
SIGMAS = [1.0 - k / STEPS for k in range(STEPS)]
REFUSED = "one sampler is used by two threads at once: give each pipeline a sampler of its own"
SETTINGS = {
    "sizes": dict(schedule=[1, 2, 1, 2, 1, 2]),
    "forecast": dict(),
    "forecast of sizes": dict(schedule=Forecast(calls=3, sizes=[1, 2, 1])),
}
NAMES = ("FLUX.1", "Stable Diffusion 3")  # the first says where its run begins, the second does not
every_family = pytest.mark.parametrize("family", [each for each in FAMILIES if each.name in NAMES], ids=lambda each: each.name)  # fmt: skip


def run(family, pipe, seed=0, **further):
    return family.run(pipe, steps=STEPS, generator=torch.Generator().manual_seed(seed), **further)


class Held:
    """A run in another thread that waits after its first step, or in the model's first call, until `ends`."""

    def __init__(self, family, pipe, in_a_call=False):
        self.errors, self._inside, self._go_on = [], threading.Event(), threading.Event()
        self._family, self._pipe, self._in_a_call = family, pipe, in_a_call
        self._thread = threading.Thread(target=self._run)
        hook = pipe.transformer.register_forward_hook(self._called)
        self._thread.start()
        assert self._inside.wait(60)
        hook.remove()

    def _run(self):
        try:
            run(self._family, self._pipe, callback_on_step_end=self._stepped)
        except Exception as error:
            self.errors.append(str(error))

    def _called(self, *_):
        if self._in_a_call and threading.current_thread() is self._thread:
            self._wait()

    def _stepped(self, pipe, index, timestep, kwargs):
        if not self._inside.is_set():
            self._wait()
        return kwargs

    def _wait(self):
        self._inside.set()
        assert self._go_on.wait(60)

    def ends(self):
        self._go_on.set()
        self._thread.join()


def is_refused(held):
    held.ends()
    (error,) = held.errors
    assert error.startswith(REFUSED)


@every_family
@pytest.mark.parametrize("name, in_a_call", [*((name, False) for name in SETTINGS), ("forecast", True)])
@pytest.mark.parametrize("goes_on", ["within", "after"])
def test_the_first_is_refused_within_the_second_and_after_it(family, name, in_a_call, goes_on):
    pipe = family.build()
    ddit_ext.patch(pipe, **SETTINGS[name])
    want = run(family, pipe, seed=1)
    held = Held(family, pipe, in_a_call)

    def stepped(pipe, index, timestep, kwargs):
        if index == 1 and goes_on == "within":
            is_refused(held)
        return kwargs

    assert torch.equal(run(family, pipe, seed=1, callback_on_step_end=stepped), want)
    if goes_on == "after":
        is_refused(held)
    assert torch.equal(run(family, pipe, seed=1), want)


@every_family
@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_that_is_over_or_was_left_refuses_no_other_thread(family, name):
    """Pools of threads use one pipeline by turns, under a lock."""
    pipe = family.build()
    handle = ddit_ext.patch(pipe, **SETTINGS[name])
    want, made, errors = run(family, pipe), [], []

    def leave(pipe, index, timestep, kwargs):
        raise InterruptedError

    def turn(**further):
        try:
            made.append(run(family, pipe, **further))
        except InterruptedError:
            pass
        except Exception as error:
            errors.append(error)

    def other(**further):
        thread = threading.Thread(target=turn, kwargs=further)
        thread.start()
        thread.join()

    for leaves in ({}, {"callback_on_step_end": leave}):
        turn(**leaves)
        other()
        turn()
        other(**leaves)
        turn()
    assert not errors and len(made) == 8 and all(torch.equal(each, want) for each in made)
    assert len(handle.report().to_dict()["steps"]) == STEPS


class Probe(Loop):
    """A pipeline's method that calls the transformer outside of a run."""

    def __init__(self, pipe):
        super().__init__(pipe)
        self.transformer, self.scheduler = pipe.transformer, pipe.scheduler

    def __call__(self):
        timestep = torch.full((1,), 0.5)
        return self.transformer(hidden_states=self.latents, timestep=timestep, **self.arguments)[0]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_call_after_both_runs_is_refused_in_no_thread(name):
    pipe, call = make_pipeline(), make_call(steps=STEPS)
    plain = Probe(pipe)()
    ddit_ext.patch(pipe, **SETTINGS[name])
    flux_run(pipe, call)
    thread = threading.Thread(target=flux_run, args=(pipe, call))
    thread.start()
    thread.join()
    assert torch.equal(Probe(pipe)(), plain)


def in_another_thread(function, *args, **kwargs):
    """What it gives there."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args, **kwargs).result()


def test_a_thread_whose_run_was_left_calls_as_without_a_forecast():
    """The transformer alone, and a loop of its own with its own copy of the sampler."""
    pipe, call = make_pipeline(), make_call(steps=STEPS)
    plain = Probe(pipe)()
    ddit_ext.patch(pipe)

    def leave(*_):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        flux_run(pipe, call | {"callback_on_step_end": leave})
    in_another_thread(flux_run, pipe, call)
    loop = Loop(pipe)
    assert torch.equal(loop.call(0.5), plain)
    own = copy.deepcopy(pipe.scheduler)
    own.set_timesteps(sigmas=SIGMAS, mu=1.0)
    for timestep in own.timesteps:
        loop.latents = own.step(loop.call(float(timestep) / 1000), timestep, loop.latents)[0]
    assert len(own.computed) == len(own.timesteps) == STEPS // 2


class Yielding(Probe):
    """A pipeline whose method yields after each step."""

    @torch.no_grad()
    def steps(self):
        self.scheduler.set_timesteps(sigmas=SIGMAS, mu=1.0)
        for timestep in self.scheduler.timesteps:
            velocity = self.transformer(
                hidden_states=self.latents, timestep=timestep.reshape(1) / 1000, **self.arguments
            )[0]
            self.latents = self.scheduler.step(velocity, timestep, self.latents)[0]
            yield self.latents


def test_a_forecast_may_be_handed_from_thread_to_thread():
    """As servers do with a generator; nothing runs at once."""
    pipe = make_pipeline()
    ddit_ext.patch(pipe)
    *_, want = Yielding(pipe).steps()
    handed, made = Yielding(pipe).steps(), None
    while (latents := in_another_thread(next, handed, None)) is not None:
        made = latents
    assert torch.equal(made, want)
