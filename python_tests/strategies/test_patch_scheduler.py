"""The C++ scheduler from Python. cpp_tests/test_patch_scheduler.cpp plays the same shared cases."""

import itertools
import json
import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import ddit_ext
from ddit_ext import PatchScheduler

CASES = json.loads((Path(__file__).parents[2] / "cpp_tests" / "cases" / "scheduler_cases.json").read_text())


def nan_for_null(value):
    if isinstance(value, list):
        return [nan_for_null(item) for item in value]
    return math.nan if value is None else value


def scheduler_of(case):
    names = ("scales", "thresholds", "protect_first", "protect_last")
    return PatchScheduler(**{name: nan_for_null(case[name]) for name in names if name in case})


def play(scheduler, call):
    """[total_steps] is a begin, [step, scores, ...] a decision."""
    if len(call) == 1:
        return scheduler.begin(call[0])
    return scheduler.decide(call[0], nan_for_null(call[1]))


@pytest.mark.parametrize("run", CASES["runs"], ids=lambda run: run["name"])
def test_shared_runs(run):
    scheduler = scheduler_of(run)
    for call in run["calls"]:
        answer = play(scheduler, call)
        if len(call) == 1:
            assert scheduler.per_sample == []
        else:
            assert [answer, scheduler.per_sample] == call[2:], f"step {call[0]}"


@pytest.mark.parametrize("case", CASES["bad_constructions"], ids=lambda case: case["error"])
def test_shared_bad_constructions(case):
    with pytest.raises(ValueError, match=re.escape(case["error"])):
        scheduler_of(case)


@pytest.mark.parametrize("case", CASES["bad_calls"], ids=lambda case: case["error"])
def test_shared_bad_calls(case):
    scheduler = PatchScheduler([1, 2], [1.0], protect_last=case.get("protect_last", 0))
    for call in case["before"]:
        play(scheduler, call)
    with pytest.raises(ValueError, match=re.escape(case["error"])):
        play(scheduler, case["call"])


def random_runs(count=200):
    draw = random.Random(0)
    for _ in range(count):
        scales = [1, *sorted(draw.sample(range(2, 9), draw.randint(0, 4)))]
        thresholds = [draw.choice([0.0, 0.5, draw.random()]) for _ in scales[1:]]
        protect = draw.randint(0, 2), draw.randint(0, 2)
        scores = [
            [[draw.choice([draw.random(), 0.5, math.nan]) for _ in scales] for _ in range(draw.randint(0, 3))]
            for _ in range(draw.randint(1, 8))
        ]
        yield scales, thresholds, protect, scores


def test_random_runs_follow_the_rule():
    for scales, thresholds, protect, scores in random_runs():
        scheduler = PatchScheduler(scales, thresholds, *protect)
        scheduler.begin(len(scores))
        for step, samples in enumerate(scores):
            is_protected = step < protect[0] or step >= len(scores) - protect[1]
            expected = []
            for sample in samples:
                below = [
                    s for s, score, t in zip(scales[1:], sample[1:], thresholds, strict=True) if score < t
                ]
                expected.append(1 if is_protected else max(below, default=1))
            assert scheduler.decide(step, samples) == min(expected, default=1)
            assert scheduler.per_sample == expected


def test_larger_thresholds_never_refine():
    for scales, thresholds, protect, scores in random_runs():
        strict, loose = (
            PatchScheduler(scales, [t + more for t in thresholds], *protect) for more in (0, 0.25)
        )
        for scheduler in (strict, loose):
            scheduler.begin(len(scores))
        for step, samples in enumerate(scores):
            assert strict.decide(step, samples) <= loose.decide(step, samples)


def test_the_order_of_samples_does_not_matter():
    samples = [[0, 0.2, 0.9], [0, 0.9, 0.9], [0, 0.9, 0.2]]
    for order in itertools.permutations(samples):
        scheduler = PatchScheduler([1, 2, 4], [0.5, 0.5])
        assert scheduler.decide(0, order) == 1
        assert sorted(scheduler.per_sample) == [1, 2, 4]


def test_a_failed_call_leaves_the_run_as_it_was():
    scheduler = PatchScheduler([1, 2], [1.0])
    assert scheduler.decide(0, [[0, 0]]) == 2
    with pytest.raises(ValueError, match="scores must hold one number per scale"):
        scheduler.decide(1, [[0]])
    assert scheduler.per_sample == [2]
    assert scheduler.decide(0, []) == 2
    assert scheduler.decide(1, [[0, 2]]) == 1


def test_scores_of_every_kind():
    values = [[0.0, 0.1, 0.9], [0.0, 0.1, 0.1]]
    kinds = (values, tuple(map(tuple, values)), np.array(values), torch.tensor(values))
    for scores in kinds:
        scheduler = PatchScheduler((1, 2, 4), (0.5, 0.5))
        assert scheduler.decide(0, scores) == 2
        assert scheduler.per_sample == [2, 4]
    for nothing in ([], None, np.zeros((0, 3)), torch.zeros(0, 3)):
        assert PatchScheduler((1, 2, 4), (0.5, 0.5)).decide(0, nothing) == 1


@pytest.mark.parametrize("scores", [[1.0, 2.0], [["a", "b"]], 3, "no", torch.zeros(2)], ids=repr)
def test_scores_that_are_no_table_raise(scores):
    with pytest.raises(TypeError, match=r"scores must be numbers as scores\[sample\]\[scale\], got "):
        PatchScheduler([1, 2], [1.0]).decide(0, scores)


def test_scores_of_the_op():
    latents = [torch.randn(2, 1, 4, 4, 3, 2, 2) for _ in range(4)]
    scheduler = PatchScheduler([1, 2, 4], [math.inf, 0.0])
    assert scheduler.decide(3, ddit_ext.ops.acceleration_quantiles(*latents, scheduler.scales, 0.4)) == 2


def test_says_what_it_is():
    scheduler = PatchScheduler((1, 2, 4), (0.5, 0.25), protect_first=2, protect_last=1)
    assert (scheduler.scales, scheduler.thresholds) == ([1, 2, 4], [0.5, 0.25])
    assert (scheduler.protect_first, scheduler.protect_last) == (2, 1)
    assert repr(scheduler) == (
        "PatchScheduler(scales=[1, 2, 4], thresholds=[0.5, 0.25], protect_first=2, protect_last=1)"
    )
    with pytest.raises(AttributeError):
        scheduler.scales = [1]
