"""State and memory end with the run, however it ends; a handle keeps no pipeline."""

import copy
import gc
import weakref

import pytest
import torch
from flux_pipelines import make_call, make_pipeline, run
from loops import Loop

import ddit_ext
from ddit_ext.runtime.patched_call import find_hook

pytestmark = pytest.mark.filterwarnings("ignore")

SKIP = dict(schedule=[1, 1, 0, 1, 0, 1])


def tensors():
    gc.collect()
    return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())


def stop(pipe, index, timestep, kwargs):
    pipe._interrupt = index >= 3
    return kwargs


def fail(pipe, index, timestep, kwargs):
    if index == 3:
        raise InterruptedError
    return kwargs


@pytest.mark.parametrize(
    "settings", [SKIP, dict(schedule=2), dict(threshold=1e9), dict(schedule=ddit_ext.Forecast(calls=3))]
)
@pytest.mark.parametrize("count", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_runs_and_aborted_runs_are_flat(settings, count):
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, **settings)
    call = make_call(steps=5)

    def abort(callback):
        try:
            run(pipe, call | {"callback_on_step_end": callback})
        except InterruptedError:
            pass

    run(pipe, call)
    abort(stop)
    before = tensors()
    for _ in range(count):
        run(pipe, call)
    assert tensors() <= before
    for place in range(count // 2):
        abort((stop, fail)[place % 2])
    run(pipe, call)
    assert tensors() <= before
    assert handle.report() is not None


@pytest.mark.parametrize("callback", [stop, fail])
def test_what_skipped_steps_need_is_freed_when_a_run_is_left(callback):
    pipe = make_pipeline()
    ddit_ext.patch(pipe, **SKIP)
    kept = []

    def note(pipe, index, timestep, kwargs):
        watch = find_hook(pipe.transformer).watch
        kept[:] = [weakref.ref(tensor) for tensor in watch.run.state.residuals._residuals.values()]
        return callback(pipe, index, timestep, kwargs)

    try:
        run(pipe, make_call(steps=6) | {"callback_on_step_end": note})
    except InterruptedError:
        pass
    assert kept and all(ref() is None for ref in kept)


def test_what_skipped_steps_need_is_freed_with_the_sampler_of_a_loop_that_was_left():
    pipe, kept = make_pipeline(), []
    handle = ddit_ext.patch(pipe, **SKIP)

    def loop():
        mine, sampler = Loop(pipe), copy.deepcopy(pipe.scheduler)
        sampler.set_timesteps(6, mu=0.7)
        with handle.run(sampler=sampler):
            for index, t in enumerate(sampler.timesteps):
                velocity = mine.call(float(t) / 1000) * 1.0
                mine.latents = sampler.step(velocity, t, mine.latents, return_dict=False)[0] * 1.0
                residuals = find_hook(pipe.transformer).watch.run.state.residuals._residuals
                kept[:] = [weakref.ref(tensor) for tensor in residuals.values()]
                assert kept
                if index == 3:
                    raise InterruptedError

    with pytest.raises(InterruptedError):
        loop()
    gc.collect()
    assert all(ref() is None for ref in kept)


@pytest.mark.parametrize(
    "settings",
    [
        SKIP,
        dict(threshold=1e9),
        *(dict(schedule=ddit_ext.Forecast(calls=3, sizes=sizes)) for sizes in (None, 1)),
    ],
)
def test_nothing_is_kept_of_a_request_with_a_sampler_of_its_own(settings):
    pipe = make_pipeline()
    ddit_ext.patch(pipe, **settings)
    request = copy.copy(pipe)
    request.scheduler = copy.deepcopy(pipe.scheduler)
    run(request, make_call(steps=6))
    gone = weakref.ref(request.scheduler)
    del request
    gc.collect()
    assert gone() is None


def test_patches_are_flat():
    pipe = make_pipeline()
    run(pipe, make_call(steps=2))
    counts = []
    for count in range(60):
        handle = ddit_ext.patch(pipe, schedule=[1, 2])
        run(pipe, make_call(steps=2))
        handle.unpatch()
        if count in (4, 59):
            gc.collect()
            counts.append((len(gc.get_objects()), len(vars(pipe.scheduler)), len(vars(pipe.transformer))))
    (few, *attributes), (many, *later) = counts
    assert attributes == later and many - few < 500


def test_a_handle_keeps_no_pipeline():
    for leave in (lambda pipe, handle: handle.unpatch(), lambda pipe, handle: ddit_ext.unpatch(pipe)):
        pipe = make_pipeline()
        handle = ddit_ext.patch(pipe, schedule=[1, 2])
        run(pipe, make_call(steps=2))
        assert handle.pipe is pipe
        leave(pipe, handle)
        assert handle.pipe is pipe
        gone = weakref.ref(pipe.transformer)
        del pipe
        gc.collect()
        assert gone() is None and handle.pipe is None
        assert len(handle.report().to_dict()["steps"]) == 2 and "FluxPipeline" in repr(handle)
