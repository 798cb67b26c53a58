"""The plan of a forecast run: the cases that cpp_tests/test_forecast_plan.cpp plays too, and what Python adds."""

import json
import math
import pickle
import re
from pathlib import Path

import pytest
from ddit_ext._core import ForecastPlan

CASES = json.loads(
    (Path(__file__).resolve().parents[2] / "cpp_tests/cases/forecast_plan_cases.json").read_text()
)
FIELDS = ("step", "levels", "sigma", "next_sigma", "of_sample", "of_output", "s0", "s1", "keep", "slope",
          "forecast", "correction")  # fmt: skip


def plan_of(case):
    names = ("sigmas", "calls", "target", "growth", "slope", "corrector", "solver")
    given = {name: case[name] for name in names if name in case}
    given["sigmas"] = [math.nan if sigma is None else sigma for sigma in given["sigmas"]]
    return ForecastPlan(**given)


def rows(plan):
    return [[getattr(call, field) for field in FIELDS] for call in plan.calls]


@pytest.mark.parametrize("case", CASES["plans"], ids=lambda case: case["name"])
def test_numbers_of_the_cases(case):
    plan = plan_of(case)
    for got, meant in zip(rows(plan), case["rows"], strict=True):
        assert got == pytest.approx(meant, abs=1e-14)
    assert plan.steps == [row[0] for row in case["rows"]]
    assert sum(call.levels for call in plan.calls) == plan.total_steps


@pytest.mark.parametrize("case", CASES["errors"], ids=lambda case: case["message"])
def test_names_what_is_not_meant(case):
    with pytest.raises(ValueError, match=re.escape(case["message"])):
        plan_of(case)


def test_target_is_named():
    with pytest.raises(ValueError, match='target must be "run" or "exact", got "best"'):
        ForecastPlan([1.0, 0.0], 1, "best")


def test_survives_pickle():
    plan = plan_of(CASES["plans"][1])
    again = pickle.loads(pickle.dumps(plan))
    assert rows(again) == rows(plan) and again.growth == plan.growth and again.sigmas == plan.sigmas
    call = pickle.loads(pickle.dumps(plan.calls[3]))
    assert [getattr(call, field) for field in FIELDS] == rows(plan)[3]


def flux(steps, shift=3.0):
    """Falling levels from 1 to 0, as FLUX's pipeline has them."""
    even = [1.0 - j / steps for j in range(steps + 1)]
    return [shift * t / (1.0 + (shift - 1.0) * t) for t in even]


def line_over_the_logarithm(sigmas, plan, signal):
    """What each call follows of the last slope over sigma, where samples lie on a line over log(signal / noise)."""

    def change(first, last):
        noise = [sigma - sigmas[-1] for sigma in (first, last)]
        return (math.log(signal(last) / noise[1]) - math.log(signal(first) / noise[0])) / (last - first)

    levels = [call.sigma for call in plan.calls]
    between = [change(b, c) / change(a, b) for a, b, c in zip(levels, levels[1:], levels[2:], strict=False)]
    return [0.0, *(plan.slope * ratio for ratio in between), 0.0]


def flow_signal(sigma):
    return max(1.0 - sigma, 1e-6)


@pytest.mark.parametrize(
    "sigmas, signal",
    [
        (flux(28), flow_signal),
        (flux(28)[:15], flow_signal),  # ComfyUI's SplitSigmas: a run that stops at .75
        ([1.0 - j / 32 for j in range(17)], flow_signal),  # at .5
        ([0.6 * (1.0 - j / 16) for j in range(17)], flow_signal),  # img2img
        ([0.6 - 0.4 * j / 16 for j in range(17)], flow_signal),  # both
        ([14.6 * (1.0 - j / 16) ** 3 for j in range(17)], lambda sigma: 1.0),  # variance exploding
        ([14.6 - 0.4 * j for j in range(17)], lambda sigma: 1.0),
        ([14.6 - 0.05 * j for j in range(17)], lambda sigma: 1.0),  # a short piece of it
    ],
)
def test_samples_follow_a_line_over_signal_to_noise(sigmas, signal):
    plan = ForecastPlan(sigmas, 6, "exact", slope=0.75)
    assert all(call.of_sample == 1.0 for call in plan.calls)
    slopes = [call.slope for call in plan.calls]
    assert slopes == pytest.approx(line_over_the_logarithm(sigmas, plan, signal), rel=1e-6)
    assert min(slopes[2:-1]) > 0.05


def test_pure_noise_has_no_signal_where_a_run_stops_early():
    """The second call of a split run follows a thousandth of the last change, as that of a whole one."""
    plan = ForecastPlan(flux(28)[:15], 6, "exact")
    first, second = plan.calls[:2]
    assert second.forecast / (second.sigma - first.sigma) == pytest.approx(0.0012379, rel=1e-4)


def test_a_level_that_is_1_but_for_rounding_is_pure_noise():
    sigmas = flux(28)
    nearly = ForecastPlan([1.0 + 1e-7, *sigmas[1:]], 6, "exact")
    meant = ForecastPlan(sigmas, 6, "exact")
    assert [call.slope for call in nearly.calls] == pytest.approx(
        [call.slope for call in meant.calls], rel=1e-4
    )


@pytest.mark.parametrize("target", ["run", "exact"])
def test_the_slope_that_is_chosen(target):
    """As docs/forecast.md has it."""
    for steps in (8, 12, 28, 50):
        sigmas = [1 - step / steps for step in range(steps + 1)]
        for calls in range(1, steps + 1):
            euler, other = (
                ForecastPlan(sigmas, calls, target, solver=solver).slope for solver in ("euler", "multistep")
            )
            assert 0 <= euler <= 0.75 and other == 0
            if calls in (2, 3):
                assert (euler == 0) == (target == "exact" or 4 * calls <= steps)


def test_a_slope_is_not_bounded_by_the_last_one():
    """Towards clean samples the logarithm grows: from .2, .05 to .01 four times as much by sigma."""
    sigmas = [1.0, 0.6, 0.2, 0.1, 0.05, 0.03, 0.01, 0.005, 0.0]
    call = ForecastPlan(sigmas, 4, "exact", growth=1.0, slope=0.75).calls[2]
    assert (call.sigma, call.next_sigma) == (0.05, 0.01)
    odds = [math.log(19.0 / 4.0), math.log(99.0 / 19.0)]
    assert call.slope == pytest.approx(0.75 * odds[1] / odds[0] * 0.15 / 0.04)
