"""Which choices are worth a run: their cost, their order, their limits."""

import pytest

from ddit_ext.calibration import plan
from ddit_ext.calibration.choices import Choice, CoarseFirst, coarse_first, cost

COSTS = {1: 1.0, 2: 0.4, 4: 0.2}


@pytest.mark.parametrize("target", [1.3, 2.0, 3.0, 6.0])
@pytest.mark.parametrize("full", [4, 8, 12, 28, 50])
def test_coarse_choices_fit_the_time_and_end_fine(full, target):
    choices = plan.coarse_choices(full, COSTS, target)
    for choice in choices:
        assert cost(choice, COSTS) <= full / target + 1e-9
        assert plan.fewest_steps(full) <= choice.steps <= full
        schedule = choice.schedule((1, 2, 4))
        sizes = [schedule(step) for step in range(choice.steps)]
        assert sizes == sorted(sizes, reverse=True) and sizes[-1] == 1 and sizes[0] > 1
        # One coarse step fewer would be too slow.
        scale, count = choice.settings["first"][-1]
        eased = coarse_first(choice.steps, dict(choice.settings["first"]) | {scale: count - 1})
        assert cost(eased, COSTS) > full / target - 1e-9
    assert len(set(map(repr, choices))) == len(choices)
    reachable = cost(plan.fastest(full, COSTS), COSTS) <= full / target
    assert bool(choices) == reachable


def test_a_model_of_few_steps_keeps_them():
    assert {choice.steps for choice in plan.coarse_choices(8, COSTS, 2.0)} == {8}
    assert plan.fastest(4, COSTS) == coarse_first(4, {4: 3})


def test_lengths_reach_from_fewer_steps_to_all():
    lengths = [choice.steps for choice in plan.coarse_choices(28, COSTS, 2.0)]
    assert min(lengths) == 15 and max(lengths) == 28 and len(set(lengths)) == plan.LENGTHS


def test_a_size_that_saves_nothing_is_left_out():
    assert plan.coarse_choices(28, {1: 1.0, 2: 1.1, 4: 1.2}, 1.5) == []
    only_4 = plan.coarse_choices(28, {1: 1.0, 2: 1.0, 4: 0.5}, 1.5)
    assert {choice.scales() for choice in only_4} == {(1, 4)}


def test_fewer_steps_are_the_most_that_fit():
    assert plan.fewer_steps(28, 2.0) == coarse_first(14, {})
    assert plan.fewer_steps(28, 1.5) == coarse_first(18, {})
    assert plan.fewer_steps(4, 5.0) is None


def test_neighbours_are_as_expensive():
    near = plan.neighbours(coarse_first(20, {2: 8}), 28, COSTS, 2.0)
    assert {choice.steps for choice in near} == {18, 22}
    assert all(cost(choice, COSTS) <= 14 for choice in near)


@pytest.mark.parametrize(
    "start", [coarse_first(12, {2: 3}), coarse_first(12, {}), coarse_first(12, {4: 2, 2: 4})]
)
def test_faster_gets_cheaper_until_nothing_is_left(start):
    choice, seen = start, 0
    while (nxt := plan.faster(choice, 12, COSTS)) is not None:
        assert cost(nxt, COSTS) < cost(choice, COSTS)
        assert nxt.fine == start.fine
        choice, seen = nxt, seen + 1
        assert seen < 100
    assert choice == (coarse_first(1, {}) if start.fine else plan.fastest(12, COSTS))


def test_the_schedule_of_a_choice():
    schedule = coarse_first(6, {4: 1, 2: 2}).schedule((1, 2, 4))
    assert isinstance(schedule, CoarseFirst)
    assert [schedule(step) for step in range(8)] == [4, 2, 2, 1, 1, 1, 1, 1]
    assert coarse_first(6, {}).schedule((1, 2)) == 1


def test_words():
    assert coarse_first(14, {}).words() == "14 steps at p"
    assert coarse_first(20, {2: 6, 4: 2}).words() == "20 steps: first 2 at 4p, 6 at 2p, then p"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"steps": 0, "kind": "coarse_first", "settings": {"first": []}}, "steps.*0"),
        ({"steps": 6, "kind": "magic", "settings": {}}, "kind.*magic"),
        ({"steps": 6, "kind": "coarse_first", "settings": {"first": [[2, 7]]}}, "first.*6 steps"),
        ({"steps": 6, "kind": "coarse_first", "settings": {"first": [[1, 2]]}}, "first.*coarse scales"),
        ({"steps": 6, "kind": "coarse_first", "settings": {"first": [[2]]}}, "pairs"),
        (
            {"steps": 6, "kind": "budget", "settings": {"costs": [0.4, -1], "target": 2, "reference": []}},
            "costs.*-1",
        ),
        (
            {"steps": 6, "kind": "thresholds", "settings": {"thresholds": [float("nan")], "warmup_scale": 1}},
            "thresholds.*nan",
        ),
    ],
)
def test_bad_data(data, text):
    with pytest.raises(ValueError, match=text):
        Choice.from_dict(data)


@pytest.mark.parametrize(
    "choice",
    [
        coarse_first(6, {4: 1}),
        Choice(9, "thresholds", {"thresholds": [0.1, 0.2], "warmup_scale": 4}),
        Choice(9, "budget", {"costs": [0.5, 0.25], "target": 2.0, "reference": [[0.1, 0.2, 0.3]]}),
    ],
)
def test_data_and_back(choice):
    assert Choice.from_dict(choice.to_dict()) == choice
