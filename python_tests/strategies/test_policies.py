"""Policies from Python. cpp_tests/test_policies.cpp plays the same shared cases."""

import copy
import itertools
import re

import pytest
from test_patch_scheduler import CASES, nan_for_null, play

import ddit_ext
from ddit_ext import policies

ignore_training_free = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")


def policy_of(case):
    beside = ("name", "policy", "calls", "begin", "before", "call", "error")
    arguments = {name: nan_for_null(value) for name, value in case.items() if name not in beside}
    return getattr(policies, case["policy"])(**arguments)


def play_all(policy, calls):
    for call in calls:
        answer = play(policy, call)
        if len(call) == 1:
            assert policy.per_sample == []
        else:
            assert [answer, policy.per_sample] == call[2:], f"step {call[0]}"


@pytest.mark.parametrize("run", CASES["policies"], ids=lambda run: run["name"])
def test_shared_runs(run):
    play_all(policy_of(run), run["calls"])


@pytest.mark.parametrize("case", CASES["bad_policies"], ids=lambda case: case["error"])
def test_shared_bad_policies(case):
    with pytest.raises(ValueError, match=re.escape(case["error"])):
        policy = policy_of(case)
        policy.begin(case["begin"])


@pytest.mark.parametrize("case", CASES["bad_decisions"], ids=lambda case: case["error"])
def test_shared_bad_decisions(case):
    policy = policy_of(case)
    for call in case["before"]:
        play(policy, call)
    with pytest.raises(ValueError, match=re.escape(case["error"])):
        play(policy, case["call"])


@pytest.mark.parametrize("run", CASES["policies"], ids=lambda run: run["name"])
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_copy_goes_its_own_way(run, duplicate):
    first = policy_of(run)
    middle = len(run["calls"]) // 2
    play_all(first, run["calls"][:middle])
    second = duplicate(first)
    assert type(second) is type(first) and repr(second) == repr(first)
    play_all(second, run["calls"][middle:])
    play_all(first, run["calls"][middle:])


def test_words_for_the_signal():
    policy = policies.PatchScheduler(
        [1, 2],
        [1.0],
        1,
        2,
        warmup_scale=2,
        only_finer=True,
        mixed="hold",
    )
    assert (policy.warmup_scale, policy.only_finer, policy.mixed) == (2, True, "hold")
    assert repr(policy) == (
        "PatchScheduler(scales=[1, 2], thresholds=[1], protect_first=1, protect_last=2, warmup_scale=2, "
        "only_finer=True, mixed='hold')"
    )
    plain = policies.BudgetPolicy([1, 2], [0.5], 1.5)
    assert (plain.warmup_scale, plain.only_finer, plain.mixed) == (None, False, "use")
    assert (plain.costs, plain.target_speedup, plain.reference) == ([0.5], 1.5, [])
    assert repr(plain) == (
        "BudgetPolicy(scales=[1, 2], costs=[0.5], target_speedup=1.5, protect_first=0, protect_last=0)"
    )
    with pytest.raises(ValueError, match="mixed must be 'use' or 'hold', got 'none'"):
        policies.PatchScheduler([1, 2], [1.0], mixed="none")


def test_every_policy_is_a_policy():
    assert issubclass(policies.PatchScheduler, policies.Policy)
    assert isinstance(policies.FixedSchedule([1, 2], 2), policies.Policy)
    assert ddit_ext.PatchScheduler is policies.PatchScheduler
    with pytest.raises(TypeError, match="abstract"):
        policies.Policy()


def sizes(policy, steps):
    policy.begin(steps)
    return [policy.decide(step, None) for step in range(steps)]


def test_fixed_schedules_say_what_they_are():
    assert policies.FixedSchedule([1, 2], 2).schedule == 2
    assert policies.FixedSchedule([1, 2], [2, 1]).schedule == [2, 1]
    assert sizes(policies.FixedSchedule([1, 2], 2), 3) == [2, 2, 2]


def scores_after(taken, at_p, error):
    """The score at each step where a coarse step adds `error` to the differences across a change of size."""
    last = taken[-3:]
    return at_p + (error if len(set(last)) > 1 else 0.0)


@pytest.mark.parametrize(
    ("mixed", "expected"),
    [("use", [1, 1, 1] + [4, 1, 1, 1] * 5), ("hold", [1, 1, 1] + [4] * 20)],
)
def test_holding_ends_the_flicker_of_the_papers_rule(mixed, expected):
    """A threshold between the scores at p and the jump that a change of size makes; docs/studies/bistable-threshold.md."""
    policy = policies.PatchScheduler([1, 4], [0.5], mixed=mixed)
    taken = []
    for step in range(23):
        signal = step >= 3 and (mixed == "use" or len(set(taken[-3:])) == 1)
        score = scores_after(taken, 0.1, 1.0) if signal else None
        taken.append(policy.decide(step, [[0.0, score]] if signal else None))
    assert taken == expected


def test_a_budget_is_kept_where_every_score_jumps():
    for target, mixed in itertools.product((1.3, 2.0, 3.0), ("use", "hold")):
        policy = policies.BudgetPolicy([1, 4], [0.2], target, mixed=mixed)
        policy.begin(28)
        taken = []
        for step in range(28):
            signal = step >= 3 and (mixed == "use" or len(set(taken[-3:])) == 1)
            score = scores_after(taken, 0.1, 1.0) if signal else None
            taken.append(policy.decide(step, [[0.0, score]] if signal else None))
        cost = sum({1: 1.0, 4: 0.2}[size] for size in taken)
        assert cost == pytest.approx(policy.spent)
        assert 28 / target - 0.8 < cost <= 28 / target + 1e-9


# ---- in a pipeline -------------------------------------------------------------------------------------------
