"""patch(target_speedup=…, forecast=…): as many steps are computed as the time allows, the others are forecast."""

import itertools

import pytest
import torch
from flux_pipelines import make_call, make_pipeline, run
from presets import TokenClock

import ddit_ext
from ddit_ext import policies
from ddit_ext.coarse import Adapter
from ddit_ext.policies import SKIP
from ddit_ext.runtime.timed import ENOUGH
from ddit_ext.runtime.timed_forecast import GROWTH, IDLE, TimedForecast

STEPS = 16


@pytest.fixture
def pipe():
    return make_pipeline()


def sizes_of(policy, total, idle=0.0, surprise=()):
    """Of a run in which a computed step takes 1 s and a skipped one `idle`; steps in `surprise` are computed anyhow."""
    policy.begin(total)
    taken = []
    for step in range(total):
        size = policy.decide(step, None) or int(step in surprise)
        taken.append(size)
        policy.stepped(size, 1.0 if size else idle)
    return taken


def cost_of(sizes, idle):
    return sum(1.0 if size else idle for size in sizes)


@pytest.mark.parametrize("total", [12, 28, 50])
@pytest.mark.parametrize("target", [1.3, 2.0, 2.6, 4.0])
@pytest.mark.parametrize("idle", [0.0, IDLE, 0.1])
def test_a_run_ends_in_time_and_uses_it(total, target, idle):
    policy = TimedForecast(target, (0, 0))
    policy.estimate({1: 1.0}, "any")
    fewest = cost_of([1, 1] + [0] * (total - 2), idle)
    guessed, known = (cost_of(sizes_of(policy, total, idle), idle) for _ in range(2))
    assert known <= max(total / target, fewest) + 1e-9
    assert known > total / target - (1 - idle) - 1e-9
    assert abs(guessed - known) <= 1 - idle + 1e-9  # a run that finds out what a skipped step costs


def test_gaps_grow_as_those_of_growing_gaps():
    policy = TimedForecast(28 / 11.4, (0, 0))
    policy.estimate({1: 1.0}, "any")
    sizes = sizes_of(policy, 28, 0.0)
    assert sizes.count(1) == 11
    planned = policies.growing_gaps(28, 11, GROWTH)
    places, others = ([step for step in range(28) if taken[step]] for taken in (sizes, planned))
    assert all(abs(place - other) <= 1 for place, other in zip(places, others, strict=True))
    gaps = [b - a for a, b in itertools.pairwise(places)]
    assert sorted(gaps) == gaps or max(abs(a - b) for a, b in zip(gaps, sorted(gaps), strict=True)) <= 1


def test_protected_steps_are_computed():
    policy = TimedForecast(2.0, (4, 3))
    policy.estimate({1: 1.0}, "any")
    sizes = sizes_of(policy, 28, 0.02)
    assert sizes[:4] == [1] * 4 and sizes[-3:] == [1] * 3 and sizes.count(1) == 13


def test_the_protected_last_step_is_one_of_the_fewest():
    policy = TimedForecast(4.0, (0, 1))
    policy.estimate({1: 1.0}, "any")
    for _ in range(2):
        sizes = sizes_of(policy, 10, 0.02)
    assert sizes == [1, *[0] * 8, 1]


def test_only_the_newest_times_count():
    policy = TimedForecast(2.0, (0, 0))
    policy.estimate({1: 1.0}, "any")
    for idle in (0.3, 0.1):
        for _ in range(5):
            sizes_of(policy, 28, idle)
        assert policy._idle() == pytest.approx(idle)


def test_a_loop_that_tells_no_times_keeps_its_budget():
    policy = TimedForecast(2.0, (0, 0))
    policy.estimate({1: 1.0}, "any")
    policy.begin(28)
    assert [policy.decide(step, None) for step in range(28)].count(1) == 13


def test_a_step_that_was_computed_after_all_is_paid_for():
    policy = TimedForecast(2.0, (0, 0))
    policy.estimate({1: 1.0}, "any")
    plain = sizes_of(policy, 28)
    more = [step for step in range(6, 16) if plain[step] == 0][:3]
    assert sizes_of(policy, 28, surprise=more).count(1) == plain.count(1)


def test_where_skipping_saves_nothing_it_is_only_tried():
    policy = TimedForecast(2.0, (0, 0))
    policy.estimate({1: 1.0}, "any")
    assert sizes_of(policy, 28, idle=1.2).count(SKIP) == 1 + ENOUGH  # the first doesn't count
    assert policy.remark is None
    assert sizes_of(policy, 28, idle=1.2).count(SKIP) == ENOUGH
    assert "can't be reached: by the times of the last run" in policy.remark
    assert sizes_of(policy, 28, idle=IDLE).count(SKIP) > 12
    sizes_of(policy, 28, idle=IDLE)
    assert policy.remark is None


@pytest.mark.parametrize("slow", range(1, 14))
def test_one_slow_skipped_step_decides_nothing(slow):
    policy = TimedForecast(2.0, (0, 0))
    policy.estimate({1: 1.0}, "any")
    policy.begin(28)
    taken = []
    for step in range(28):
        taken.append(policy.decide(step, None))
        outlier = taken[-1] == SKIP and taken.count(SKIP) == slow + 1
        policy.stepped(taken[-1], 1.2 if outlier else taken[-1] or IDLE)
    assert taken.count(SKIP) >= 15
    assert [sizes_of(policy, 28, idle=IDLE).count(SKIP) for _ in range(3)] == [15] * 3
    assert policy.remark is None


def test_times_of_another_shape_are_forgotten():
    policy = TimedForecast(2.0, (0, 0))
    policy.estimate({1: 1.0}, "any")
    sizes_of(policy, 28, idle=0.2)
    assert policy._idle() == pytest.approx(0.2)
    policy.estimate({1: 1.0}, "another")
    assert policy._idle() == IDLE


def test_what_cannot_be_reached_raises_and_leaves_the_pipeline_usable(pipe):
    handle = ddit_ext.patch(pipe, target_speedup=20.0, forecast=0.5)
    call = make_call(rows=8, columns=8, steps=6)
    with pytest.raises(
        ValueError, match=r"target_speedup=20 can't be reached: at most 2\.88 can in 6 steps with 2 computed"
    ):
        run(pipe, call)
    handle.unpatch()
    assert run(pipe, call).isfinite().all()


def test_a_run_of_unknown_length_raises():
    with pytest.raises(ValueError, match="length of this run is not known"):
        TimedForecast(2.0, (0, 0)).begin(0)


@pytest.mark.parametrize("target", [1.5, 2.0, 3.0])
def test_a_pipeline_run(pipe, target):
    call = make_call(rows=8, columns=8, steps=STEPS)
    handle = ddit_ext.patch(pipe, target_speedup=target, forecast=0.5)
    clock = TokenClock(pipe)
    handle.time_by(clock)
    for _ in range(2):
        before = clock.seconds
        drawn = run(pipe, call)
    taken = clock.seconds - before
    data = handle.report().to_dict()
    sizes = [step["scale"] for step in data["steps"]]
    # By tokens a skipped step is free, and a computed one more or less is as near as whole steps come.
    assert STEPS / target - 1 < sizes.count(1) <= STEPS / target and set(sizes) == {0, 1}
    assert taken == pytest.approx(sizes.count(1) * 0.070)
    assert data["target_speedup"] == target and data["warnings"] == []
    handle.unpatch()
    ddit_ext.patch(pipe, schedule=sizes, forecast=0.5)
    assert torch.equal(run(pipe, call), drawn)


def test_an_adapter_is_not_needed_and_not_used(pipe):
    call = make_call(rows=8, columns=8, steps=STEPS)
    drawn = []
    for adapter in (None, Adapter.create(pipe.transformer, rank=2)):
        handle = ddit_ext.patch(pipe, adapter, target_speedup=2.0, forecast=0.5)
        clock = TokenClock(pipe)
        handle.time_by(clock)
        drawn.append(run(pipe, call))
        clock.remove()
        handle.unpatch()
    assert torch.equal(*drawn)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"scales": (1, 2)}, ValueError, r"computes at size 1 alone: leave out scales; got \(1, 2\)"),
        ({"schedule": [1, 0]}, ValueError, "give target_speedup or schedule, not both"),
        ({"batch": "split"}, ValueError, "batch='finest'"),
        ({"forecast": 1.5}, ValueError, r"forecast must be in \[0, 1\]"),
        ({"forecast": 0.0, "scales": (1,)}, ValueError, r"a size above 1 in scales, or a forecast"),
    ],
)
def test_bad_arguments(pipe, settings, error, text):
    before = dict(pipe.transformer.__dict__)
    with pytest.raises(error, match=text):
        ddit_ext.patch(pipe, **({"target_speedup": 2.0, "forecast": 0.5} | settings))
    assert pipe.transformer.__dict__ == before
