"""Forecast steps among a calibration's choices: where the computed ones are, which are run, and when they win."""

import pytest
from test_calibration_search import COSTS, Model, search

from ddit_ext import policies
from ddit_ext.calibration import forecasting
from ddit_ext.calibration.choices import Choice, coarse_first, cost, forecasts
from ddit_ext.calibration.schedules import Spread, sizes_of, spread
from ddit_ext.calibration.search import Full, Search
from ddit_ext.calibration.verdict import choose

WRONG = {1: 0, 2: 20, 4: 40}
TRIED = [0.25, 0.5, 0.75, 1.0]


def sizes(choice, total=None):
    return sizes_of(choice.schedule((1, 2, 4)), total or choice.steps)


def model(shares, idle=0.05, fewer=40, wrong=WRONG, **settings):
    """A machine and a model whose skipped steps take `idle` and go wrong by `shares`."""
    made = Model(COSTS, wrong, fewer, 28, **settings)
    made.idle, made.forecasts = idle, shares
    return made


def full_at(target, idle=0.05, steps=28, seconds=COSTS):
    """What a search knows before it begins."""
    return Full(steps, [], seconds, target, idle=idle)


def tried_by_forecast(looked):
    return [candidate for candidate in looked.tried.values() if candidate.choice.kind == "forecasts"]


def test_where_the_computed_steps_are():
    assert spread(12, 6, 1.0) == [1, 0] * 6
    assert spread(12, 5, 1.75) == policies.growing_gaps(12, 5, 1.75)
    assert spread(10, 5, 1.0, [(2, 2)]) == [1, 0, 1, 0, 2, 0, 2, 0, 1, 0]
    assert spread(12, 6, 1.0, [(2, 3), (4, 1)]) == [1, 0, 2, 0, 2, 0, 2, 0, 4, 0, 1, 0]
    # Of many fine ones five sevenths are before the coarse ones.
    assert [size for size in spread(28, 12, 1.75, [(2, 5)]) if size] == [1] * 5 + [2] * 5 + [1] * 2


@pytest.mark.parametrize(
    "choice", [forecasts(28, 11, 0.75, 1.75), forecasts(28, 16, 0.5, 1.25, {2: 8, 4: 4})]
)
@pytest.mark.parametrize("total", [1, 2, 3, 4, 7, 14, 27, 28, 29, 56])
def test_a_run_of_another_length_has_the_same_shares(choice, total):
    taken = sizes(choice, total)
    computed = [size for size in taken if size]
    assert len(taken) == total and (taken[0], computed[-1]) == (1, 1)
    assert abs((total - taken.count(0)) / total - choice.computed / 28) <= 2 / total
    for scale, count in choice.coarse.items():
        assert abs(taken.count(scale) / total - count / 28) <= 1 / total


def test_a_schedule_serves_one_run_after_the_other():
    schedule = forecasts(12, 6, 0.75, 1.75).schedule((1, 2, 4))
    assert isinstance(schedule, Spread) and schedule.scales == (1,) and schedule.skips
    assert sizes_of(schedule, 6) == spread(6, 3, 1.75)
    assert sizes_of(schedule, 12) == spread(12, 6, 1.75)
    schedule.begin(0)  # a length that is not known
    assert [schedule.decide(step, None) for step in range(14)] == [*spread(12, 6, 1.75), 1, 1]
    assert forecasts(12, 8, 0.75, 1.75, {4: 3}).schedule((1, 2, 4)).scales == (1, 4)


def test_a_choice_knows_itself():
    plain, mixed = forecasts(28, 11, 0.75, 1.75), forecasts(28, 14, 0.5, 1.25, {4: 2, 2: 6})
    assert plain.words() == "28 steps, 11 computed at p, the others forecast (0.75 of the line, growth 1.75)"
    assert mixed.words() == (
        "28 steps, 6 computed at p and 6 at 2p and 2 at 4p, the others forecast (0.5 of the line, growth 1.25)"
    )
    assert plain.fixed and not plain.fine and not plain.may_be_coarse and plain.scales() == (1,)
    assert mixed.fixed and mixed.may_be_coarse and mixed.scales() == (1, 2, 4)
    assert (plain.forecast, plain.computed, mixed.coarse) == (0.75, 11, {2: 6, 4: 2})
    assert (coarse_first(14, {}).forecast, coarse_first(14, {}).computed) == (0, 14)
    costs = {0: 0.05, **COSTS}
    assert cost(plain, costs) == pytest.approx(11 + 17 * 0.05)
    assert cost(mixed, costs) == pytest.approx(6 + 6 * 0.4 + 2 * 0.2 + 14 * 0.05)
    for choice in (plain, mixed):
        assert Choice.from_dict(choice.to_dict()) == choice


GOOD = {"computed": 11, "forecast": 0.75, "growth": 1.75, "coarse": []}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"forecast": 1.5}, ValueError, r"forecast.*\[0, 1\], got 1.5"),
        ({"forecast": -0.1}, ValueError, "forecast.*-0.1"),
        ({"forecast": True}, ValueError, "forecast.*True"),
        ({"growth": 0.5}, ValueError, "growth.*at least 1, got 0.5"),
        ({"growth": 4.5}, ValueError, r"growth.*\[1, 4\], got 4.5"),
        ({"growth": float("nan")}, ValueError, "growth.*nan"),
        ({"computed": 28}, ValueError, "computed.*less than 28.*got 28"),
        ({"computed": 1}, ValueError, "computed.*two at p.*got 1"),
        ({"coarse": [[2, 10]]}, ValueError, r"computed.*two at p beside \[\[2, 10\]\], got 11"),
        ({"coarse": [[1, 2]]}, ValueError, "coarse scales"),
        ({"coarse": [[2]]}, ValueError, "pairs"),
        ({"more": 1}, TypeError, "more"),
    ],
)
def test_bad_data(change, error, text):
    with pytest.raises(error, match=text):
        Choice.from_dict({"steps": 28, "kind": "forecasts", "settings": GOOD | change})


@pytest.mark.parametrize("idle", [0.0, 0.1])
@pytest.mark.parametrize("target", [1.3, 2.0, 3.0, 5.0])
def test_what_is_run_fits_the_time(target, idle):
    full = full_at(target, idle)
    for steps in (28, 20, 12):
        choice = forecasting.fitted(full, steps, 0.5, 1.75)
        if choice is None:
            continue
        assert cost(choice, full.costs) <= full.afford + 1e-9
        assert cost(choice, full.costs) + 1 - idle > full.afford - 1e-9  # one more would not fit
    assert full.afford == pytest.approx(28 / (0.95 * target))
    assert forecasting.fitted(full, int(full.afford), 0.5, 1.75) is None  # all are computed
    assert forecasting.fitted(full_at(20.0), 28, 0.5, 1.75) is None  # not even two are


@pytest.mark.parametrize("target", [1.5, 2.0, 2.5, 4.0])
@pytest.mark.parametrize("share", TRIED)
def test_forecast_steps_win_where_they_are_closest(target, share):
    errors = {other: 0.01 + 0.4 * abs(other - share) for other in TRIED}
    looked, ended, chosen = search(model(errors), target)
    assert chosen.choice.kind == "forecasts" and chosen.choice.forecast == share
    assert chosen in ended and chosen.reached and chosen.runs == 2
    assert chosen.speed == pytest.approx(chosen.predicted_speed)
    tried = tried_by_forecast(looked)
    assert len(tried) <= 3 * 2 + 8  # growths by lines, then variants of the best
    assert {1.5, 1.75, 2.0} <= {candidate.choice.settings["growth"] for candidate in tried}
    assert any(candidate.choice.steps < 28 for candidate in tried)
    # Beside it fewer steps are told, measured as it was.
    assert any(candidate.choice.fine and candidate.runs == 2 for candidate in ended)


class Uneven(Model):
    """The first call flatters lines of a quarter, which go wrong on all others."""

    def run(self, number, schedule, steps, *, forecast=0, **settings):
        done = super().run(number, schedule, steps, forecast=forecast, **settings)
        if forecast and done.pictures is not None:
            done.pictures[:] = 128 + (4 if forecast > 0.25 else 2 if number == 0 else 20)
        return done


@pytest.mark.parametrize("calls", [1, 2, 4, 8])
def test_what_one_call_flatters_does_not_get_far(calls):
    made = Uneven(COSTS, WRONG, 40, 28)
    made.idle, made.calls = 0.05, [{}] * calls
    full = Full(28, [None] * calls, dict(COSTS), 2.0, idle=0.05)
    looked = Search(made, full)
    lines = (0.25, 0.5, 0.75, 1.0)
    screened = [looked.screen(forecasts(28, 12, share, growth)) for share in lines for growth in (1.5, 2)]
    before = made.runs
    left = looked._narrowed(screened, 2)
    flattered = [candidate for candidate in left if candidate.choice.forecast == 0.25]
    assert len(left) == 2 and len(flattered) == (2 if calls == 1 else 0)
    # Four of the eight go on, the flattered ones among them: to call 2, or 2 and 3, each with a full run.
    assert made.runs - before == {1: 0, 2: 5, 4: 10, 8: 10}[calls]


def test_fewer_steps_where_skipped_ones_would_take_up_the_time():
    looked, _, _ = search(model(dict.fromkeys(TRIED, 0.1), idle=0.2), 5.0)
    tried = tried_by_forecast(looked)
    assert len(tried) > 2 and all(candidate.choice.steps < 28 for candidate in tried)
    assert tried[0].choice.computed == 2 and any(candidate.choice.computed > 2 for candidate in tried)


def test_forecast_steps_that_go_wrong_are_not_chosen():
    looked, _, chosen = search(model(dict.fromkeys(TRIED, 60)), 2.0)
    assert tried_by_forecast(looked) and chosen.choice.fine


def test_fewer_steps_are_forecast_where_long_gaps_go_wrong():
    _, _, chosen = search(model(dict.fromkeys(TRIED, 3), fewer=1), 2.0)
    assert chosen.choice.steps < 28


@pytest.mark.parametrize(("target", "sizes"), [(2.0, 0), (3.0, 2)])
def test_coarse_steps_between_are_tried_where_few_can_be_computed(target, sizes):
    looked, _, chosen = search(model(dict.fromkeys(TRIED, 0.2), wrong={1: 0, 2: 0.2, 4: 0.5}), target)
    coarse = [candidate for candidate in tried_by_forecast(looked) if candidate.choice.coarse]
    assert len(coarse) == sizes
    fitting = {c.choice.steps: c.choice.computed for c in tried_by_forecast(looked) if not c.choice.coarse}
    for candidate in coarse:
        assert candidate.reached and candidate.choice.computed > fitting[candidate.choice.steps]
    if sizes:
        assert chosen.choice.may_be_coarse


def test_a_skipped_step_that_takes_longer_than_it_was_timed():
    made = model(dict.fromkeys(TRIED, 0.1), idle=0.15)
    first = made.run(0, 1, 28)
    full = Full(28, [first, None], dict(COSTS), 2.0, idle=0.05)
    looked = Search(made, full)
    chosen = choose(looked.go(), full)
    assert chosen.choice.kind == "forecasts" and chosen.reached
    assert chosen.choice.computed < forecasting.fitted(full, 28, 0.5, 1.75).computed
    assert any(not candidate.reached for candidate in tried_by_forecast(looked))


@pytest.mark.parametrize("start", [forecasts(28, 11, 0.75, 1.75), forecasts(12, 9, 0.5, 2.25, {2: 3, 4: 2})])
def test_faster_gets_cheaper_until_nothing_is_left(start):
    costs, choice, seen = {0: 0.05, **COSTS}, start, 0
    while (nxt := forecasting.faster(choice, costs)) is not None:
        assert cost(nxt, costs) < cost(choice, costs)
        assert nxt.kind == "forecasts" and nxt.forecast == start.forecast
        choice, seen = nxt, seen + 1
        assert seen < 100
    assert (choice.steps, choice.computed) == (3, 2)


@pytest.mark.parametrize(
    "full",
    [
        full_at(2.0, steps=8),  # a model of few steps
        full_at(2.0, idle=None),  # steps can't be skipped
        full_at(2.0, idle=1.0),  # that saves nothing
    ],
)
def test_where_none_are_worth_a_run(full):
    assert forecasting.by_forecast(full, None) == []


@pytest.mark.parametrize(("calls", "runs", "fulls"), [(1, 54, 30), (4, 76, 43), (32, 300, 172)])
def test_a_calibration_takes_what_its_documentation_says(calls, runs, fulls):
    made = model(dict.fromkeys(TRIED, 0.1))
    made.calls, made.correctors = [{}] * calls, {1.0: 0.5, 0.5: 0.7}
    first, taken = made.run(0, 1, 28), [28.0]
    run = made.run

    def counted(*args, **settings):
        done = run(*args, **settings)
        taken.append(done.seconds)
        return done

    made.run = counted
    full = Full(28, [first, *[None] * (calls - 1)], dict(COSTS), 2.0, idle=made.idle, corrects=True)
    Search(made, full).go()
    assert (made.runs, round(sum(taken) / 28)) == (runs, fulls)
