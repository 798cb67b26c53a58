"""What the sampler tells: runs, steps, and a float32 signal that bf16 latents do not have."""

import gc
import inspect
import math
import weakref

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FluxPipeline,
    UniPCMultistepScheduler,
)
from flux_pipelines import TEXT, make_call, make_pipeline, make_scheduler, make_transformer, one_thread, run

import ddit_ext
from ddit_ext import cells, ops
from ddit_ext.models import FluxSteering
from ddit_ext.patching.sampler import SamplerWatch
from ddit_ext.policies import Stacked, TeaCachePolicy

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")

SCALES = (1, 2, 4)


@pytest.fixture(autouse=True)
def single_thread():
    with one_thread():
        yield


class Pipe:
    def __init__(self, scheduler):
        self.scheduler = scheduler


def smooth_path(side: int = 32):
    """velocity(σ) of a made-up rectified flow whose picture forms smoothly, as a real model's does."""
    generator = torch.Generator().manual_seed(0)
    noise, picture, detail = torch.randn(3, 1, (side // 2) ** 2, 16, generator=generator)
    return noise, lambda sigma: noise - picture - detail * 0.5 * (1 - math.cos(2 * sigma))


def scores_of_path(dtype, exact):
    """Scores of a 50-step pipeline run along `smooth_path`, and those of the latents that the pipeline kept.

    exact: the velocities are the same numbers in every dtype (rounded to bf16 beforehand).
    """
    pipe = make_pipeline(dtype=dtype)
    handle = ddit_ext.patch(pipe, threshold=0.0, scales=SCALES)
    noise, velocity = smooth_path()

    def follow(module, args, output):
        sigma = pipe.scheduler.sigmas[pipe.scheduler.step_index or 0].item()
        out = velocity(sigma)
        return ((out.bfloat16() if exact else out).to(dtype),)

    pipe.transformer.register_forward_hook(follow)
    kept = [noise.to(dtype)]
    call = make_call(rows=16, columns=16, steps=50, dtype=dtype) | dict(
        latents=noise.to(dtype), callback_on_step_end=lambda p, i, t, kw: kept.append(kw["latents"]) or kw
    )
    run(pipe, call)
    scores = torch.tensor([step["scores"][0] for step in handle.report().to_dict()["steps"][3:]])
    views = [cells.from_packed(latent.float(), 16, 16) for latent in kept]
    raw = torch.cat(
        [ops.acceleration_quantiles(*views[k - 3 : k + 1][::-1], list(SCALES), 0.4) for k in range(3, 50)]
    )
    return scores, raw


def test_bf16_and_float32_runs_see_the_same_scores():
    exact, _ = scores_of_path(torch.float32, exact=True)
    scores, raw = scores_of_path(torch.bfloat16, exact=True)
    # The same velocities: equal up to float32 rounding of the latents they are added to (of size 4, 2**-22).
    torch.testing.assert_close(scores, exact, rtol=0.01, atol=3e-6)
    # Control: the latents of the bf16 pipeline itself have another score altogether.
    assert (raw - exact).abs().median() > 100 * (scores - exact).abs().max()


def test_bf16_outputs_change_the_scores_by_their_own_rounding_only():
    exact, raw32 = scores_of_path(torch.float32, exact=False)
    scores, raw16 = scores_of_path(torch.bfloat16, exact=False)
    # 1/50 of a velocity of size 2 to 4, rounded to 2**-8 of itself: about 1e-4 in a third difference.
    assert (scores - exact).abs().max() < 3e-4
    assert (raw16 - exact).abs().median() > 1e-3
    # In float32 the pipeline's own latents say the same as the watch.
    torch.testing.assert_close(raw32, exact, rtol=0.01, atol=1e-5)


@pytest.mark.parametrize(
    "scheduler",
    [
        make_scheduler(),
        make_scheduler(stochastic_sampling=True),
        FlowMatchHeunDiscreteScheduler(),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    ],
    ids=["euler", "stochastic", "heun", "unipc"],
)
def test_a_watched_sampler_does_as_it_did(scheduler):
    """Bit-equal results; the history is the path of the sampler's own differences."""
    paths = []
    model = make_transformer()
    for watched in (False, True):
        extra = {"mu": 0.7} if "mu" in inspect.signature(scheduler.set_timesteps).parameters else {}
        scheduler.set_timesteps(6, **extra)
        torch.manual_seed(0)
        latents = torch.randn(2, 24, 16)
        steering = FluxSteering(model)
        watch = SamplerWatch(Pipe(scheduler), True, lambda run: None)
        pipe = Pipe(scheduler)
        watch._pipe = weakref.ref(pipe)
        path = [latents]
        for t in scheduler.timesteps:
            if watched:
                current, new = watch.look(latents, (t / 1000).expand(2).float(), steering)
                assert new and current.index == len(path) - 1
            output = torch.tanh(latents) * 0.3
            latents = scheduler.step(output, t, sample=latents, return_dict=False)[0]
            path.append(latents)
            if watched and not current.finished:
                torch.testing.assert_close(current.history._latents[0], latents.float(), atol=1e-5, rtol=1e-5)
        if watched:
            assert current.finished and not len(current.history) and current.total == len(path) - 1
            watch.remove()
        assert "step" not in scheduler.__dict__
        paths.append(path)
    assert all(torch.equal(a, b) for a, b in zip(*paths, strict=True))


def test_only_the_instance_is_wrapped():
    pipe = make_pipeline()
    before = FlowMatchEulerDiscreteScheduler.step
    signature = inspect.signature(pipe.scheduler.step)
    handle = ddit_ext.patch(pipe, schedule=1)
    run(pipe, make_call(steps=2))
    assert FlowMatchEulerDiscreteScheduler.step is before
    assert inspect.signature(pipe.scheduler.step) == signature
    assert "step" in pipe.scheduler.__dict__
    handle.unpatch()
    assert "step" not in pipe.scheduler.__dict__


def test_a_users_own_wrapper_stays():
    pipe = make_pipeline()
    plain, calls = pipe.scheduler.step, []

    def own(*args, **kwargs):
        calls.append(1)
        return plain(*args, **kwargs)

    pipe.scheduler.step = own
    handle = ddit_ext.patch(pipe, threshold=1e9)
    run(pipe, make_call(steps=5))
    assert len(calls) == 5 and handle.report().to_dict()["steps"][-1]["scale"] == 4
    handle.unpatch()
    assert pipe.scheduler.__dict__["step"] is own


@pytest.mark.parametrize("first", [0, 1])
def test_two_patched_pipelines_with_one_sampler(first):
    pipes = [make_pipeline(), make_pipeline(seed=1)]
    pipes[1].scheduler = pipes[0].scheduler
    alone = [run(pipe, make_call(steps=6)) for pipe in pipes]
    handles = [
        ddit_ext.patch(pipe, threshold=threshold) for pipe, threshold in zip(pipes, (1e9, 0.0), strict=True)
    ]
    for _ in range(2):
        for pipe, handle, scale in zip(pipes, handles, (4, 1), strict=True):
            run(pipe, make_call(steps=6))
            steps = handle.report().to_dict()["steps"]
            assert [step["scale"] for step in steps] == [1, 1, 1] + [scale] * 3
    handles[first].unpatch()
    handles[1 - first].unpatch()
    assert "step" not in pipes[0].scheduler.__dict__
    assert all(
        torch.equal(run(pipe, make_call(steps=6)), out) for pipe, out in zip(pipes, alone, strict=True)
    )


def test_one_step_runs_in_a_row_are_runs():
    pipe = make_pipeline()
    begun = []
    ddit_ext.patch(pipe, schedule=lambda step: begun.append(step) or 1)
    for _ in range(3):
        run(pipe, make_call(steps=1))
    assert begun == [0, 0, 0]


def test_the_history_is_freed_at_the_end_of_a_run():
    pipe = make_pipeline()
    kept = []

    def look(pipe, index, t, kwargs):
        watch = next(iter(pipe.transformer._forward_pre_hooks.values())).hook.watch
        kept.append((len(watch.run.history), [weakref.ref(latent) for latent in watch.run.history._latents]))
        return kwargs

    ddit_ext.patch(pipe, threshold=0.0)
    run(pipe, make_call(steps=6) | {"callback_on_step_end": look})
    gc.collect()
    assert [count for count, _ in kept] == [2, 3, 4, 4, 4, 0]
    assert all(ref() is None for _, refs in kept for ref in refs)


def test_noise_levels_are_the_samplers_own_in_bf16():
    pipe = make_pipeline(dtype=torch.bfloat16)
    handle = ddit_ext.patch(pipe, schedule=1)
    run(pipe, make_call(steps=9, dtype=torch.bfloat16))
    steps = handle.report().to_dict()["steps"]
    assert [step["noise_level"] for step in steps] == pipe.scheduler.sigmas[:-1].tolist()


class Loop:
    """A user's own denoising loop around the transformer."""

    def __init__(self, pipe, rows=6, columns=4, batch=1):
        self.pipe = pipe
        generator = torch.Generator().manual_seed(0)
        self.latents = torch.randn(batch, rows * columns, 16, generator=generator)
        self.arguments = dict(
            encoder_hidden_states=torch.randn(batch, TEXT, 32, generator=generator),
            pooled_projections=torch.randn(batch, 32, generator=generator),
            img_ids=torch.cartesian_prod(
                torch.zeros(1), torch.arange(1.0 * rows), torch.arange(1.0 * columns)
            ),
            txt_ids=torch.zeros(TEXT, 3),
            return_dict=False,
        )

    @torch.no_grad()
    def call(self, sigma):
        timestep = torch.full((len(self.latents),), sigma)
        return self.pipe.transformer(hidden_states=self.latents, timestep=timestep, **self.arguments)[0]

    def by_hand(self, sigmas, calls=1):
        """Euler steps without any sampler."""
        for sigma, following in zip(sigmas, sigmas[1:], strict=False):
            for _ in range(calls):
                velocity = self.call(sigma)
            self.latents = self.latents + (following - sigma) * velocity


@pytest.mark.parametrize("calls", [1, 2])
def test_a_loop_without_a_sampler(calls):
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, threshold=1e9)
    sigmas = [0.9, 0.8, 0.65, 0.5, 0.35, 0.2]
    for _ in range(2):  # rising noise begins a new run
        Loop(pipe).by_hand(sigmas, calls)
        steps = handle.report().to_dict()["steps"]
        assert [step["scale"] for step in steps] == [1, 1, 1, 4, 4]
        assert [round(step["noise_level"], 4) for step in steps] == sigmas[:-1]
    Loop(pipe, rows=5).by_hand([0.1, 0.05, 0.0], calls)  # so does another shape
    assert len(handle.report().to_dict()["steps"]) == 2


def test_a_loop_without_a_sampler_scores_the_latents_as_given():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, threshold=0.0)
    loop, kept = Loop(pipe), []
    for sigma in (0.9, 0.7, 0.6, 0.4):
        kept.append(loop.latents)
        loop.call(sigma)
        loop.latents = loop.latents + torch.randn(
            loop.latents.shape, generator=torch.Generator().manual_seed(1)
        )
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


def test_last_steps_cannot_be_protected_in_a_loop_without_a_sampler():
    pipe = make_pipeline()
    for schedule in (None, 2):
        handle = ddit_ext.patch(pipe, schedule=schedule, protect=(0, 1))
        with pytest.raises(ValueError, match=r"last steps, here 1, are protected.*by protect=\(first, 0\)"):
            Loop(pipe).call(0.9)
        assert run(pipe, make_call(steps=5)).isfinite().all()
        handle.unpatch()


@pytest.mark.parametrize(
    ("refused", "text", "mended"),
    [
        ({"target_speedup": 2.0}, "target_speedup=2: the length of this run is not known", None),
        ({"target_speedup": 2.0, "forecast": 0.5}, "target_speedup=2: the length of this run is not", None),
        ({"target_speedup": 2.0, "forecast": 0.5, "protect": (0, 1)}, "target_speedup=2: the length", None),
        ({"protect": (1, 2)}, "the last steps, here 2, are protected", {"protect": (1, 0)}),
        (
            {"schedule": TeaCachePolicy(0.25)},
            "the last steps, here 1, are protected",
            {"schedule": TeaCachePolicy(0.25, protect_last=0)},
        ),
        (
            {"schedule": Stacked(TeaCachePolicy(0.25))},
            "the last steps, here 1, are protected",
            {"schedule": Stacked(TeaCachePolicy(0.25, protect_last=0))},
        ),
    ],
)
def test_a_run_of_unknown_length_gets_advice_that_works(refused, text, mended):
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, **refused)
    with pytest.raises(ValueError, match=f"{text}.*let the loop step by pipe.scheduler"):
        Loop(pipe).by_hand([0.9, 0.6, 0.3, 0.0])
    loop = Loop(pipe)
    pipe.scheduler.set_timesteps(8, mu=0.7)
    for t in pipe.scheduler.timesteps:
        loop.latents = pipe.scheduler.step(loop.call(float(t) / 1000), t, loop.latents, return_dict=False)[0]
    assert len(handle.report().to_dict()["steps"]) == 8
    handle.unpatch()
    if mended is not None:
        handle = ddit_ext.patch(pipe, **mended)
        Loop(pipe).by_hand([0.9, 0.6, 0.3, 0.0])
        assert len(handle.report().to_dict()["steps"]) == 3


def test_a_shared_patch_outlives_the_pipeline_it_was_made_on():
    first = make_pipeline()
    second = FluxPipeline(**first.components)
    second.set_progress_bar_config(disable=True)
    gone = weakref.ref(first)
    hook = ddit_ext.patch(
        first, schedule=[1, 1, 0, 1, 0, 1], forecast=0.5, corrector=1.0, protect=(0, 1)
    )._hook
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
    Loop(pipe).by_hand([0.9, 0.6, 0.3, 0.0])
    assert [step["scale"] for step in handle.report().to_dict()["steps"]] == [2, 1, 4]
    with pytest.raises(ValueError, match="schedule has 3 entries.*step 3"):
        Loop(pipe).by_hand([0.9, 0.6, 0.3, 0.2, 0.0])


def test_a_loop_without_the_sampler_is_not_corrected():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, schedule=[1, 0, 1], corrector=1.0)
    with pytest.warns(UserWarning, match="nothing is corrected: the pipeline's sampler takes no part"):
        Loop(pipe).by_hand([0.9, 0.6, 0.3, 0.0])
    assert [step["scale"] for step in handle.report().to_dict()["steps"]] == [1, 0, 1]


def test_latents_off_the_grid_give_no_signal():
    """A sampler that is stepped with something else than the transformer's latents."""
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, threshold=1e9)
    loop = Loop(pipe)
    pipe.scheduler.set_timesteps(6, mu=0.7)
    with pytest.warns(UserWarning, match="no signal: latents of shape"):
        for t in pipe.scheduler.timesteps:
            velocity = loop.call(float(t) / 1000)[..., :3, :]
            pipe.scheduler.step(velocity, t, loop.latents[..., :3, :])
    assert {step["scale"] for step in handle.report().to_dict()["steps"]} == {1}


def test_a_loop_with_unpacked_latents():
    """A sampler that is stepped with pictures [B, C, H, W] while the transformer gets packed tokens."""
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, threshold=1e9)
    loop = Loop(pipe)
    pictures = torch.randn(1, 4, 12, 8)
    pipe.scheduler.set_timesteps(6, mu=0.7)
    for t in pipe.scheduler.timesteps:
        loop.latents = pipe._pack_latents(pictures, 1, 4, 12, 8)
        velocity = loop.call(float(t) / 1000)
        velocity = cells.from_packed(velocity, 6, 4).permute(0, 1, 4, 2, 5, 3, 6).reshape(1, 4, 12, 8)
        pictures = pipe.scheduler.step(velocity, t, pictures, return_dict=False)[0]
    assert [step["scale"] for step in handle.report().to_dict()["steps"]] == [1, 1, 1, 4, 4, 4]
