"""Calls of the transformer that belong to no run are made as without a patch: warm-up, probing, another tool."""

import pytest
import torch
from flux_pipelines import make_call, make_pipeline, run
from loops import Loop

import ddit_ext

pytestmark = pytest.mark.filterwarnings("ignore")

STRATEGIES = {
    "skipped": dict(schedule=[1, 0, 0, 1]),
    "coarse": dict(schedule=2),
    "forecast": dict(schedule=ddit_ext.Forecast(calls=3)),
}


def probes(pipe, sigmas=(1.0, 0.75, 0.75, 0.5, 0.5, 0.2)):
    loop = Loop(pipe)
    return torch.stack([loop.call(sigma) for sigma in sigmas])


def test_before_between_and_after_runs(strategy=STRATEGIES["skipped"]):
    for strategy in STRATEGIES.values():
        pipe = make_pipeline()
        want = probes(pipe)
        handle = ddit_ext.patch(pipe, **strategy)
        assert torch.equal(probes(pipe), want)
        ran = run(pipe, make_call(steps=4))
        steps = handle.report().to_dict()["steps"]
        assert torch.equal(probes(pipe), want)
        assert handle.report().to_dict()["steps"] == steps
        assert torch.equal(run(pipe, make_call(steps=4)), ran)
        handle.unpatch()
        assert torch.equal(probes(pipe), want)


def test_after_a_forecast_that_began_in_the_middle():
    pipe = make_pipeline("img2img")
    handle = ddit_ext.patch(pipe, **STRATEGIES["forecast"])
    run(pipe, make_call("img2img", steps=10) | {"strength": 0.6})
    steps = handle.report().to_dict()["steps"]
    probes(pipe)
    assert handle.report().to_dict()["steps"] == steps


@pytest.mark.parametrize("name", STRATEGIES)
def test_within_a_run(name):
    """A callback that calls the transformer, also at the noise level of the step that follows."""
    pipe = make_pipeline()
    ahead = []

    def look(pipe, index, timestep, kwargs):
        sampler = pipe.scheduler
        if index < 3:
            ahead.append(float(sampler.sigmas[index + 1]))
            seen.append(probes(pipe, (0.9, ahead[-1], ahead[-1])))
        return kwargs

    seen = []
    handle = ddit_ext.patch(pipe, **STRATEGIES[name])
    want = run(pipe, make_call(steps=4))
    taken = handle.report().to_dict()["steps"]
    assert torch.equal(run(pipe, make_call(steps=4) | {"callback_on_step_end": look}), want)
    assert [step["scale"] for step in handle.report().to_dict()["steps"]] == [step["scale"] for step in taken]
    handle.unpatch()
    assert all(
        torch.equal(probed, probes(pipe, (0.9, sigma, sigma)))
        for probed, sigma in zip(seen, ahead, strict=True)
    )


def test_after_a_run_that_was_left(tmp_path):
    pipe = make_pipeline()
    want = probes(pipe)
    ddit_ext.patch(pipe, schedule=[1, 0, 0, 0])

    def leave(pipe, index, timestep, kwargs):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run(pipe, make_call(steps=4) | {"callback_on_step_end": leave})
    assert torch.equal(probes(pipe), want)
    level = float(pipe.scheduler.sigmas[1])  # the noise level of the step that did not come
    assert torch.equal(probes(pipe, (level,)), (ddit_ext.unpatch(pipe), probes(pipe, (level,)))[1])


def test_a_loop_says_that_it_is_a_run():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, schedule=[1, 2, 0, 4])
    with handle.run(total=4):
        Loop(pipe).by_hand([0.9, 0.7, 0.5, 0.3, 0.0], calls=2)
    assert [step["scale"] for step in handle.report().to_dict()["steps"]] == [1, 2, 0, 4]
    with pytest.raises(ValueError, match="give total or sampler"):
        handle.run(total=4, sampler=pipe.scheduler)
    with pytest.raises(TypeError, match="sampler must be a diffusers scheduler, got int"):
        handle.run(sampler=3)
    handle.unpatch()
    with pytest.raises(RuntimeError, match="not patched any more"):
        handle.run(total=4)
