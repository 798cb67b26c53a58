"""What scripts/check_diffusers_suite.py calls a difference that is not on the list."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from check_diffusers_suite import Outcomes, judge


def outcomes(outcome, error, *bits):
    return Outcomes(
        {"test_one": (outcome, error)}, {("test_one", call): each for call, each in enumerate(bits)}
    )


@pytest.mark.parametrize(
    ("mode", "error", "bits", "wrong"),
    [
        ("forecast", "AssertionError: not close", ("other", "b"), 0),
        ("forecast", "AssertionError: not close", ("other", "other"), 1),
        ("forecast", "AssertionError: not close", ("a", "b"), 1),
        ("forecast", "RuntimeError: no", ("other", "b"), 1),
        ("schedule=2", "AssertionError: not close", ("other", "b"), 1),
        ("schedule=2", "NotImplementedError: a cache of its own", (), 0),
        ("schedule=1", "NotImplementedError: a cache of its own", ("a", "b"), 1),
    ],
)
def test_a_failure_must_be_known(mode, error, bits, wrong):
    lines, reasons = judge(mode, outcomes("passed", "", "a", "b"), outcomes("failed", error, *bits))
    assert (len(lines), reasons.total()) == (wrong, 1 - wrong)


@pytest.mark.parametrize(("mode", "wrong"), [("schedule=1", 1), ("schedule=2", 0)])
def test_schedule_1_changes_no_bit(mode, wrong):
    lines, _ = judge(mode, outcomes("passed", "", "a", "b"), outcomes("passed", "", "a", "other"))
    assert len(lines) == wrong


def test_a_test_that_was_not_run_is_a_difference():
    lines, _ = judge("forecast", outcomes("passed", "", "a"), Outcomes())
    assert lines == ["test_one: missing: "]
