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
    UniPCMultistepScheduler,
)
from flux_pipelines import make_call, make_pipeline, make_scheduler, make_transformer, run

import ddit_ext
from ddit_ext import cells, ops
from ddit_ext.families import FluxFamily
from ddit_ext.runtime.patched_call import find_hook
from ddit_ext.runtime.sampler_watch import SamplerWatch

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")

SCALES = (1, 2, 4)


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
        family = FluxFamily(model)
        watch = SamplerWatch(Pipe(scheduler), True, lambda run: None)
        pipe = Pipe(scheduler)
        watch._pipe = weakref.ref(pipe)
        path = [latents]
        for t in scheduler.timesteps:
            if watched:
                current, new = watch.look(latents, (t / 1000).expand(2).float(), family)
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
    run(pipe, make_call(steps=2))
    attributes = vars(pipe.scheduler).keys()
    handle = ddit_ext.patch(pipe, schedule=1)
    run(pipe, make_call(steps=2))
    assert FlowMatchEulerDiscreteScheduler.step is before
    assert inspect.signature(pipe.scheduler.step) == signature
    assert type(pipe.scheduler) is not FlowMatchEulerDiscreteScheduler
    assert isinstance(pipe.scheduler, FlowMatchEulerDiscreteScheduler)
    assert vars(pipe.scheduler).keys() == attributes
    handle.unpatch()
    assert type(pipe.scheduler) is FlowMatchEulerDiscreteScheduler


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
    assert type(pipes[0].scheduler) is FlowMatchEulerDiscreteScheduler
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
        watch = find_hook(pipe.transformer).watch
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
