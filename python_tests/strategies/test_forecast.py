"""Skipped steps whose features follow from two computed ones: against lines by hand, and their limits."""

import copy

import numpy as np
import pytest
import torch
from cache_cases import arguments, make, run
from skip_cases import FAMILIES, STEPS, counted, sizes_of

import ddit_ext
from ddit_ext import policies
from ddit_ext.runtime.reuse import BlockReuse

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")


def flux_by_hand(sizes, share, call, branches):
    """A run whose skipped steps add what numpy's line through the last two computed ones, made flatter, says."""
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
        newest, added = kept[branch][-1]
        if len(kept[branch]) > 1:
            levels = [at for at, _ in kept[branch][-2:]]
            values = torch.stack([value for _, value in kept[branch][-2:]]).double().flatten(1).numpy()
            slope, _ = np.polyfit(levels, values, 1)
            change = torch.from_numpy(share * slope * (level - newest)).view_as(added)
            added = (added + change).float()
        told = model.time_text_embed(kwargs["timestep"] * 1000, kwargs["pooled_projections"])
        tokens = model.x_embedder(kwargs["hidden_states"]) + added
        return (model.proj_out(model.norm_out(tokens, told)),)

    model.forward = forward
    return run("flux", pipe, call)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_skipped_step_follows_the_line_through_the_last_two(share, guided):
    sizes = [1, 0, 1, 0, 1, 1, 0, 0]
    call = arguments("flux", guided, len(sizes))
    pipe = make("flux")
    handle = ddit_ext.patch(pipe, schedule=sizes, forecast=share)
    given = run("flux", pipe, call)
    assert sizes_of(handle) == sizes
    torch.testing.assert_close(given, flux_by_hand(sizes, share, call, 1 + guided), rtol=1e-4, atol=1e-4)
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
    handle = ddit_ext.patch(pipe, schedule=schedule, forecast=0.5)
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
    for forecast in (0, 1):
        pipe = make(family)
        handle = ddit_ext.patch(pipe, schedule=[1, 1, 2, 0, 1, 0], forecast=forecast)
        given.append(run(family, pipe, call))
        assert sizes_of(handle) == [1, 1, 2, 0, 1, 0]
    assert torch.equal(*given)


def test_bfloat16_is_summed_in_float32():
    """Far beyond two levels that lie close together, features that do not change stay what they are."""
    reuse = BlockReuse(forecast=1.0)
    added = torch.randn(1, 8, 16).bfloat16()
    reuse._steps.extend([{0: (0.5, added)}, {0: (0.501, added)}])
    reuse.level = 0.2
    torch.testing.assert_close(reuse._forecasted(0), added)


def test_a_model_called_twice_at_one_level_has_no_line():
    reuse = BlockReuse(forecast=1.0)
    newest = torch.ones(1, 2, 4)
    reuse._steps.extend([{0: (0.5, newest)}, {0: (0.5, 5 * newest)}])
    reuse.level = 0.4
    assert torch.equal(reuse._forecasted(0), newest)


def test_a_call_computed_within_a_skipped_step_counts_at_its_own_level():
    """A branch of guidance that begins in a skipped step is computed there, at that step's noise level."""
    pipe = make("flux")
    call = arguments("flux", False, 6)
    handle = ddit_ext.patch(pipe, schedule=[1, 0, 0, 1, 0, 1], forecast=1.0)
    original, seen, kept = pipe.scheduler.step, {}, {}
    pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )

    def step(*args, **kwargs):
        run_now = handle._hook.watch.run
        if run_now.index > 0 and not run_now.repeats:
            pipe.transformer(**dict(seen))
            kept[run_now.index] = [dict(step) for step in handle._hook.reuse._steps]
        return original(*args, **kwargs)

    pipe.scheduler.step = step
    with pytest.warns(UserWarning, match=r"step 1 was skipped, but its call 1 \(from 0\) had nothing"):
        run("flux", pipe, call)
    levels = [float(level) for level in pipe.scheduler.sigmas]
    newest, before = kept[3]
    assert [newest[0][0], before[0][0]] == pytest.approx([levels[3], levels[0]])
    assert [newest[1][0], before[1][0]] == pytest.approx([levels[3], levels[1]])


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


def test_bad_shares_are_named():
    pipe = make("flux")
    for bad in (-0.1, 1.5, float("inf")):
        with pytest.raises(ValueError, match=r"forecast must be in \[0, 1\], got"):
            ddit_ext.patch(pipe, schedule=[1, 0], forecast=bad)
    for bad in (True, "1", None):
        with pytest.raises(TypeError, match="forecast must be a number, got"):
            ddit_ext.patch(pipe, schedule=[1, 0], forecast=bad)


def test_it_needs_a_schedule_that_skips():
    pipe = make("flux")
    with pytest.raises(
        ValueError, match="forecast=0.5 is for a schedule that skips steps, got FixedSchedule"
    ):
        ddit_ext.patch(pipe, schedule=[1, 1, 2], forecast=0.5)
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
