"""Strategies: frozen data, compared by value, checked when they are made, saved as data."""

import json
import math

import numpy as np
import pytest

import ddit_ext
from ddit_ext.strategies import (
    SKIP,
    Budget,
    Fixed,
    Forecast,
    Policy,
    StepTimes,
    TeaCache,
    Threshold,
    as_strategy,
    from_dict,
)

ALL = [
    Threshold(),
    Threshold([1e-3, 2e-3], scales=[1, 2, 4], quantile=0.3, protect=[1, 2], warmup_scale=2, only_finer=True),
    Threshold(math.inf, mixed="hold"),
    Budget(2),
    Budget(1.5, scales=(1, 2), costs=[0.3], reference=[[0.1, 0.2], [0.3, 0.4]]),
    Forecast(calls=11),
    Forecast(speedup=2.5, target="exact", growth=1.5, slope=0.5, corrector=1),
    Forecast(calls=9, sizes=[2, 2, 1]),
    TeaCache(0.1),
    TeaCache(0.1, sizes=Threshold(), coefficients=[2, 1, 0], protect=[2, 2]),
    Fixed(2),
    Fixed([1, 1, 0, 2], protect=(0, 1)),
    Fixed([4, 2, 1], stretch=True),
]


@pytest.mark.parametrize("strategy", ALL, ids=repr)
def test_as_data_and_back(strategy):
    again = from_dict(json.loads(json.dumps(strategy.to_dict())))
    assert again == strategy
    assert hash(again) == hash(strategy)
    assert eval(repr(strategy), vars(ddit_ext.strategies) | {"inf": math.inf}) == strategy


def test_equal_by_value_whatever_they_were_written_as():
    assert Threshold(1e-3) == Threshold((1e-3, 1e-3))
    assert Fixed(np.array([1, 2])) == Fixed([1, 2]) == Fixed((1, 2))
    assert Forecast(speedup=2) == Forecast(speedup=2.0) != Forecast(calls=2)
    assert len({*ALL}) == len(ALL)


def test_frozen():
    with pytest.raises(AttributeError):
        Threshold().threshold = 1.0


def test_at_the_top_level():
    for name in ("Threshold", "Budget", "Forecast", "TeaCache", "Fixed", "Adapter"):
        assert name in dir(ddit_ext)
        assert getattr(ddit_ext, name).__name__ == name


@pytest.mark.parametrize(
    "make, error, text",
    [
        (lambda: Threshold("1e-3"), TypeError, "threshold must be a number, got '1e-3'"),
        (lambda: Threshold(-1), ValueError, "threshold must not be negative, got -1"),
        (lambda: Threshold([1, 2, 3]), ValueError, "threshold must be one number, or 2: .* got 3"),
        (lambda: Threshold(math.nan), ValueError, "threshold must be a number, got NaN"),
        (lambda: Threshold(scales=(2, 4)), ValueError, r"scales must be distinct .* got \(2, 4\)"),
        (lambda: Threshold(quantile=1.5), ValueError, r"quantile must be in \[0, 1\], got 1.5"),
        (lambda: Threshold(protect=(0, -1)), ValueError, "protect must be two whole numbers"),
        (lambda: Threshold(mixed="drop"), ValueError, "mixed must be one of"),
        (
            lambda: Threshold(warmup_scale=3),
            ValueError,
            r"warmup_scale: expected one of the scales \(1, 2, 4\), got 3",
        ),
        (lambda: Budget(0.5), ValueError, "speedup must be at least 1, got 0.5"),
        (lambda: Budget(math.inf), ValueError, "speedup must be finite"),
        (lambda: Budget(2, scales=(1,)), ValueError, r"scales: a budget needs a scale above 1, got \(1,\)"),
        (lambda: Budget(2, costs=(0.3, 0.5)), ValueError, "costs"),
        (
            lambda: Forecast(),
            ValueError,
            "Forecast needs either calls or speedup, got calls=None, speedup=None",
        ),
        (lambda: Forecast(calls=2, speedup=2), ValueError, "either calls or speedup"),
        (lambda: Forecast(calls=0), ValueError, "calls must be at least 1, got 0"),
        (lambda: Forecast(calls=2.5), TypeError, "calls must be a whole number, got 2.5"),
        (lambda: Forecast(speedup=0.9), ValueError, "speedup must be at least 1, got 0.9"),
        (lambda: Forecast(calls=2, target="best"), ValueError, "target must be one of"),
        (lambda: Forecast(calls=2, growth=5), ValueError, r"growth must be in \[1, 4\], got 5"),
        (lambda: Forecast(calls=2, slope=-1), ValueError, r"slope must be in \[0, 1\], got -1"),
        (lambda: Forecast(calls=2, corrector=True), TypeError, "corrector must be a number, got True"),
        (lambda: Budget(2, reference=[[1, 2]]), ValueError, "reference must .* 3, a step, got 2 for step 0"),
        (lambda: Budget(2, reference=5), TypeError, "reference must be a sequence, got 5"),
        (lambda: Forecast(calls=2, sizes=[1, 0.5]), TypeError, "sizes of Forecast: sizes must be a whole"),
        (lambda: Forecast(calls=2, sizes=[]), ValueError, "sizes of Forecast: .* an empty list"),
        (lambda: Forecast(calls=2, sizes="2"), TypeError, "sizes of Forecast: .* got the text '2'"),
        (lambda: TeaCache(1, sizes=Threshold), TypeError, "sizes of TeaCache: .* got the class Threshold"),
        (lambda: Forecast(calls=2, sizes=TeaCache(1)), ValueError, "sizes of Forecast must not skip steps"),
        (lambda: TeaCache(1, sizes=[1, 0]), ValueError, "sizes of TeaCache must not skip steps"),
        (lambda: TeaCache(1, coefficients=[]), ValueError, "coefficients"),
        (lambda: Fixed(0), ValueError, r"schedule: expected one of the scales"),
        (lambda: Fixed([0, 1]), ValueError, r"schedule\[0\]: the first step can't be skipped"),
        (lambda: Fixed([]), ValueError, "schedule: expected one scale a step, got an empty list"),
        (
            lambda: Fixed([1, 3], scales=(1, 2)),
            ValueError,
            r"schedule\[1\]: expected one of the scales \(1, 2\), or 0",
        ),
        (lambda: Fixed("12"), TypeError, "sizes must be a whole number, got '12'"),
        (lambda: from_dict({"strategy": "Best"}), ValueError, "strategy must be one of .* got 'Best'"),
        (
            lambda: from_dict({"strategy": "Fixed", "size": 1}),
            TypeError,
            "Fixed got .* 'size'; did you mean 'sizes'",
        ),
        (
            lambda: Forecast(cals=2),
            TypeError,
            "Forecast got an unexpected keyword argument 'cals'; did you mean 'calls'",
        ),
        (lambda: Budget(2, zzz=1), TypeError, "Budget got .* 'zzz'; it has speedup, scales"),
        (lambda: from_dict([]), ValueError, "strategy must be one of"),
    ],
)
def test_bad_values_are_named(make, error, text):
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize(
    ("strategy", "text"),
    [
        (Forecast(speedup=2), "28 steps, 1 of 2 computed, the others forecast"),
        (
            Forecast(speedup=2, sizes=[2] * 4 + [1] * 10),
            "28 steps, 1 of 2 computed, the others forecast; the computed ones: 14 steps: 4 at scale 2, 10 at scale 1",
        ),
        (
            Forecast(speedup=2.5, sizes=2),
            "28 steps, 1 of 2.5 computed, the others forecast; the computed ones: 11 steps at scale 2",
        ),
        (
            Forecast(calls=9, sizes=2),
            "28 steps, 9 computed, the others forecast; the computed ones: 9 steps at scale 2",
        ),
        (TeaCache(0.25), "28 steps, skipped while the input has changed by less than 0.25"),
        (
            TeaCache(0.25, sizes=2),
            "28 steps at scale 2, skipped while the input has changed by less than 0.25",
        ),
        (
            TeaCache(0.25, sizes=Threshold(0.5)),
            "28 steps, scales by scores against 0.5, skipped while the input has changed by less than 0.25",
        ),
    ],
)
def test_words_of_strategies_that_leave_steps_out(strategy, text):
    assert strategy.words(28) == text


def scales_of(strategy, total, scores=None):
    policy = strategy.start(StepTimes())
    policy.begin(total)
    return [policy.decide(step, scores) for step in range(total)]


def test_each_start_is_a_run_of_its_own():
    strategy = Threshold(1.0, only_finer=True)
    first, second = strategy.start(StepTimes()), strategy.start(StepTimes())
    for policy in (first, second):
        policy.begin(6)
    assert first.decide(0, [[0.0, 0.0, 2.0]]) == 2
    assert first.decide(1, [[0.0, 0.0, 0.0]]) == 2  # never larger again
    assert second.decide(0, [[0.0, 0.0, 0.0]]) == 4


def test_fixed_lists():
    assert scales_of(Fixed(2, protect=(1, 1)), 4) == [1, 2, 2, 1]
    assert scales_of(Fixed([4, 4, 2, 1]), 3) == [4, 4, 2]
    with pytest.raises(ValueError, match="schedule has 2 entries, but this run has 3 steps"):
        scales_of(Fixed([1, 1]), 3)
    longer = Fixed([1] * 5).start(StepTimes())
    longer.begin(4)
    assert longer.warning() == "the schedule is for 5 steps, this run has 4: its last entries are not used"


@pytest.mark.parametrize("total", range(1, 30))
def test_stretched_lists_keep_their_shares_and_their_last_step(total):
    strategy = Fixed([1] * 5 + [4] * 3 + [2] * 10 + [1] * 2, stretch=True)
    sizes = scales_of(strategy, total)
    assert len(sizes) == total and sizes[-1] == 1
    for scale, count in ((4, 3), (2, 10)):
        assert abs(sizes.count(scale) - count * total / 20) <= 1
    assert scales_of(strategy, 20) == list(strategy.sizes)


@pytest.mark.parametrize("sizes", [[1, 0] * 14, [2, 0, 0, 0, 0, 0, 1], [1, 0]])
def test_a_stretched_list_does_not_begin_with_a_skip(sizes):
    for total in range(1, 60):
        assert scales_of(Fixed(sizes, stretch=True), total)[0] != SKIP


def test_what_stands_for_a_strategy():
    assert as_strategy(2) == Fixed(2, scales=(1, 2, 4))
    assert as_strategy([1, SKIP]).skips
    assert as_strategy(Threshold()) == Threshold()
    assert scales_of(as_strategy(lambda step: 1 + step % 2), 3) == [1, 2, 1]
    assert scales_of(as_strategy(ddit_ext.PatchScheduler((1, 2), (1.0,), 0, 1)), 3, [[0.0, 0.0]]) == [2, 2, 1]
    for bad, error in (("4", TypeError), (None, TypeError), (Threshold, TypeError), (3, ValueError)):
        with pytest.raises(error, match="schedule"):
            as_strategy(bad)
    with pytest.raises(
        ValueError, match="give schedule or quantile, not both: Threshold has its own settings"
    ):
        as_strategy(Threshold(), quantile=0.4)


class Own:
    scales = (1, 2)
    thresholds = (0.5,)

    def __init__(self):
        self.seen = []

    def begin(self, total_steps):
        self.seen.clear()

    def decide(self, step, scores):
        self.seen.append(step)
        return 0 if step == 2 else 2


def test_an_object_of_ones_own():
    own = Own()
    strategy = as_strategy(own, protect=(1, 1))
    assert (strategy.scales, strategy.thresholds, strategy.source) == ((1, 2), (0.5,), "latents")
    with pytest.raises(
        ValueError, match="at step 2: expected one of the scales .* give the policy skips = True"
    ):
        scales_of(strategy, 5)
    own.skips = True
    assert scales_of(strategy, 5) == [1, 2, 0, 2, 1]
    assert own.seen == [1, 2, 3]
    with pytest.raises(TypeError, match="a policy of your own is no data"):
        strategy.to_dict()


def test_what_an_object_of_ones_own_has_to_tell_is_told():
    own = Own()
    assert as_strategy(own).start(StepTimes()).warning() is None
    own.warning = lambda: "too short"
    assert as_strategy(own).start(StepTimes()).warning() == "too short"


class Asks(Policy):
    def begin(self, total_steps):
        self.costs = self.steps = None

    def decide(self, step, scores):
        return 1

    def estimate(self, costs):
        self.costs = costs

    def observe(self, step):
        self.steps = step


def test_an_object_of_ones_own_is_told_costs_and_steps():
    own = Asks()
    policy = as_strategy(own).start(StepTimes())
    policy.begin(1)
    policy.estimate({1: 1.0})
    policy.observe("step")
    assert (own.costs, own.steps) == ({1: 1.0}, "step")


def test_tea_cache_skips_and_sizes_the_rest():
    policy = TeaCache(0.5, sizes=[1, 2, 2, 2, 2, 1]).start(StepTimes())
    policy.begin(6)
    skipped = [policy.skip(step, [[0.2]]) for step in range(6)]
    assert skipped == [False, True, True, False, True, False]
    assert policy.decide(3, None) == 2
