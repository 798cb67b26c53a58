"""Two ranks that share a transformer's tokens: the picture of one, the same sizes on both, errors by name on both."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import ranks_process
import torch
from processes import run_together
from ranks_process import (
    FORECAST,
    SIZES,
    SKIPPED_SIZES,
    adapter_of,
    budget,
    call_of,
    pipeline,
    seen,
    stacked,
    tea_cache,
    token_timesteps,
)

import ddit_ext
from ddit_ext import Forecast
from ddit_ext.modules.context_parallel import Ranks
from ddit_ext.runtime.patched_call import find_hook

pytest.importorskip("diffusers.hooks.context_parallel", reason="diffusers' context parallelism")
pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext")

PROGRAM = Path(ranks_process.__file__)

anything = pytest.mark.skipif(
    torch.version.cuda is not None,
    reason="with ulysses_anything diffusers gathers sizes on CUDA where torch is built for it, and forks may not use it",
)
FAMILIES = ("flux", "wan")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank saw: case -> latents, sizes, scores, or its error."""
    folder = tmp_path_factory.mktemp("ranks")
    run_together(PROGRAM, folder, 2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def both(ranks, case):
    """A run that went well, and was the same on both ranks bit for bit."""
    first, second = (rank[case] for rank in ranks)
    assert "error" not in first and "error" not in second, (first, second)
    for chosen in ("sizes", "scores", "changes"):
        assert first[chosen] == second[chosen]
    assert torch.equal(first["latents"], second["latents"])
    return first


def alone(family, call=None, adapter=False, **settings):
    """The same run in one process."""
    pipe = pipeline(family)
    return seen(family, pipe, call or call_of(family), adapter_of(pipe) if adapter else None, **settings)


def assert_alike(shared, single):
    """To float32: the ranks' products have other shapes."""
    assert shared["sizes"] == single["sizes"]
    torch.testing.assert_close(shared["latents"], single["latents"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_fixed_sizes_on_two_ranks_are_those_of_one(ranks, family):
    assert_alike(both(ranks, f"{family} at p"), alone(family, schedule=1))
    shared = both(ranks, f"{family} fixed")
    assert_alike(shared, alone(family, adapter=True, schedule=SIZES))
    assert (shared["latents"] - ranks[0][f"{family} at p"]["latents"]).abs().max() > 0.01


def test_flux2_on_two_ranks_is_that_of_one(ranks):
    ways = {"at p": dict(schedule=1), "fixed": dict(schedule=SIZES), "used again": dict(schedule=FORECAST)}
    for way, settings in ways.items():
        assert_alike(both(ranks, f"FLUX.2 {way}"), alone("FLUX.2", **settings))


def test_a_family_whose_ranks_are_not_known_has_forecasts(ranks):
    assert_alike(both(ranks, "Qwen-Image forecast"), alone("Qwen-Image", schedule=Forecast(calls=4)))
    assert "larger patches and skipped steps know none alone" in ranks[0]["Qwen-Image sizes"]["error"]
    assert "schedule=Forecast(...) works" in ranks[1]["Qwen-Image sizes"]["error"]


@pytest.mark.parametrize("family", FAMILIES)
def test_dynamic_sizes_on_two_ranks_are_those_of_one(ranks, family):
    shared, single = both(ranks, f"{family} dynamic"), alone(family, adapter=True, schedule=budget())
    assert_alike(shared, single)
    assert len(set(shared["sizes"])) > 1
    for ours, theirs in zip(shared["scores"], single["scores"], strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), atol=1e-6, rtol=1e-3)
    assert any(scores is not None for scores in shared["scores"])


@pytest.mark.parametrize("family", FAMILIES)
def test_forecast_steps_on_two_ranks_are_those_of_one(ranks, family):
    shared, again = both(ranks, f"{family} forecast"), both(ranks, f"{family} used again")
    assert again["sizes"] == FORECAST and shared["sizes"].count(1) == FORECAST.count(1)
    assert_alike(shared, alone(family, schedule=Forecast(calls=FORECAST.count(1))))
    assert_alike(again, alone(family, schedule=FORECAST))
    computed = both(ranks, f"{family} at p")["latents"]
    for skipped, other in ((shared, computed), (again, computed), (shared, again["latents"])):
        assert (skipped["latents"] - other).abs().max() > 0.01


@anything
@pytest.mark.parametrize("family", FAMILIES)
def test_steps_skipped_between_sizes_on_two_ranks_are_those_of_one(ranks, family):
    settings = dict(schedule=SKIPPED_SIZES)
    shared = both(ranks, f"{family} skipped sizes")
    assert shared["sizes"] == SKIPPED_SIZES
    assert_alike(shared, alone(family, adapter=True, **settings))
    assert_alike(both(ranks, f"{family} skipped anything"), alone(family, **settings))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("way", "policy"), [("tea cache", tea_cache), ("stacked", stacked)])
def test_steps_skipped_by_the_input_on_two_ranks_are_those_of_one(ranks, family, way, policy):
    shared = both(ranks, f"{family} {way}")
    single = alone(family, schedule=policy(family, call_of(family)))
    assert_alike(shared, single)
    coarse = 2 if way == "stacked" else 1
    assert 0 in shared["sizes"] and coarse in shared["sizes"][2:-1]
    changes = "changes" if way == "stacked" else "scores"
    for ours, theirs in zip(shared[changes][1:], single[changes][1:], strict=True):
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), atol=1e-6, rtol=1e-3)


def test_a_timestep_a_token_is_shared_at_skipped_steps(ranks):
    pipe, call = token_timesteps()
    single = seen("wan", pipe, call, schedule=SKIPPED_SIZES)
    assert_alike(both(ranks, "token timesteps"), single)


def test_a_calibration_goes_by_the_first_ranks_clock(ranks):
    first, second = (rank["measured"] for rank in ranks)
    assert first["seconds"] == second["seconds"] > 0
    assert torch.equal(first["pictures"], second["pictures"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_clock_of_its_own_on_each_rank_does_not_part_them(ranks, family):
    both(ranks, f"{family} by the clock")


def test_a_split_batch(ranks):
    shared = both(ranks, "split")
    assert_alike(shared, alone("flux", call_of("flux", batch=2), schedule=budget(), batch="split"))


def test_near_a_threshold_ranks_would_differ_and_agree_when_they_share_tokens(ranks):
    first, second = (rank["alone"] for rank in ranks)
    assert first["scores of both"][0] != first["scores of both"][1]
    assert {first["sizes"][3], second["sizes"][3]} == {1, 2}
    shared = [rank["shared"] for rank in ranks]
    assert shared[0]["sizes"] == shared[1]["sizes"] == first["sizes"]  # the first rank chooses
    assert shared[0]["scores"] == shared[1]["scores"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_policy_that_goes_wrong_on_the_first_rank_ends_the_run_on_both(ranks, family):
    case = f"{family} rank 0 raises"
    assert ranks[0][case]["error"] == "ArithmeticError: no size here"
    assert "rank 0, which chooses" in ranks[1][case]["error"] and "no size here" in ranks[1][case]["error"]
    assert both(ranks, f"{family} rank 1 raises")["sizes"] == [2] * ranks_process.STEPS  # it isn't asked
    fixed = both(ranks, f"{family} fixed")
    assert torch.equal(both(ranks, f"{family} after an error")["latents"], fixed["latents"])


def test_tokens_that_ranks_can_not_share_raise_by_name_on_both(ranks):
    for rank in ranks:
        for case in ("indivisible fixed", "indivisible dynamic"):
            error = rank[case]["error"]
            assert error.startswith("ValueError: context parallelism: 9 tokens at patch size 2p")
            assert "2 ranks" in error and "ulysses_anything=True" in error
    odd = call_of("flux", rows=6, columns=6)
    assert_alike(both(ranks, "indivisible at p"), alone("flux", odd, schedule=1))


@anything
def test_any_number_of_tokens_where_diffusers_takes_any(ranks):
    """With gloo the numbers have to be equal after all: it gathers no tensors of different sizes."""
    assert_alike(both(ranks, "anything"), alone("flux", schedule=SIZES))
    mesh = SimpleNamespace(size=lambda: 2)
    takes_any = Ranks(SimpleNamespace(_flattened_mesh=mesh, ulysses_anything=True, ring_anything=False))
    takes_any.check(9, 2)
    with pytest.raises(ValueError, match="1 tokens at patch size 4p can't be shared by 2 ranks"):
        takes_any.check(1, 4)


def test_a_config_of_diffusers_before_it_took_any_number():
    ranks = Ranks(SimpleNamespace(_flattened_mesh=SimpleNamespace(size=lambda: 2)))
    ranks.check(8, 2)
    with pytest.raises(ValueError, match="9 tokens at patch size 2p can't be shared by 2 ranks"):
        ranks.check(9, 2)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("references", "reference tokens"),
        ("residuals", "controlnet_block_samples"),
        ("trained", "not trained"),
    ],
)
def test_what_is_not_supported_raises_by_name_on_both(ranks, case, words):
    for rank in ranks:
        assert rank[case]["error"].startswith("NotImplementedError: context parallelism: ")
        assert words in rank[case]["error"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_of_ones_own_raises_before_anything_is_patched(family):
    pipe = pipeline(family)
    pipe.transformer._parallel_config = SimpleNamespace(context_parallel_config=SimpleNamespace())
    with pytest.raises(NotImplementedError, match=r"cp_plan for \[\]: larger patches .* know .*proj_out"):
        ddit_ext.patch(pipe, schedule=2)
    assert find_hook(pipe.transformer) is None
