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
