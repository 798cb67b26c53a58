"""Loops that call the transformer themselves, with the pipeline's sampler and without, and pipelines that share a patch."""

import gc
import weakref

import pytest
import torch
from diffusers import (
    FluxPipeline,
)
from flux_pipelines import make_call, make_pipeline, run
from loops import Loop

import ddit_ext
from ddit_ext import Budget, Forecast, TeaCache, cells, ops

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")

SCALES = (1, 2, 4)


@pytest.mark.parametrize("calls", [1, 2])
def test_a_loop_without_a_sampler(calls):
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, threshold=1e9)
    sigmas = [0.9, 0.8, 0.65, 0.5, 0.35, 0.2]
    for _ in range(2):
        Loop(pipe).by_hand(sigmas, calls, handle)
        steps = handle.report().to_dict()["steps"]
        assert [step["scale"] for step in steps] == [1, 1, 1, 4, 4]
        assert [round(step["noise_level"], 4) for step in steps] == sigmas[:-1]
    Loop(pipe, rows=5).by_hand([0.1, 0.05, 0.0], calls, handle)
    assert len(handle.report().to_dict()["steps"]) == 2


def test_a_loop_without_a_sampler_scores_the_latents_as_given():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, threshold=0.0)
    loop, kept = Loop(pipe), []
    with handle.run(total=4):
        for sigma in (0.9, 0.7, 0.6, 0.4):
            kept.append(loop.latents)
            loop.call(sigma)
            noise = torch.Generator().manual_seed(1)
            loop.latents = loop.latents + torch.randn(loop.latents.shape, generator=noise)
            loop.latents = loop.latents * sigma
    views = [cells.from_packed(latent, 6, 4) for latent in kept]
    expected = ops.acceleration_quantiles(*views[::-1], list(SCALES), 0.4)
    last = handle.report().to_dict()["steps"][-1]["scores"]
    torch.testing.assert_close(torch.tensor(last), expected)


def test_a_loop_with_the_pipelines_sampler():
    """No set_begin_index, and only a part of the timesteps: the sampler's own index is what counts."""
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, threshold=1e9)
    for first in (0, 3):
        loop = Loop(pipe, batch=2)
        pipe.scheduler.set_timesteps(9, mu=0.7)
        for t in pipe.scheduler.timesteps[first:]:
            velocity = loop.call(float(t) / 1000)
            velocity = velocity + 0.1 * loop.call(float(t) / 1000)
            loop.latents = pipe.scheduler.step(velocity, t, loop.latents, return_dict=False)[0]
        steps = handle.report().to_dict()["steps"]
        assert [step["scale"] for step in steps] == [1, 1, 1] + [4] * (6 - first)
        expected = pipe.scheduler.sigmas[first:-1].tolist()
        assert [step["noise_level"] for step in steps] == pytest.approx(expected, abs=1e-5)


class Casting(Loop):
    """A loop that holds neither what the model gives nor what the sampler does, as `.float()` makes it."""

    def step(self, transformer, sampler, t):
        timestep = torch.full((len(self.latents),), float(t) / 1000)
        velocity = transformer(hidden_states=self.latents, timestep=timestep, **self.arguments)[0] * 1.0
        self.latents = sampler.step(velocity, t, self.latents, return_dict=False)[0] * 1.0


class CastingPipeline(Casting):
    """The same as a pipeline's own methods."""

    def __init__(self, pipe):
        super().__init__(pipe)
        self.transformer, self.scheduler = pipe.transformer, pipe.scheduler

    def __call__(self):
        for t in self.scheduler.timesteps:
            timestep = torch.full((len(self.latents),), float(t) / 1000)
            velocity = (
                self.transformer(hidden_states=self.latents, timestep=timestep, **self.arguments)[0] * 1.0
            )
            self.latents = self.scheduler.step(velocity, t, self.latents, return_dict=False)[0] * 1.0

    def generate(self):
        for t in self.scheduler.timesteps:
            self.step(self.transformer, self.scheduler, t)


@pytest.mark.parametrize("method", [None, "__call__", "generate"])
@torch.no_grad()
def test_a_loop_that_casts_what_it_is_given_was_not_left(method):
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, schedule=[1, 0, 1, 0])
    pipe.scheduler.set_timesteps(4, mu=0.7)
    if method is not None:
        getattr(CastingPipeline(pipe), method)()
    else:
        loop = Casting(pipe)
        for t in pipe.scheduler.timesteps:
            loop.step(pipe.transformer, pipe.scheduler, t)
    (line,) = handle._hook.watch._lines.values()
    assert line.run.by_pipeline == (method is not None)
    data = handle.report().to_dict()
    assert [step["scale"] for step in data["steps"]] == [1, 0, 1, 0] and not data["warnings"]


def test_last_steps_cannot_be_protected_in_a_loop_without_a_sampler():
    pipe = make_pipeline()
    for schedule in (None, 2):
        handle = ddit_ext.patch(pipe, schedule=schedule, protect=(0, 1))
        with pytest.raises(ValueError, match=r"last steps, here 1, are protected.*by protect=\(first, 0\)"):
            with handle.run():
                Loop(pipe).call(0.9)
        assert run(pipe, make_call(steps=5)).isfinite().all()
        handle.unpatch()


@pytest.mark.parametrize(
    ("refused", "text", "mended"),
    [
        ({"schedule": Budget(2.0)}, r"Budget\(speedup=2\): the length of this run is not known", None),
        ({"protect": (1, 2)}, "the last steps, here 2, are protected", {"protect": (1, 0)}),
        (
            {"schedule": TeaCache(0.25)},
            "the last steps, here 1, are protected",
            {"schedule": TeaCache(0.25, protect=(1, 0))},
        ),
        (
            {"schedule": TeaCache(0.25, sizes=2)},
            "the last steps, here 1, are protected",
            {"schedule": TeaCache(0.25, sizes=2, protect=(1, 0))},
        ),
    ],
)
def test_a_run_of_unknown_length_gets_advice_that_works(refused, text, mended):
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, **refused)
    with pytest.raises(ValueError, match=f"{text}.*let the loop step by pipe.scheduler"):
        Loop(pipe).by_hand([0.9, 0.6, 0.3, 0.0], handle=handle)
    loop = Loop(pipe)
    pipe.scheduler.set_timesteps(8, mu=0.7)
    for t in pipe.scheduler.timesteps:
        loop.latents = pipe.scheduler.step(loop.call(float(t) / 1000), t, loop.latents, return_dict=False)[0]
    assert len(handle.report().to_dict()["steps"]) == 8
    handle.unpatch()
    if mended is not None:
        handle = ddit_ext.patch(pipe, **mended)
        Loop(pipe).by_hand([0.9, 0.6, 0.3, 0.0], handle=handle)
        assert len(handle.report().to_dict()["steps"]) == 3


def test_a_shared_patch_outlives_the_pipeline_it_was_made_on():
    first = make_pipeline()
    second = FluxPipeline(**first.components)
    second.set_progress_bar_config(disable=True)
    gone = weakref.ref(first)
    hook = ddit_ext.patch(first, schedule=[1, 1, 0, 1, 0, 1], protect=(0, 1))._hook
    scheduler = weakref.ref(first.scheduler)
    del first
    gc.collect()
    assert gone() is None
    assert run(second, make_call(steps=6)).isfinite().all()
    assert [step.scale for step in hook.record.steps] == [1, 1, 0, 1, 0, 1] and not hook.record.warnings
    ddit_ext.unpatch(second)
    assert "step" not in second.scheduler.__dict__
    del second
    gc.collect()
    assert scheduler() is None  # the hook, which is held here, keeps nothing


def test_fixed_schedules_in_a_loop_without_a_sampler():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, schedule=[2, 1, 4])
    Loop(pipe).by_hand([0.9, 0.6, 0.3, 0.0], handle=handle)
    assert [step["scale"] for step in handle.report().to_dict()["steps"]] == [2, 1, 4]
    with pytest.raises(ValueError, match="schedule has 3 entries.*step 3"):
        Loop(pipe).by_hand([0.9, 0.6, 0.3, 0.2, 0.0], handle=handle)


def test_a_loop_without_the_sampler_is_not_forecast():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, schedule=Forecast(calls=2))
    for _ in range(2):
        with pytest.warns(UserWarning, match="nothing is forecast: the pipeline's sampler takes no part"):
            Loop(pipe).by_hand([0.9, 0.6, 0.3, 0.0], handle=handle)
        run(pipe, make_call(steps=6))
        assert [step["scale"] for step in handle.report().to_dict()["steps"]].count(1) == 2
