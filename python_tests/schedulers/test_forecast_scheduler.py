"""ForecastScheduler by itself: what it promises of each sampler, of a run's state, and of diffusers' form."""

import copy
import inspect
import math
import pickle
import types
from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from flow_samplers import BASES, error, run, sample, velocity

import ddit_ext
from ddit_ext import ForecastScheduler

wrap = ForecastScheduler.from_scheduler
every_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES)


@every_base
@pytest.mark.parametrize("target", ["run", "exact"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_steps_are_the_wrapped_sampler_bit_for_bit(base, target, dtype):
    x = sample(dtype)
    plain = run(base(), x)
    for settings in ({}, {"slope": 0, "corrector": 0}):
        made = run(wrap(base(), calls=28, target=target, **settings), x)
        assert made.dtype == plain.dtype and torch.equal(made, plain)


@pytest.mark.parametrize("options", [{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True},
                                     {"shift_terminal": 0.1}, {"time_shift_type": "linear"}], ids=str)  # fmt: skip
def test_every_way_to_place_eulers_levels(options):
    if options.get("use_beta_sigmas"):
        pytest.importorskip("scipy")
    base, x = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **options), sample()
    plain, few = run(base, x, mu=0.8), wrap(base, calls=14)
    assert torch.equal(run(wrap(base, calls=28), x, mu=0.8), plain)
    made = run(few, x, mu=0.8)
    assert len(few.computed) == 14
    assert error(made, plain) < error(run(base, x, 14, mu=0.8), plain)


def test_euler_is_closer_to_its_target_than_fewer_steps():
    base, x = BASES["euler"](), sample(shape=(8, 16))
    target = {"run": run(base, x), "exact": run(base, x, 2000)}
    for name, meant in target.items():
        for calls in (15, 11):
            made = error(run(wrap(base, calls=calls, target=name), x), meant)
            assert made < error(run(base, x, calls), meant), (name, calls)


@every_base
def test_closed_form_is_the_loop_that_forecasts_and_corrects(base):
    """Euler's closed form against the sum it stands for; for the others the calls and the levels gone through."""
    scheduler, x = wrap(base(), calls=12, growth=1.5, slope=0.5, corrector=1.0), sample()
    made = run(scheduler, x)
    computed = scheduler.computed
    assert [c.index for c in computed] == scheduler.plan.steps
    assert sum(c.levels for c in computed) == 28 and computed[0].sigma == pytest.approx(1.0, abs=1e-3)
    assert scheduler.base.step_index == 28
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return
    full = base()
    full.set_timesteps(28)
    levels, y, last, gap = full.sigmas.double(), x.double(), None, []
    for c in computed:
        s = levels[c.index]
        v, d = velocity(y.float(), float(full.timesteps[c.index]) / 1000).double(), None
        if last is not None:
            d = (v - last[1]) / (s - last[0])
            before = 0 if last[2] is None else last[2]
            y = y + sum((levels[j + 1] - levels[j]) * (levels[j] - last[0]) * (d - 0.5 * before) for j in gap)
        gap = list(range(c.index, c.index + c.levels))
        for j in gap:
            y = y + (levels[j + 1] - levels[j]) * (v + (0 if d is None else 0.5 * (levels[j] - s) * d))
        last = (s, v, d)
    assert error(made, y) < 1e-5  # the model is asked at float32 samples


def test_to_the_exact_sample_a_line_is_integrated_and_its_slope_fades():
    scheduler, x = (
        wrap(BASES["euler"](), calls=10, target="exact", growth=1.5, slope=0.5, corrector=1.0),
        sample(),
    )
    made = run(scheduler, x)
    y, last, ends = x.double(), None, [c.sigma for c in scheduler.computed[1:]] + [0.0]
    for c, after in zip(scheduler.computed, ends, strict=True):
        t = scheduler.base.timesteps[c.index]
        v, d = velocity(y.float(), float(t) / 1000).double(), 0.0
        if last is not None:
            d = (v - last[1]) / (c.sigma - last[0])
            y = y + (c.sigma - last[0]) ** 2 / 2 * (d - last[3] * last[2])
        slope = 0.5 * (after / c.sigma) ** 2
        y = y + (after - c.sigma) * v + (after - c.sigma) ** 2 / 2 * slope * d
        last = (c.sigma, v, d, slope)
    assert error(made, y) < 1e-5


@pytest.mark.parametrize("base", ["euler", "unipc"])
def test_few_calls_follow_the_samples_that_outputs_point_to(base):
    """Along a line over the logarithm of signal to noise, half of whose change over a gap counts."""
    scheduler, x = wrap(BASES[base](), calls=6, growth=1.5, slope=0.5, corrector=1.0), sample()
    made = run(scheduler, x)
    assert scheduler.plan.line == "sample" and scheduler.base.step_index == 28
    levels = scheduler.base.sigmas.double().tolist()
    ratio = [math.log(max(1 - level, 1e-6) / level) if level else None for level in levels]

    y, last = x.double(), None
    for c in scheduler.computed:
        at, after = c.index, c.index + c.levels
        time, s, t = scheduler.base.timesteps[at], levels[at], levels[after]
        end, moved, guess = y - s * velocity(y.float(), float(time) / 1000).double(), y, 0.0
        if last is not None:
            before, end_before, gone, guess_before = last
            change = end - end_before
            moved = y + gone / 2 * (change - guess_before)
            if t > 0:
                guess = 0.5 * change * (ratio[after] - ratio[at]) / (ratio[at] - ratio[before])
        y = t / s * moved + (1 - t / s) * (end + guess / 2)
        last = (at, end, 1 - t / s, guess)
    assert error(made, y) < 1e-5


def test_looks_like_the_sampler_it_wraps():
    for base in BASES.values():
        plain, made = base(), wrap(base(), calls=4)
        assert isinstance(made, ForecastScheduler) and isinstance(made, type(plain))
        for method in ("set_timesteps", "step"):
            meant = inspect.signature(getattr(plain, method)).parameters
            assert list(inspect.signature(getattr(made, method)).parameters) == list(meant)
        for key, value in plain.config.items():
            if key != "_use_default_values":
                assert made.config[key] == value
        assert made.order == plain.order and len(made) == len(plain)
    euler = wrap(BASES["euler"](), calls=4)
    euler.set_shift(5.0)
    assert euler.base.shift == euler.shift == 5.0
    with pytest.raises(AttributeError, match="no_such_thing"):
        euler.no_such_thing  # noqa: B018


def test_counts_calls_as_the_pipeline_does():
    scheduler, x = wrap(BASES["euler"](), speedup=2.5), sample()
    scheduler.set_timesteps(sigmas=[1 - j / 28 for j in range(28)])
    assert len(scheduler.timesteps) == scheduler.num_inference_steps == len(scheduler.sigmas) - 1 == 11
    scheduler.set_begin_index(0)
    for i, t in enumerate(scheduler.timesteps):
        assert scheduler.step_index == i and float(scheduler.sigmas[i]) * 1000 == pytest.approx(float(t))
        x = scheduler.step(velocity(x, float(t) / 1000), t, x).prev_sample
    assert scheduler.step_index == 11


def test_a_run_from_the_middle_keeps_the_share_of_calls():
    counted = wrap(BASES["euler"](), calls=7)
    counted.set_timesteps(28)  # the pipeline counts 28 steps: half of them are left
    left = counted.timesteps[14:]
    counted.set_begin_index(14)
    assert len(left) == 4 and torch.equal(left, counted.timesteps[14:])
    assert float(left[0]) == float(counted.base.timesteps[14])
    entries = wrap(BASES["euler"](), calls=8)
    entries.set_timesteps(sigmas=[1 - j / 28 for j in range(28)])  # it counts 8 entries
    left = entries.timesteps[4:]
    entries.set_begin_index(4)
    assert len(left) == 4 and float(left[0]) == float(entries.base.timesteps[14])
    noisy = entries.scale_noise(torch.zeros(1, 4), left[:1], torch.ones(1, 4))
    assert noisy[0, 0] == entries.base.sigmas[14]
    x = sample()
    for t in left:
        x = entries.step(velocity(x, float(t) / 1000), t, x).prev_sample
    assert [c.index for c in entries.computed][0] == 14 and sum(c.levels for c in entries.computed) == 14


@pytest.mark.parametrize("cast", [torch.Tensor.clone, torch.Tensor.double, torch.Tensor.tolist])
def test_a_run_begins_at_a_cut_or_at_the_whole_list_as_its_first_timestep_says(cast):
    scheduler, x = wrap(BASES["euler"](), calls=7), sample()
    scheduler.set_timesteps(28)
    whole = scheduler.timesteps.tolist()
    for steps in (cast(scheduler.timesteps[14:]), cast(scheduler.timesteps)):
        scheduler.set_timesteps(28)
        assert len(scheduler.timesteps[14:]) == 4  # a cut that is looked at alone changes nothing
        assert scheduler.timesteps.tolist() == whole and scheduler.begin_index is None
        for t in steps:
            x = scheduler.step(velocity(x, float(t) / 1000), t, x).prev_sample
        assert len(scheduler.computed) == len(steps)
        assert scheduler.computed[0].index == (14 if len(steps) == 4 else 0)


def test_an_end_that_the_pipeline_writes_into_sigmas():
    base, x = FlowMatchEulerDiscreteScheduler(shift=3.0), sample()
    scheduler = wrap(base, calls=28)
    for made in (base, scheduler):
        made.set_timesteps(28)
        made.sigmas[-1] = made.sigmas[-2]
    y = x
    for t in base.timesteps:
        v, w = velocity(x, float(t) / 1000), velocity(y, float(t) / 1000)
        x, y = base.step(v, t, x).prev_sample, scheduler.step(w, t, y).prev_sample
    assert torch.equal(x, y)


@pytest.mark.parametrize("begin", [lambda s, x: s.set_begin_index(0), lambda s, x: s.step(x, s.timesteps[0], x)],
                         ids=["begin", "step"])  # fmt: skip
def test_a_slice_of_a_run_under_way_is_a_slice(begin):
    scheduler, x = wrap(BASES["euler"](), calls=4), sample()
    scheduler.set_timesteps(12)
    times, listed = scheduler.timesteps, scheduler.timesteps.tolist()
    begin(scheduler, x)
    for first in range(1, 6):
        assert times[first:].tolist() == scheduler.timesteps[first:].tolist() == listed[first:]


def test_timesteps_are_copied_and_pickled_as_a_tensor():
    scheduler = wrap(BASES["euler"](), calls=4)
    scheduler.set_timesteps(12)
    times = scheduler.timesteps
    for made in (copy.copy(times), copy.deepcopy(times), pickle.loads(pickle.dumps(times))):
        assert type(made) is torch.Tensor and made.tolist() == times.tolist()
        assert made[1:].tolist() == times.tolist()[1:]


@pytest.mark.parametrize("name", ["timesteps", "sigmas"])
def test_lists_can_not_be_assigned(name):
    scheduler = wrap(BASES["euler"](), calls=4)
    scheduler.set_timesteps(12)
    with pytest.raises(AttributeError, match=rf"{name} can't be assigned.*to set_timesteps\({name}=\.\.\.\)"):
        setattr(scheduler, name, torch.ones(12))


def test_nothing_is_left_of_the_list_beyond_its_end():
    scheduler = wrap(BASES["euler"](), calls=7)
    scheduler.set_timesteps(28)
    assert len(scheduler.timesteps[28:]) == 0 and len(scheduler.timesteps[27:]) == 1
    with pytest.raises(ValueError, match=r"begin_index must be in \[0, 27\], got 28"):
        scheduler.set_begin_index(28)


# ---- diffusers' form -------------------------------------------------------------------------------------------


@every_base
def test_saved_and_loaded(base, tmp_path):
    scheduler, x = wrap(base(), calls=9, target="exact", growth=1.6), sample()
    scheduler.save_pretrained(tmp_path)
    loaded = ddit_ext.ForecastScheduler.from_pretrained(tmp_path)
    assert type(loaded) is type(scheduler) and torch.equal(run(loaded, x), run(scheduler, x))
    assert (loaded.config.calls, loaded.config.target, loaded.config.growth) == (9, "exact", 1.6)
    other = ForecastScheduler.from_config(scheduler.config, speedup=4)
    assert (other.config.calls, other.config.speedup) == (None, 4)
    base().save_pretrained(tmp_path)
    assert ForecastScheduler.from_pretrained(tmp_path, calls=5).config.calls == 5
    back = type(base()).from_config(scheduler.config)
    assert torch.equal(run(back, x), run(base(), x))


def test_a_config_that_went_through_it_is_the_samplers_own_again(tmp_path):
    first = wrap(BASES["euler"](), calls=4, growth=1.6)
    back = FlowMatchEulerDiscreteScheduler.from_config(first.config)
    assert torch.equal(run(wrap(back, calls=5), sample()), run(wrap(BASES["euler"](), calls=5), sample()))
    other = UniPCMultistepScheduler.from_config(
        first.config, prediction_type="flow_prediction", use_flow_sigmas=True
    )
    other.save_pretrained(tmp_path)
    for made in (
        ForecastScheduler.from_config(other.config, calls=5),
        ForecastScheduler.from_pretrained(tmp_path, calls=5),
        wrap(other, calls=5),
    ):
        assert type(made.base) is UniPCMultistepScheduler
        assert (made.config.calls, made.config.growth) == (5, None)
        assert made.config.base_scheduler == "UniPCMultistepScheduler"
    with pytest.raises(ValueError, match="give one of calls and speedup, got calls=None"):
        ForecastScheduler.from_config(other.config)  # those of the first are not its own


def test_wrapping_again_wraps_the_same_sampler():
    scheduler = wrap(wrap(BASES["euler"](), calls=9), calls=5)
    assert type(scheduler.base) is FlowMatchEulerDiscreteScheduler and scheduler.config.calls == 5
    base = BASES["unipc"]()
    scheduler = wrap(base, calls=9)
    run(scheduler, sample())
    assert base.step_index is None and base.num_inference_steps is None


@every_base
@pytest.mark.parametrize("calls", [4, 12, 28])
def test_methods_that_are_bound_to_the_sampler_are_bound_to_its_copy(base, calls):
    """Such as its own `step`, put back after somebody had wrapped it; of Euler's levels, too, each is then stepped."""
    plain, seen = base(), []

    def step(self, *args, **kwargs):
        seen.append(self)
        return type(self).step(self, *args, **kwargs)

    plain.step = types.MethodType(step, plain)
    plain.set_timesteps = plain.set_timesteps
    scheduler = wrap(plain, calls=calls)
    for made in (scheduler, copy.deepcopy(scheduler), wrap(scheduler, calls=calls)):
        seen.clear()
        x = run(made, sample())
        assert len(made.computed) == calls and plain.step_index is None
        assert all(each is made.base for each in seen) and (len(seen) >= 28 or calls == 4)
        if not isinstance(plain, FlowMatchEulerDiscreteScheduler) or calls == 28:
            assert torch.equal(x, run(wrap(base(), calls=calls), sample()))


@every_base
@pytest.mark.parametrize("calls", [4, 12, 28])
def test_a_step_that_was_put_back_changes_nothing(base, calls):
    """Nor in a copy that is made in the middle of a run."""
    plain = base()
    plain.step = plain.step
    scheduler = wrap(plain, calls=calls)
    want = run(wrap(base(), calls=calls), sample())
    assert torch.equal(run(scheduler, sample()), want)
    scheduler.set_timesteps(28)
    x = sample()
    for index, timestep in enumerate(scheduler.timesteps):
        if index == calls // 2 - 1:
            scheduler = copy.deepcopy(scheduler)
        x = scheduler.step(velocity(x, float(timestep) / 1000), timestep, x, return_dict=False)[0]
    assert torch.equal(x, want)


# ---- Bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "give one of calls and speedup, got calls=None, speedup=None"),
        ({"calls": 4, "speedup": 2}, "give one of calls and speedup, got calls=4, speedup=2"),
        ({"calls": 0}, "calls must be a whole number of 1 or more, got 0"),
        ({"calls": 2.5}, "calls must be a whole number of 1 or more, got 2.5"),
        ({"speedup": 0.5}, "speedup must be a number of 1 or more, got 0.5"),
        ({"speedup": float("nan")}, "speedup must be a number of 1 or more, got nan"),
        ({"calls": 4, "target": "best"}, 'target must be "run" or "exact", got \'best\''),
        ({"calls": 4, "growth": 0.5}, r"growth must be in \[1, 4\] or None, got 0.5"),
        ({"calls": 4, "slope": 2}, r"slope must be in \[0, 1\] or None, got 2"),
        ({"calls": 4, "corrector": float("nan")}, r"corrector must be in \[0, 1\] or None, got nan"),
    ],
)
def test_settings_that_are_not_meant(settings, message):
    with pytest.raises(ValueError, match=message):
        wrap(BASES["euler"](), **settings)


def test_runs_that_are_not_meant():
    with pytest.raises(ValueError, match="calls=30 is more than the pipeline's 28 steps"):
        wrap(BASES["euler"](), calls=30).set_timesteps(28)
    with pytest.raises(ValueError, match="speedup=20 of 28 steps leaves 1 model calls.*speedup up to 14"):
        wrap(BASES["euler"](), speedup=20).set_timesteps(28)
    scheduler = wrap(BASES["euler"](), calls=2)
    with pytest.raises(ValueError, match="sigmas must be finite, got nan at step 1"):
        scheduler.set_timesteps(sigmas=[1.0, float("nan"), 0.5])
    with pytest.raises(ValueError, match="sigmas must fall from the first step to the end"):
        scheduler.set_timesteps(sigmas=[0.2, 0.5, 1.0])
    with pytest.raises(RuntimeError, match="call set_timesteps first"):
        scheduler.step(sample(), 1000.0, sample())
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="per_token_timesteps is not supported"):
        x = sample()
        for t in scheduler.timesteps:
            scheduler.step(x, t, x, per_token_timesteps=torch.ones(2, 3))


def with_its_own(name):
    """A sampler with a method that was wrapped on it; a pipeline of it calls the original's."""
    made = BASES["euler"]()
    method = getattr(made, name)
    setattr(made, name, lambda *args, **kwargs: method(*args, **kwargs))
    return made


@pytest.mark.parametrize(
    "base, error, message",
    [
        (lambda: FlowMatchHeunDiscreteScheduler(), TypeError, "FlowMatchHeunDiscreteScheduler calls the model 2 times a step"),
        (lambda: EulerDiscreteScheduler(), TypeError, "expected a flow-matching sampler .*, got EulerDiscreteScheduler"),
        (lambda: FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), ValueError, "stochastic_sampling=True"),
        (lambda: UniPCMultistepScheduler(), ValueError, "prediction_type='flow_prediction' and use_flow_sigmas=True, got 'epsilon'"),
        (lambda: DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", prediction_type="flow_prediction",
                                             use_flow_sigmas=True), ValueError, "algorithm_type='sde-dpmsolver"),
        (lambda: with_its_own("step"), ValueError, "FlowMatchEulerDiscreteScheduler has a step of its own, .*Delete it, or"),
        (lambda: with_its_own("set_timesteps"), ValueError, "has a set_timesteps of its own, which a copy can't take over"),
        (lambda: "euler", TypeError, "expected a flow-matching sampler .*, got str"),
        (lambda: SimpleNamespace(scheduler=1), TypeError, r"got SimpleNamespace\. Give its scheduler\."),
    ],
)  # fmt: skip
def test_samplers_that_can_not_be_wrapped(base, error, message):
    with pytest.raises(error, match=message):
        wrap(base(), calls=4)
