"""The state of ForecastScheduler's runs: what one leaves for the next, copies, changed samples, the order of steps."""

import copy
import gc
import pickle

import pytest
import torch
from flow_samplers import BASES, error, run, sample, velocity
from launches import Launches

from ddit_ext import ForecastScheduler

wrap = ForecastScheduler.from_scheduler
every_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES)


@every_base
def test_runs_do_not_leak_into_each_other(base):
    scheduler, x = wrap(base(), calls=9), sample()
    first = run(scheduler, x)
    scheduler.set_timesteps(28)
    for t in list(scheduler.timesteps)[:4]:  # an interrupted run
        scheduler.step(x, t, x)
    assert torch.equal(run(scheduler, x), first)


@every_base
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))],
                         ids=["copy", "deepcopy", "pickle"])  # fmt: skip
def test_copies_go_on_by_themselves(base, copied):
    scheduler, x = wrap(base(), calls=9), sample()
    meant = run(scheduler, x)
    scheduler.set_timesteps(28)
    for t in list(scheduler.timesteps)[:4]:
        x = scheduler.step(velocity(x, float(t) / 1000), t, x).prev_sample
    other = copied(scheduler)
    for made in (other, scheduler):  # neither moves the other on
        assert made.step_index == 4
        y = x
        for t in list(made.timesteps)[4:]:
            y = made.step(velocity(y, float(t) / 1000), t, y).prev_sample
        assert torch.equal(y, meant)
    assert torch.equal(run(copied(scheduler), sample()), meant)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_changed_sample_begins_the_history_anew(in_place):
    """After the change the run is what a run from there gives, whose first call has no history either."""
    scheduler, x = wrap(BASES["euler"](), calls=9, growth=1.5, slope=0.5, corrector=1.0), sample()

    def change(i, y):
        if i != 4:
            return y
        return y.mul_(1.5) if in_place else y * 1.5

    seen = []
    made = run(scheduler, x, callback=lambda i, y: seen.append(change(i, y)) or seen[-1])
    fresh = wrap(BASES["euler"](), calls=9, growth=1.5, slope=0.5, corrector=1.0)
    fresh.set_timesteps(28)
    y = seen[4].clone()
    for t in list(fresh.timesteps)[5:]:
        y = fresh.step(velocity(y, float(t) / 1000), t, y).prev_sample
    assert error(y, made) < 1e-6


@pytest.mark.parametrize("base", ["euler", "dpm", "deis"])
@pytest.mark.parametrize("calls", [7, 12])
def test_a_loop_that_keeps_its_sample_in_one_tensor(base, calls):
    scheduler, kept = wrap(BASES[base](), calls=calls), sample()
    meant = run(scheduler, sample())
    scheduler.set_timesteps(28)
    for t in scheduler.timesteps:
        kept.copy_(scheduler.step(velocity(kept, float(t) / 1000), t, kept).prev_sample)
    assert torch.equal(kept, meant)


def test_a_sample_changed_in_part_keeps_the_history_elsewhere():
    x = sample(shape=(2, 8))
    scheduler = wrap(BASES["euler"](), calls=9)
    plain = run(scheduler, x)

    def blend(i, y):
        y = y.clone()
        y[1] = 0.0
        return y

    assert torch.equal(run(scheduler, x, callback=blend)[0], plain[0])
    assert torch.equal(run(scheduler, x, callback=lambda i, y: y.clone()), plain)


@every_base
@pytest.mark.parametrize("calls", [9, 12, 28])
def test_a_sample_of_another_shape_is_another_run(base, calls):
    scheduler, x = wrap(base(), calls=calls), sample(shape=(2, 3))
    meant = run(scheduler, sample(shape=(4, 5)))
    scheduler.set_timesteps(28)
    for t in list(scheduler.timesteps)[:3]:
        x = scheduler.step(velocity(x, float(t) / 1000), t, x).prev_sample
    y = sample(shape=(4, 5))
    for t in scheduler.timesteps:
        y = scheduler.step(velocity(y, float(t) / 1000), t, y).prev_sample
    assert torch.equal(y, meant)


def others_like(kept):
    gc.collect()
    tensors = (each for each in gc.get_objects() if type(each) is torch.Tensor)
    return [each for each in tensors if each.numel() == kept.numel() and each is not kept]


@every_base
@pytest.mark.parametrize("calls", [4, 12, 28])
def test_nothing_of_a_samples_size_is_kept_after_the_last_call(base, calls):
    scheduler = wrap(base(), calls=calls)
    made = run(scheduler, sample(shape=(5, 7, 11)))
    assert not others_like(made)
    with pytest.raises(RuntimeError, match=f"the run's {calls} calls are done"):
        scheduler.step(made, scheduler.timesteps[0], made)
    scheduler.set_timesteps(28)  # a run that is left
    for t in list(scheduler.timesteps)[:3]:
        made = scheduler.step(velocity(made, float(t) / 1000), t, made).prev_sample
    assert others_like(made)
    scheduler.set_timesteps(28)
    assert not others_like(made)


@every_base
@pytest.mark.parametrize("calls", [4, 9, 10, 14, 27])
@pytest.mark.parametrize("settings", [{}, {"slope": 0.5, "corrector": 0.5}], ids=["chosen", "given"])
def test_both_targets_are_the_same_but_for_euler(base, calls, settings):
    """With few calls Euler follows samples, and both are the same, too."""
    runs, exact = (
        run(wrap(base(), calls=calls, target=name, **settings), sample()) for name in ("run", "exact")
    )
    assert torch.equal(runs, exact) == (base is not BASES["euler"] or calls == 4)


def test_steps_out_of_order_raise():
    scheduler, x = wrap(BASES["euler"](), calls=9), sample()
    with pytest.raises(RuntimeError, match="call set_timesteps first"):
        scheduler.step(x, torch.tensor(1000.0), x)
    scheduler.set_timesteps(28)
    times = list(scheduler.timesteps)
    scheduler.step(x, times[0], x)
    for wrong in (times[0], times[2], float(times[3])):
        with pytest.raises(ValueError, match=r"steps must come in order; expected timestep .* \(entry 1\)"):
            scheduler.step(x, wrong, x)
    for t in times[1:]:
        scheduler.step(x, t, x)
    with pytest.raises(RuntimeError, match="the run's 9 calls are done"):
        scheduler.step(x, times[0], x)
    scheduler.set_timesteps(28)
    with pytest.raises(ValueError, match="timestep must be one of scheduler.timesteps"):
        scheduler.step(x, 3.0, x)


def test_bfloat16_is_computed_in_float32():
    x = sample(torch.bfloat16, (64, 16))
    scheduler = wrap(BASES["euler"](), calls=11)
    made = run(scheduler, x)
    assert made.dtype == torch.bfloat16
    assert error(made, run(scheduler, x.float())) < 0.02


@every_base
@pytest.mark.parametrize("calls", [4, 12, 20, 28])
@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_samples_have_the_type_that_the_wrapped_sampler_gives(base, calls, kept, given):
    """Wan keeps float32 latents beside a bfloat16 model."""
    plain, scheduler = base(), wrap(base(), calls=calls)
    if base is BASES["unipc3"] and given is torch.float32:
        kept = given  # diffusers' own raises for bfloat16 samples
    x = y = sample(kept)
    for each in (plain, scheduler):
        each.set_timesteps(28)
    for t in plain.timesteps:
        x = plain.step(velocity(x.float(), float(t) / 1000).to(given), t, x).prev_sample
    for t in scheduler.timesteps:
        y = scheduler.step(velocity(y.float(), float(t) / 1000).to(given), t, y).prev_sample
        assert y.dtype == x.dtype
    assert y.isfinite().all()


@every_base
def test_under_inference_mode(base):
    scheduler, x = wrap(base(), calls=9), sample()
    meant = run(scheduler, x)
    with torch.inference_mode():
        assert torch.equal(run(scheduler, x), meant)


@every_base
@pytest.mark.parametrize("calls", [7, 12])
def test_changes_in_place_under_inference_mode(base, calls):
    """Inference tensors count no changes, so that what was returned must be kept."""

    def add(i, y):
        if i == calls - 3:
            y += 5
        return y

    scheduler, x = wrap(base(), calls=calls), sample()
    meant = run(scheduler, x, 30, callback=add)
    with torch.inference_mode():
        assert torch.equal(run(scheduler, x, 30, callback=add), meant)


def test_a_step_under_inference_mode_asks_no_tensor_for_a_value():
    """On a GPU that would wait. Euler alone: other samplers of diffusers do so themselves."""
    scheduler, x = wrap(BASES["euler"](), calls=9), sample()
    scheduler.set_timesteps(28)
    with torch.inference_mode():
        for t in list(scheduler.timesteps):
            output = velocity(x, float(t) / 1000)
            with Launches() as seen:
                x = scheduler.step(output, t, x).prev_sample
            assert "mul" in seen.names and "_local_scalar_dense" not in seen.names


def test_an_end_that_is_written_into_sigmas_under_inference_mode():
    base, x = BASES["euler"](), sample()
    with torch.inference_mode():
        base.set_timesteps(28)
        scheduler = wrap(base, calls=28)
        scheduler.set_timesteps(28)
        scheduler.sigmas[-1] = scheduler.sigmas[-2]
        before = copy.copy(scheduler)
    y = x
    base.sigmas = torch.cat([base.sigmas[:-1], base.sigmas[-2:-1]])
    for t in base.timesteps:  # set up in inference mode, run without
        x = base.step(velocity(x, float(t) / 1000), t, x).prev_sample
        y = scheduler.step(velocity(y, float(t) / 1000), t, y).prev_sample
    assert torch.equal(x, y)
    assert float(before.base.sigmas[-1]) == 0.0  # a copy has levels of its own
