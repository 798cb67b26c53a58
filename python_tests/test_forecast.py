"""Skipped steps whose features follow from several computed ones: against polynomials by hand, and their limits."""

import copy

import numpy as np
import pytest
import torch
from cache_cases import arguments, make, run
from ddit_ext._core import extrapolation_weights
from skip_cases import FAMILIES, STEPS, counted, sizes_of

import ddit_ext
from ddit_ext import policies
from ddit_ext.patching.reuse import BlockReuse

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")


def flux_by_hand(sizes, order, call, branches):
    """A run whose skipped steps take each number that the blocks add from numpy's fit through the last ones."""
    pipe = make("flux")
    model = pipe.transformer
    original, seen, calls = model.forward, {}, [0]
    kept = [[] for _ in range(branches)]
    model.x_embedder.register_forward_hook(lambda module, args, output: seen.update(first=output))
    model.norm_out.register_forward_pre_hook(lambda module, args: seen.update(last=args[0]))

    def forward(**kwargs):
        step, branch = divmod(calls[0], branches)
        calls[0] += 1
        level = float(pipe.scheduler.sigmas[step])
        if sizes[step]:
            output = original(**kwargs)
            kept[branch].append((level, seen["last"] - seen["first"]))
            return output
        newest = kept[branch][-order - 1 :]
        values = torch.stack([added for _, added in newest]).double().flatten(1).numpy()
        fitted = np.polyfit([at for at, _ in newest], values, len(newest) - 1)
        powers = level ** np.arange(len(newest) - 1, -1, -1)
        added = torch.from_numpy(powers @ fitted).view_as(newest[0][1]).float()
        told = model.time_text_embed(kwargs["timestep"] * 1000, kwargs["pooled_projections"])
        tokens = model.x_embedder(kwargs["hidden_states"]) + added
        return (model.proj_out(model.norm_out(tokens, told)),)

    model.forward = forward
    return run("flux", pipe, call)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_skipped_step_lies_on_the_polynomial_of_the_computed_ones(order, guided):
    sizes = [1, 0, 1, 0, 1, 1, 0, 0]
    call = arguments("flux", guided, len(sizes))
    pipe = make("flux")
    handle = ddit_ext.patch(pipe, schedule=sizes, forecast=order)
    given = run("flux", pipe, call)
    assert sizes_of(handle) == sizes
    torch.testing.assert_close(given, flux_by_hand(sizes, order, call, 1 + guided), rtol=1e-4, atol=1e-4)
    again = make("flux")
    ddit_ext.patch(again, schedule=sizes)
    assert not torch.allclose(given, run("flux", again, call), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_list_skips_blocks_and_ends_clean(family):
    schedule = policies.growing_gaps(STEPS, 3)
    call = arguments(family, True, STEPS)
    pipe = make(family)
    expected = run(family, pipe, call)
    counts = counted(pipe.transformer)
    handle = ddit_ext.patch(pipe, schedule=schedule, forecast=1)
    first = run(family, pipe, call)
    assert sizes_of(handle) == schedule and counts == [3 * 2] * len(counts)
    assert torch.equal(run(family, pipe, call), first)
    handle.unpatch()
    assert not handle._hook.reuse._steps
    assert torch.equal(run(family, pipe, call), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_of_another_size_are_not_mixed_in(family):
    """After one step at a size there is one to use, whatever came before: the same as without a forecast."""
    call = arguments(family, False, STEPS)
    given = []
    for forecast in (0, 2):
        pipe = make(family)
        handle = ddit_ext.patch(pipe, schedule=[1, 1, 2, 0, 1, 0], forecast=forecast)
        given.append(run(family, pipe, call))
        assert sizes_of(handle) == [1, 1, 2, 0, 1, 0]
    assert torch.equal(*given)


def test_bfloat16_is_summed_in_float32():
    """Features that do not change stay what they are; their rounding errors are not enlarged by the weights."""
    reuse = BlockReuse(order=2)
    added = torch.randn(1, 8, 16).bfloat16()
    reuse._steps.extend((level, {0: added}) for level in (0.5, 0.505, 0.51))
    reuse.level = 0.2
    assert max(map(abs, extrapolation_weights([0.5, 0.505, 0.51], 0.2))) > 1000
    torch.testing.assert_close(reuse._forecast(0), added)


def test_a_model_called_twice_at_one_level_counts_once():
    reuse = BlockReuse(order=2)
    newest, older = torch.ones(1, 2, 4), torch.full((1, 2, 4), 3.0)
    reuse._steps.extend([(0.5, {0: newest}), (0.5, {0: 5 * older}), (0.6, {0: older})])
    reuse.level = 0.4
    torch.testing.assert_close(reuse._forecast(0), 2 * newest - older)


def test_it_is_computed_alike_in_copies_and_with_teacache():
    call = arguments("flux", False, STEPS)
    results = []
    for _ in range(2):
        pipe = make("flux")
        policy = policies.TeaCachePolicy(1e9, protect_first=3)
        handle = ddit_ext.patch(pipe, schedule=copy.deepcopy(policy), forecast=1)
        results.append(run("flux", pipe, call))
        assert sizes_of(handle) == [1, 1, 1, 0, 0, 1]
    assert torch.equal(*results)
    ddit_ext.patch(plain := make("flux"), schedule=policies.TeaCachePolicy(1e9, protect_first=3))
    assert not torch.equal(run("flux", plain, call), results[0])


@pytest.mark.parametrize("bad", [-1, 4, 1.0, True, "1", None])
def test_bad_orders_are_named(bad):
    pipe = make("flux")
    with pytest.raises(ValueError, match="forecast must be 0, 1, 2 or 3, got"):
        ddit_ext.patch(pipe, schedule=[1, 0], forecast=bad)


def test_it_needs_a_schedule_that_skips():
    pipe = make("flux")
    with pytest.raises(ValueError, match="forecast=1 is for a schedule that skips steps, got FixedSchedule"):
        ddit_ext.patch(pipe, schedule=[1, 1, 2], forecast=1)
    with pytest.raises(ValueError, match=r"schedule\[0\] must be a scale, got 0: the first step"):
        ddit_ext.patch(pipe, schedule=[0, 1])
    with pytest.raises(
        ValueError,
        match=r"schedule\[1\]: expected one of the scales \(1, 2, 4\), or 0 to skip the step, got 3",
    ):
        ddit_ext.patch(pipe, schedule=[1, 3])
    with pytest.raises(NotImplementedError, match="batch='split' with a schedule that skips steps"):
        ddit_ext.patch(pipe, schedule=[1, 0], batch="split")
    ddit_ext.patch(pipe, schedule=[1, 0], forecast=1).unpatch()
