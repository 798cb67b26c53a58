"""What the studies choose by: cells of a step, steps of a range, and the best row of a kind."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("skimage", reason="the benchmarks' measures need it")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def studies_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(BENCHMARKS / "studies"))


def test_the_cells_with_the_highest_scores_of_each_picture_are_chosen():
    from mixed_scales import CELL, chosen

    score = torch.arange(32.0).view(2, 1, 4, 4)
    score[1] = score[1].flip(-1, -2)
    mask = chosen(score, 0.25)
    assert mask.shape == (2, 1, 4 * CELL, 4 * CELL)
    assert mask[0, 0, -CELL:].all() and mask[0].sum() == 4 * CELL**2
    assert mask[1, 0, :CELL].all() and mask[1].sum() == 4 * CELL**2


@pytest.mark.parametrize("share", [0.25, 0.5])
@pytest.mark.parametrize("steps", [range(4), range(8), range(20, 28), range(28)])
def test_whole_steps_of_every_order_have_as_many_tokens_as_mixed_ones(steps, share):
    from mixed_scales import ORDERS, whole_steps

    for order in ORDERS:
        made = whole_steps(steps, share, order)
        assert list(made) == list(steps)
        assert sum(made.values()) == share * len(steps), order


def test_the_best_of_a_kind_has_the_least_flicker_and_the_most_of_the_rest():
    from early_coarse import frontier

    def row(name, found, flicker):
        return {
            "method": name,
            "kind": "steps",
            "cost": {"here": 2.0},
            "found": {"mean": found},
            "flicker": {"mean": flicker},
        }

    rows = [row("calm", 0.5, 1.0), row("wild", 0.9, 9.0)]
    for measure, best in (("found", "wild"), ("flicker", "calm")):
        assert {line["steps"]["method"] for line in frontier(rows, "here", measure)} == {best}
