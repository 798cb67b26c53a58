"""What the scores are made of: orders, outputs, and differences across a change of size."""

import pytest
import torch
from flux_pipelines import make_call, make_pipeline, run
from loops import Loop

import ddit_ext
from ddit_ext import cells, ops, policies
from ddit_ext.runtime.history import History, of_one_size

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")

SCALES = (1, 2, 4)


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


def steps_of(pipe, policy, call, **arguments):
    handle = ddit_ext.patch(pipe, schedule=policy, **arguments)
    try:
        run(pipe, call)
        return handle.report().to_dict()["steps"]
    finally:
        handle.unpatch()


def by_hand(newest_first, order, rows=6, columns=4):
    """Scores of a difference d, as those of the third difference of d, 0, 0, 0."""
    views = [cells.from_packed(latent.float(), rows, columns) for latent in newest_first]
    weights = {1: (1, -1), 2: (1, -2, 1), 3: (1, -3, 3, -1)}[order]
    difference = sum(weight * view for weight, view in zip(weights, views, strict=True))
    nothing = torch.zeros_like(difference)
    return ops.acceleration_quantiles(difference, nothing, nothing, nothing, list(SCALES), 0.4)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_scores_of_each_order(order):
    generator = torch.Generator().manual_seed(order)
    latents = [torch.randn(2, 24, 16, generator=generator) for _ in range(order + 2)]
    history = History(order)
    for i, latent in enumerate(latents):
        assert history.ready == (i > order)
        history.push(latent)
    scores = history.scores(lambda z: cells.from_packed(z, 6, 4), SCALES, 0.4)
    expected = by_hand(latents[: -order - 2 : -1], order)
    torch.testing.assert_close(torch.tensor(scores), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("source", ["latents", "outputs"])
def test_a_run_by_order_and_source(pipe, order, source):
    """The first signal comes as early as the order allows, from what its source names."""
    seen = {"latents": [], "outputs": []}
    step = pipe.scheduler.step

    def watched(model_output, timestep, sample, **kwargs):
        seen["outputs"].append(model_output)
        seen["latents"].append(sample)
        return step(model_output, timestep, sample, **kwargs)

    pipe.scheduler.step = watched
    try:
        policy = policies.PatchScheduler(SCALES, [0.0, 0.0], order=order, source=source)
        steps = steps_of(pipe, policy, make_call(steps=7, true_cfg=True))
    finally:
        del pipe.scheduler.step
    first = order + (source == "outputs")
    assert [step["scores"] is None for step in steps] == [True] * first + [False] * (7 - first)
    for index in range(first, 7):
        newest = index if source == "latents" else index - 1
        used = seen[source][newest - order : newest + 1][::-1]
        scores = torch.tensor(steps[index]["scores"])
        torch.testing.assert_close(scores, by_hand(used, order), rtol=1e-3, atol=1e-5)


def test_a_dynamic_run_that_ends_before_its_signal_warns(pipe):
    policy = policies.PatchScheduler(SCALES, [1.0, 1.0], order=1)
    assert [step["scale"] for step in steps_of(pipe, policy, make_call(steps=3))] == [1, 4, 4]
    policy = policies.PatchScheduler(SCALES, [1.0, 1.0], order=2, source="outputs")
    with pytest.warns(UserWarning, match="no signal: a run of 4 steps.* before step 3"):
        steps_of(pipe, policy, make_call(steps=4))


def test_outputs_need_the_pipelines_sampler(pipe):
    policy = policies.PatchScheduler(SCALES, [1e9, 1e9], source="outputs", order=1)
    handle = ddit_ext.patch(pipe, schedule=policy)
    with pytest.warns(UserWarning, match="no signal: source='outputs' needs the pipeline's sampler"):
        Loop(pipe).by_hand([0.9, 0.8, 0.6, 0.4, 0.2])
    data = handle.report().to_dict()
    handle.unpatch()
    assert [step["scale"] for step in data["steps"]] == [1] * 4
    assert any("source='outputs'" in text for text in data["warnings"])
    assert "no step was coarse: no step had a signal" in data["warnings"]


def test_differences_across_a_change_of_size_are_left_out(pipe):
    """order + 1 latents have `order` differences, as many outputs have one more."""
    for order, source in ((3, "latents"), (2, "latents"), (2, "outputs")):
        policy = policies.PatchScheduler(
            (1, 2), [1e9], order=order, source=source, mixed="hold", warmup_scale=1
        )
        steps = steps_of(pipe, policy, make_call(steps=14))
        first = order + (source == "outputs")
        scored = [step["index"] for step in steps if step["scores"]]
        # One decision at p, the next when all differences are of steps at 2p, and then each step.
        assert scored == [first, *range(2 * first, 14)]
        assert [step["scale"] for step in steps] == [1] * first + [2] * (14 - first)


def test_a_coarse_start(pipe):
    policy = policies.PatchScheduler(SCALES, [0.0, 0.0], warmup_scale=4)
    assert [step["scale"] for step in steps_of(pipe, policy, make_call(steps=6))] == [4, 4, 4, 1, 1, 1]
    handle = ddit_ext.patch(pipe, schedule=policies.PatchScheduler(SCALES, [1e9, 0.0], warmup_scale=4))
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
