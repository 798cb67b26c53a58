"""What the studies choose by: cells of a step, steps of a range, the best row of a kind, and a linear probe."""

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


def test_tokens_of_a_coarse_patch_lie_side_by_side():
    from noise_by_depth import side_by_side

    tokens = torch.arange(16.0).view(1, 16, 1)
    assert side_by_side(tokens, 4, 2)[0].tolist() == [
        [0, 1, 4, 5],
        [2, 3, 6, 7],
        [8, 9, 12, 13],
        [10, 11, 14, 15],
    ]


def test_a_probe_explains_what_follows_from_its_features_and_nothing_else():
    from noise_by_depth import explained

    generator = torch.Generator().manual_seed(0)
    features, other = (torch.randn(32, 64, 8, generator=generator) for _ in range(2))
    mixed = features @ torch.randn(8, 3, generator=generator)
    assert explained(features, mixed) > 0.99
    assert abs(explained(other, mixed)) < 0.02
