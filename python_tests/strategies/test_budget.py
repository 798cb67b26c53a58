"""Budget: one run is done in time, by step costs that it finds out itself."""

import pytest
import torch
from flux_pipelines import make_call, make_pipeline, run
from presets import TokenClock

import ddit_ext
from ddit_ext import Budget
from ddit_ext.policies import BudgetPolicy
from ddit_ext.reports.outcome import measured_speedup
from ddit_ext.reports.report import RunRecord, StepRecord
from ddit_ext.strategies import StepTimes
from ddit_ext.strategies.clock import ENOUGH

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")
STEPS = 16


@pytest.fixture
def pipe():
    return make_pipeline()


def timed(pipe, handle, call, **clock):
    """Seconds of the run by a clock that counts tokens."""
    clock = TokenClock(pipe, **clock)
    handle.time_by(clock)
    run(pipe, call)
    clock.remove()
    return clock.seconds


@pytest.mark.parametrize(
    ("target", "overhead"), [(1.3, 0.0), (2.0, 0.0), (3.0, 0.0), (1.3, 0.03), (2.0, 0.03)]
)
def test_a_first_run_is_done_in_time(pipe, target, overhead):
    # By tokens a step at 4p costs 10/70 of one at p, with an overhead of 0.03 s 40/100; arithmetic says 0.11.
    call = make_call(rows=8, columns=8, steps=STEPS)
    fine = STEPS * (0.070 + overhead)
    handle = ddit_ext.patch(pipe, schedule=Budget(target))
    taken = timed(pipe, handle, call, overhead=overhead)
    # A step more or less at p is as near as whole steps come.
    step = (0.070 + overhead) / fine
    assert fine / taken >= target * (1 - 2 * step)
    assert fine / taken <= target / (1 - 3 * step * target)
    steps = handle.report().to_dict()["steps"]
    assert steps[-1]["scale"] == 1 and {1, 4} <= {done["scale"] for done in steps}


def test_the_report_says_what_was_reached(pipe):
    handle = ddit_ext.patch(pipe, schedule=Budget(2.0))
    call = make_call(rows=8, columns=8, steps=STEPS)
    taken = timed(pipe, handle, call)
    data = handle.report().to_dict()
    assert data["target_speedup"] == 2.0
    assert data["speedup_measured"] == pytest.approx(STEPS * 0.070 / taken)
    assert f"{data['speedup_measured']:.2f} times as fast by step times, 2 asked for" in str(handle.report())


def test_the_next_run_knows_the_times_of_the_last(pipe):
    handle = ddit_ext.patch(pipe, schedule=Budget(2.0))
    call = make_call(rows=8, columns=8, steps=STEPS)
    timed(pipe, handle, call, overhead=0.03)
    first = handle._hook.watch.run.state._policies[0]._costs()
    timed(pipe, handle, call, overhead=0.03)
    assert first[1] == pytest.approx(0.4)
    timed(pipe, handle, make_call(rows=4, columns=4, steps=STEPS), overhead=0.03)
    assert handle._hook.watch.run.state._policies[0]._costs() != first


def test_what_cannot_be_reached_raises_before_the_first_step(pipe):
    handle = ddit_ext.patch(pipe, schedule=Budget(20.0))
    with pytest.raises(ValueError, match=r"speedup=20 can't be reached: at most \d+.\d\d can in 6 steps"):
        run(pipe, make_call(rows=8, columns=8, steps=6))
    assert handle.report().to_dict()["steps"] == []
    handle.unpatch()
    assert run(pipe, make_call(rows=8, columns=8, steps=6)).isfinite().all()


def test_what_the_clock_shows_to_be_out_of_reach_is_told(pipe):
    handle = ddit_ext.patch(pipe, schedule=Budget(4.0))
    call = make_call(rows=8, columns=8, steps=STEPS)
    timed(pipe, handle, call, overhead=0.03)
    with pytest.warns(UserWarning, match=r"speedup=4 can't be reached: by the times of the last run"):
        timed(pipe, handle, call, overhead=0.03)
    assert any("can't be reached" in text for text in handle.report().to_dict()["warnings"])


def test_coarse_steps_that_save_nothing_are_not_taken(pipe):
    handle = ddit_ext.patch(pipe, schedule=Budget(2.0))
    clock = TokenClock(pipe)
    clock.per_call_only()
    handle.time_by(clock)
    call = make_call(rows=8, columns=8, steps=STEPS)
    run(pipe, call)
    first = [step["scale"] for step in handle.report().to_dict()["steps"]]
    known = first.index(1) + 1  # a step at p was timed
    assert set(first[:known]) > {1} and first.count(1) > STEPS / 2
    for step, scale in enumerate(first[known:], known):
        assert scale == 1 or first[:step].count(scale) <= ENOUGH  # the first doesn't count
    (told,) = [text for text in handle.report().to_dict()["warnings"] if text.startswith("asked for")]
    assert (
        "asked for 2 times the speed, reached 1.00 by step times; a step took at scale 2 1.00, at scale 4 1.00 of"
        in told
    )


def test_protected_steps_stay_fine(pipe):
    handle = ddit_ext.patch(pipe, schedule=Budget(1.5, protect=(2, 3)))
    timed(pipe, handle, make_call(rows=8, columns=8, steps=STEPS))
    sizes = [step["scale"] for step in handle.report().to_dict()["steps"]]
    assert sizes[:2] == [1, 1] and sizes[-3:] == [1, 1, 1] and 4 in sizes


def test_a_target_of_one_is_the_full_run(pipe):
    call = make_call(steps=8)
    plain = run(pipe, call)
    handle = ddit_ext.patch(pipe, schedule=Budget(1))
    assert torch.equal(run(pipe, call), plain)
    assert {step["scale"] for step in handle.report().to_dict()["steps"]} == {1}


def test_a_run_of_unknown_length_raises():
    with pytest.raises(ValueError, match="length of this run is not known"):
        Budget(2.0, (1, 2)).check_length(0)


def started(strategy, costs, times, total=28):
    """The policy of a run, whose step times `times` keeps."""
    times.begin_run("any")
    policy = strategy.start(times)
    policy.estimate(costs)
    policy.begin(total)
    return policy


def took(policy, scale, seconds):
    policy.observe(StepRecord(0, 0.5, None, scale, [scale], 4, seconds))


def test_costs_are_measured_without_the_first_coarse_steps():
    costs, times = {1: 1.0, 2: 0.25, 4: 0.0625}, StepTimes()
    policy = started(Budget(2.0), costs, times, 20)
    assert policy._costs() == (0.25, 0.0625)
    for scale, seconds in ((4, 9.0), (2, 9.0), (4, 3.0), (1, 10.0)):
        took(policy, scale, seconds)
    assert policy._costs() == (0.25, 0.0625)  # one time against what was expected
    took(policy, 4, 3.2)
    assert policy._costs() == pytest.approx(
        (0.25, 0.25 * 0.99)
    )  # scale 2 is still a guess, and 4 must cost less
    for seconds in (5.0, 6.0, 4.0):  # the second at scale 2 counts
        took(policy, 2, seconds)
    assert policy._costs() == pytest.approx((0.5, 0.3))
    took(policy, 4, 3.4)
    assert policy._costs() == pytest.approx((0.5, 0.32))
    assert started(Budget(2.0), costs, times, 20)._costs() == pytest.approx((0.5, 0.32))
    times.begin_run("another")
    assert policy._costs() == (0.25, 0.0625)


STRATEGY, COSTS = Budget(1.5, (1, 2), protect=(4, 0)), {1: 1.0, 2: 0.3}


def coarse_steps(times, slow=(), total=28):
    """How many a run takes in which a full-size step takes 1 s and a coarse one 0.3; those in `slow`, by number, 1 s."""
    policy = started(STRATEGY, COSTS, times, total)
    coarse = 0
    for step in range(total):
        scale = policy.decide(step, None)
        took(policy, scale, 1.0 if scale == 1 or coarse in slow else 0.3)
        coarse += scale != 1
    return coarse, policy.warning()


@pytest.mark.parametrize("slow", range(1, 13))
def test_one_slow_coarse_step_decides_nothing(slow):
    times = StepTimes()
    wanted = int((28 - 28 / 1.5) / 0.7) + 1
    first, *later = [coarse_steps(times, {slow})] + [coarse_steps(times) for _ in range(3)]
    assert first[0] >= wanted and later == [(wanted, None)] * 3


def test_a_scale_that_saved_nothing_is_tried_again_in_the_next_run():
    times = StepTimes()
    assert coarse_steps(times, range(28))[0] == 1 + ENOUGH  # the first doesn't count
    count, warning = coarse_steps(times, range(28))
    assert count == ENOUGH and "can't be reached" in warning
    first, second = coarse_steps(times), coarse_steps(times)
    assert first[0] == second[0] > 12 and second[1] is None


def test_revised_costs_count_the_steps_that_were_decided():
    policy = BudgetPolicy([1, 2], [0.25], 2.0, protect_first=1)
    policy.begin(8)
    for step in range(4):
        policy.decide(step, [])
    assert policy.spent == pytest.approx(1 + 3 * 0.25)
    policy.revise([0.4])
    assert policy.spent == pytest.approx(1 + 3 * 0.4) and policy.costs == [0.4]
    sizes = [policy.decide(step, [[0.0, 0.0]]) for step in range(4, 8)]
    assert policy.spent == pytest.approx(2.2 + sum({1: 1.0, 2: 0.4}[size] for size in sizes))
    assert policy.spent <= 4.0 + 1e-9


def test_revised_costs_that_put_the_target_out_of_reach():
    policy = BudgetPolicy([1, 2], [0.25], 3.0)
    policy.begin(8)
    policy.decide(0, [])
    policy.revise([0.9])
    assert [policy.decide(step, [[9.0, 9.0]]) for step in range(1, 8)] == [2] * 7


@pytest.mark.parametrize("costs", [[], [0.5, 0.2], [1.0], [0.0], [-1.0], [float("nan")]])
def test_bad_revised_costs_change_nothing(costs):
    policy = BudgetPolicy([1, 2], [0.25], 2.0)
    policy.begin(8)
    policy.decide(0, [])
    with pytest.raises(ValueError, match="costs must"):
        policy.revise(costs)
    assert policy.costs == [0.25] and policy.spent == 0.25


def test_measured_speedup_needs_steps_at_p():
    def record(*steps):
        made = [
            StepRecord(i, 0.5, None, scale, [scale], 4, seconds) for i, (scale, seconds) in enumerate(steps)
        ]
        return RunRecord((1, 2), (1.0,), True, 8 * 6.0, steps=made)

    # The first step counts as the median of the others at its scale.
    assert measured_speedup(record((1, 5.0), (1, 2.0), (1, 4.0), (2, 1.0), (2, 2.0))) == pytest.approx(
        5 * 3 / 12
    )
    shorter = record((1, 5.0), (1, 2.0), (1, 2.0), (1, 2.0))
    shorter.full_steps = 10
    assert measured_speedup(shorter) == pytest.approx(2.5)
    forecast = record((1, 5.0), (1, 2.0), (0, 0.0), (1, 2.0), (0, 0.0), (0, 0.0))
    assert measured_speedup(forecast) == pytest.approx(2.0)
    assert measured_speedup(record((1, 5.0), (1, 2.0), (2, 1.0))) is None
    assert measured_speedup(record()) is None
