"""Which choices are worth a run: their cost, their order, their limits."""

import pytest

from ddit_ext.calibration import plan
from ddit_ext.calibration.choices import Choice, coarse_first, cost, fine_ends
from ddit_ext.calibration.schedules import Stretches, sizes_of

COSTS = {1: 1.0, 2: 0.4, 4: 0.2}


def sizes(choice):
    return sizes_of(choice.schedule((1, 2, 4)), choice.steps)


def variants(full, target):
    """All that may be made of every length."""
    choices = plan.lengths(full, COSTS, target)
    for vary in (plan.orders, plan.mixes, plan.neighbours):
        choices += [made for choice in choices for made in vary(choice, full, COSTS, target)]
        choices = list({repr(choice): choice for choice in choices}.values())
    return choices


@pytest.mark.parametrize("target", [1.3, 2.0, 3.0, 6.0])
@pytest.mark.parametrize("full", [4, 8, 12, 28, 50])
def test_choices_fit_the_time_and_end_fine(full, target):
    choices = variants(full, target)
    for choice in choices:
        assert cost(choice, COSTS) <= full / target + 1e-9
        assert plan.fewest_steps(full) <= choice.steps <= full
        taken = sizes(choice)
        assert taken[-1] == 1 and max(taken) > 1
        assert sum(COSTS[size] for size in taken) == pytest.approx(cost(choice, COSTS))
        # One coarse step of the finest less would be too slow.
        finest = min(choice.coarse)
        assert cost(choice, COSTS) + COSTS[1] - COSTS[finest] > full / target - 1e-9
    reachable = cost(plan.fastest(full, COSTS), COSTS) <= full / target
    assert bool(choices) == reachable


@pytest.mark.parametrize("target", [1.3, 2.0, 3.0])
def test_a_search_over_these_is_short(target):
    choice = plan.lengths(28, COSTS, target)[0]
    assert len(plan.lengths(28, COSTS, target)) <= plan.LENGTHS
    for vary, most in ((plan.orders, 3), (plan.mixes, 3), (plan.neighbours, 2)):
        made = vary(choice, 28, COSTS, target)
        assert len(made) <= most and len(set(map(repr, made))) == len(made)
    assert choice in plan.orders(choice, 28, COSTS, target)
    assert choice in plan.mixes(choice, 28, COSTS, target)


def test_orders():
    choice = fine_ends(28, 5, {2: 18, 4: 3})
    assert [sizes(made) for made in plan.orders(choice, 28, COSTS, 2.0)] == [
        [1] * 5 + [2] * 18 + [4] * 3 + [1] * 2,
        [4] * 3 + [2] * 18 + [1] * 7,
        [1] * 6 + [2] * 18 + [4] * 3 + [1],
    ]
    # With one fine step there is one order.
    assert plan.orders(coarse_first(4, {4: 3}), 4, COSTS, 2.0) == [coarse_first(4, {4: 3})]


def test_mixes_keep_steps_and_order():
    choice = fine_ends(24, 8, {2: 17 - 4})
    made = plan.mixes(choice, 28, COSTS, 1.7)
    assert {tuple(sorted(mix.coarse)) for mix in made} == {(2,), (2, 4), (4,)}
    for mix in made:
        fine = 24 - sum(mix.coarse.values())
        assert mix.steps == 24 and mix.before == round(8 / 11 * fine)


def test_a_model_of_few_steps_keeps_them():
    assert {choice.steps for choice in variants(8, 2.0)} == {8}
    assert plan.fastest(4, COSTS) == coarse_first(4, {4: 3})


def test_lengths_reach_from_fewer_steps_to_all():
    lengths = [choice.steps for choice in plan.lengths(28, COSTS, 2.0)]
    assert min(lengths) == 15 and max(lengths) == 28 and len(set(lengths)) == plan.LENGTHS
    assert all(min(choice.coarse) == 2 for choice in plan.lengths(28, COSTS, 2.0))


def test_a_size_that_saves_nothing_is_left_out():
    assert plan.lengths(28, {1: 1.0, 2: 1.1, 4: 1.2}, 1.5) == []
    only_4 = plan.lengths(28, {1: 1.0, 2: 1.0, 4: 0.5}, 1.5)
    assert {choice.scales() for choice in only_4} == {(1, 4)}


def test_fewer_steps_are_the_most_that_fit():
    assert plan.fewer_steps(28, 2.0) == coarse_first(14, {})
    assert plan.fewer_steps(28, 1.5) == coarse_first(18, {})
    assert plan.fewer_steps(4, 5.0) is None


@pytest.mark.parametrize("choice", [coarse_first(20, {2: 10}), fine_ends(20, 9, {2: 10})])
def test_neighbours_are_as_expensive(choice):
    near = plan.neighbours(choice, 28, COSTS, 2.0)
    assert [made.steps for made in near] == [18, 22]
    assert all(12.9 < cost(made, COSTS) <= 14 and list(made.coarse) == [2] for made in near)
    ends = [(sizes(made)[0], sizes(made)[-2:]) for made in near]
    assert ends == [(1, [2, 1])] * 2 if choice.before else ends == [(2, [1, 1])] * 2


@pytest.mark.parametrize(
    "start",
    [
        coarse_first(12, {2: 3}),
        coarse_first(12, {}),
        coarse_first(12, {4: 2, 2: 4}),
        fine_ends(12, 5, {2: 5}),
    ],
)
def test_faster_gets_cheaper_until_nothing_is_left(start):
    choice, seen = start, 0
    while (nxt := plan.faster(choice, 12, COSTS)) is not None:
        assert cost(nxt, COSTS) < cost(choice, COSTS)
        assert nxt.fine == start.fine and sizes(nxt)[-1] == 1
        choice, seen = nxt, seen + 1
        assert seen < 100
    assert choice == (coarse_first(1, {}) if start.fine else plan.fastest(12, COSTS))


def test_the_schedule_of_a_choice():
    schedule = coarse_first(6, {4: 1, 2: 2}).schedule((1, 2, 4))
    assert isinstance(schedule, Stretches)
    assert sizes_of(schedule, 6) == [4, 2, 2, 1, 1, 1]
    assert schedule.decide(7, None) == 1  # a run that goes on after its last step
    assert sizes(fine_ends(6, 1, {4: 1, 2: 2})) == [1, 2, 2, 4, 1, 1]
    assert sizes(coarse_first(6, {})) == [1] * 6
    assert tuple(coarse_first(6, {}).schedule((1, 2)).scales) == (1,)


@pytest.mark.parametrize(
    ("choice", "total", "expected"),
    [
        (fine_ends(8, 2, {4: 5}), 4, [1, 4, 4, 1]),
        (coarse_first(28, {4: 7, 2: 14}), 9, [4, 4, 2, 2, 2, 2, 2, 1, 1]),
        (coarse_first(8, {2: 7}), 3, [2, 2, 1]),
        (coarse_first(8, {2: 7}), 1, [1]),
        (fine_ends(4, 1, {2: 2}), 8, [1, 1, 2, 2, 2, 2, 1, 1]),
        (fine_ends(4, 1, {2: 2}), 0, [1, 2, 2, 1]),  # a length that isn't known
    ],
)
def test_a_run_of_another_length_has_as_large_a_share_of_each_size(choice, total, expected):
    schedule = choice.schedule((1, 2, 4))
    schedule.begin(2)  # of an earlier run nothing stays
    schedule.begin(total)
    assert [schedule.decide(step, None) for step in range(len(expected))] == expected


def test_fine_ends_without_a_fine_beginning_or_a_coarse_step():
    assert fine_ends(6, 0, {2: 3}) == coarse_first(6, {2: 3})
    assert fine_ends(6, 3, {}) == coarse_first(6, {})


def test_words():
    assert coarse_first(14, {}).words() == "14 steps at p"
    assert coarse_first(20, {2: 6, 4: 2}).words() == "20 steps: first 2 at 4p, 6 at 2p, then p"
    assert fine_ends(28, 5, {2: 21}).words() == "28 steps: 5 at p, 21 at 2p, then 2 at p"
    assert fine_ends(9, 2, {4: 1, 2: 5}).words() == "9 steps: 2 at p, 5 at 2p, 1 at 4p, then 1 at p"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"steps": 0, "kind": "coarse_first", "settings": {"first": []}}, "steps.*0"),
        ({"steps": 6, "kind": "magic", "settings": {}}, "kind.*magic"),
        ({"steps": 6, "kind": "coarse_first", "settings": {"first": [[2, 7]]}}, "first.*6 steps"),
        ({"steps": 6, "kind": "coarse_first", "settings": {"first": [[1, 2]]}}, "first.*coarse scales"),
        ({"steps": 6, "kind": "coarse_first", "settings": {"first": [[2]]}}, "pairs"),
        (
            {"steps": 6, "kind": "fine_ends", "settings": {"before": 3, "coarse": [[2, 3]]}},
            "before.*one of 6.*3",
        ),
        ({"steps": 6, "kind": "fine_ends", "settings": {"before": 0, "coarse": [[2, 3]]}}, "before.*0"),
        ({"steps": 6, "kind": "fine_ends", "settings": {"before": 1, "coarse": [[1, 3]]}}, "coarse scales"),
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
        fine_ends(9, 2, {4: 1, 2: 5}),
        Choice(9, "thresholds", {"thresholds": [0.1, 0.2], "warmup_scale": 4}),
        Choice(9, "budget", {"costs": [0.5, 0.25], "target": 2.0, "reference": [[0.1, 0.2, 0.3]]}),
    ],
)
def test_data_and_back(choice):
    assert Choice.from_dict(choice.to_dict()) == choice
