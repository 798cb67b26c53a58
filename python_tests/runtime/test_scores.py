"""What the scores are made of, and differences across a change of scale."""

import pytest
import torch
from flux_pipelines import make_call, make_pipeline, run

import ddit_ext
from ddit_ext import Threshold, cells, ops
from ddit_ext.runtime.history import of_one_size

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


def steps_of(pipe, strategy, call):
    handle = ddit_ext.patch(pipe, schedule=strategy)
    try:
        run(pipe, call)
        return handle.report().to_dict()["steps"]
    finally:
        handle.unpatch()


def test_a_run_is_scored_by_its_latents(pipe):
    seen = []
    step = pipe.scheduler.step

    def watched(model_output, timestep, sample, **kwargs):
        seen.append(sample)
        return step(model_output, timestep, sample, **kwargs)

    pipe.scheduler.step = watched
    try:
        steps = steps_of(pipe, Threshold(0.0), make_call(steps=7, true_cfg=True))
    finally:
        del pipe.scheduler.step
    assert [step["scores"] is None for step in steps] == [True] * 3 + [False] * 4
    for index in range(3, 7):
        views = [cells.from_packed(latent.float(), 6, 4) for latent in seen[index - 3 : index + 1][::-1]]
        expected = ops.acceleration_quantiles(*views, [1, 2, 4], 0.4)
        torch.testing.assert_close(torch.tensor(steps[index]["scores"]), expected, rtol=1e-3, atol=1e-5)


def test_a_dynamic_run_that_ends_before_its_signal_warns(pipe):
    with pytest.warns(UserWarning, match="no signal: a run of 4 steps.* before step 3"):
        steps_of(pipe, Threshold(), make_call(steps=4))


def test_differences_across_a_change_of_scale_are_left_out(pipe):
    steps = steps_of(pipe, Threshold(1e9, scales=(1, 2), mixed="hold"), make_call(steps=14))
    scored = [step["index"] for step in steps if step["scores"]]
    # One decision at scale 1, the next when all differences are of steps at scale 2, and then each step.
    assert scored == [3, *range(6, 14)]
    assert [step["scale"] for step in steps] == [1] * 3 + [2] * 11


def test_a_coarse_start(pipe):
    steps = steps_of(pipe, Threshold(0.0, warmup_scale=4), make_call(steps=6))
    assert [step["scale"] for step in steps] == [4, 4, 4, 1, 1, 1]
    handle = ddit_ext.patch(pipe, schedule=Threshold([1e9, 0.0], warmup_scale=4))
    run(pipe, make_call(steps=6))
    assert handle.report().to_dict()["warnings"] == [
        "every step was coarse; protect=(0, n) keeps the last n steps fine"
    ]
    handle.unpatch()


def test_of_one_size():
    sizes = {0: 1, 1: 1, 2: [1, 2], 3: [1, 2], 5: [4, 2]}
    assert of_one_size(sizes, range(0, 2), 2) == [True, True]
    assert of_one_size(sizes, range(1, 3), 2) == [True, False]
    assert of_one_size(sizes, range(2, 4), 2) == [True, True]
    assert of_one_size(sizes, range(3, 6), 2) == [False, False]  # nobody knows about step 4
