"""patch(pipe, schedule=Forecast(...)): the bare scheduler's picture, its report, and what is left behind."""

import pickle
import warnings
from itertools import zip_longest
from types import SimpleNamespace

import pytest
import torch
import wan_pipelines
from cache_cases import arguments, make, run
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from flow_families import FAMILIES
from flux_pipelines import make_call, make_pipeline
from flux_pipelines import run as run_flux
from loops import Loop

import ddit_ext
from ddit_ext import Fixed, Forecast, ForecastScheduler, Threshold
from ddit_ext.runtime.denoisers import known_family
from ddit_ext.runtime.patched_call import find_hook

STEPS = 12


def scales(handle):
    return [step["scale"] for step in handle.report().to_dict()["steps"]]


@pytest.mark.parametrize("family", ["flux", "wan"])
@pytest.mark.parametrize(
    "settings",
    [dict(calls=5), dict(speedup=3), dict(calls=5, target="exact", growth=2.0, slope=0.5, corrector=0.25)],
)
def test_the_picture_of_the_bare_scheduler(family, settings):
    call, pipe = arguments(family, True, STEPS), make(family)
    own = pipe.scheduler
    pipe.scheduler = ForecastScheduler.from_scheduler(own, **settings)
    expected = run(family, pipe, call)
    computed = {step.index for step in pipe.scheduler.computed}
    pipe.scheduler = own
    plain = run(family, pipe, call)
    levels = own.sigmas[:STEPS].tolist()
    with ddit_ext.patch(pipe, schedule=Forecast(**settings)) as handle:
        for _ in range(2):
            assert torch.equal(run(family, pipe, call), expected)
            steps = handle.report().to_dict()["steps"]
            assert [step["index"] for step in steps] == list(range(STEPS))
            assert [step["scale"] for step in steps] == [int(index in computed) for index in range(STEPS)]
            assert [step["noise_level"] for step in steps] == pytest.approx(levels)
    assert pipe.scheduler is own and "step" not in vars(own)
    assert find_hook(pipe.transformer) is None
    assert torch.equal(run(family, pipe, call), plain) and not torch.equal(plain, expected)


@pytest.mark.parametrize("family", ["flux", "wan"])
def test_all_steps_without_slope_are_the_plain_run(family):
    call, pipe = arguments(family, True, STEPS), make(family)
    plain = run(family, pipe, call)
    with ddit_ext.patch(pipe, schedule=Forecast(calls=STEPS, slope=0, corrector=0)):
        assert torch.equal(run(family, pipe, call), plain)


def test_the_report_of_a_forecast(tmp_path):
    pipe = make_pipeline()
    passed = [0.0]
    pipe.transformer.transformer_blocks[0].register_forward_pre_hook(
        lambda *_: passed.__setitem__(0, passed[0] + 1.0)
    )
    handle = ddit_ext.patch(pipe, target_speedup=2)
    handle.time_by(lambda: passed[0])
    run_flux(pipe, make_call(steps=8, batch=2))
    report = handle.report()
    data = report.to_dict()
    assert data["steps_per_scale"] == {1: 4, 0: 4} and data["grid"] == (1, 6, 4)
    for step in data["steps"]:
        computed = step["scale"] == 1
        assert step["tokens"] == 24 * computed and step["seconds"] == 1.0 * computed
        assert step["scales"] == [step["scale"]] * 2 and step["scores"] is None
    assert data["speedup_estimate"] == data["speedup_measured"] == 2.0
    lines = str(report).splitlines()
    assert lines[0] == "4 of 8 steps computed, 2.00 times as fast by step times, 2 asked for"
    assert lines[1] == "4.00 s, 2.00 times less arithmetic in the transformer; Forecast(speedup=2.0)"
    assert "scores" not in lines[2] and sum("forecast" in line for line in lines) == 4
    report.html(tmp_path / "run.html")
    assert "4 of 8 steps computed" in (tmp_path / "run.html").read_text()
    pytest.importorskip("matplotlib")
    report.plot(tmp_path / "run.png")


@pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")
def test_computed_steps_at_larger_patches():
    pipe, call = make_pipeline(), make_call(steps=8)
    with ddit_ext.patch(pipe, schedule=Forecast(calls=4, sizes=1)) as handle:
        sized = run_flux(pipe, call)
        assert sorted(scales(handle)) == [0] * 4 + [1] * 4
    with ddit_ext.patch(pipe, schedule=Forecast(calls=4)):
        assert torch.equal(run_flux(pipe, call), sized)
    for sizes in ([2, 4, 1, 1], Fixed((2, 4, 1, 1))):
        with ddit_ext.patch(pipe, schedule=Forecast(calls=4, sizes=sizes)) as handle:
            coarse = run_flux(pipe, call)
            assert [scale for scale in scales(handle) if scale] == [2, 4, 1, 1] and len(scales(handle)) == 8
    assert not torch.equal(coarse, sized)
    with ddit_ext.patch(pipe, schedule=Forecast(calls=7, sizes=Threshold(1e9, (1, 2)))) as handle:
        run_flux(pipe, call)
        assert [scale for scale in scales(handle) if scale] == [1, 1, 1, 2, 2, 2, 2]
        assert sum(step["scores"] is not None for step in handle.report().to_dict()["steps"]) == 4


def test_a_sampler_that_the_user_put_there_stays():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe)
    other = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.base.config)
    pipe.scheduler = other
    with pytest.warns(
        UserWarning,
        match="nothing is forecast: the pipeline that calls has a FlowMatchEulerDiscreteScheduler",
    ):
        run_flux(pipe, make_call(steps=4))
    handle.unpatch()
    assert pipe.scheduler is other


def test_an_interrupted_run_leaves_nothing_for_the_next():
    pipe, call = make_pipeline(), make_call(steps=STEPS)
    with ddit_ext.patch(pipe, schedule=Forecast(calls=5)) as handle:
        expected = run_flux(pipe, call)

        def stop(pipe, step, *_):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_flux(pipe, call | {"callback_on_step_end": stop})
        assert torch.equal(run_flux(pipe, call), expected)
        assert len(scales(handle)) == STEPS and scales(handle).count(1) == 5


def test_img2img_reports_the_steps_that_are_left():
    pipe, call = make_pipeline("img2img"), make_call("img2img", steps=10) | {"strength": 0.6}
    with ddit_ext.patch(pipe, schedule=1) as handle:
        run_flux(pipe, call)
        levels = [step["noise_level"] for step in handle.report().to_dict()["steps"]]
    with ddit_ext.patch(pipe, schedule=Forecast(calls=5)) as handle:
        run_flux(pipe, call)
        assert [step["noise_level"] for step in handle.report().to_dict()["steps"]] == pytest.approx(levels)
        assert scales(handle).count(1) == 3


@pytest.mark.parametrize("sizes", [None, [4, 2, 1, 1]])
def test_video_to_video_is_one_run_of_the_steps_that_are_left(sizes):
    """It cuts the sampler's timesteps and never says set_begin_index."""
    pipe = wan_pipelines.make_pipeline("v2v", scheduler="euler")
    call = wan_pipelines.make_call("v2v", rows=4, columns=4, steps=12)
    with ddit_ext.patch(pipe, schedule=1) as handle:
        wan_pipelines.run(pipe, call)
        levels = [step["noise_level"] for step in handle.report().to_dict()["steps"]]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "ddit_ext: no adapter")
        with ddit_ext.patch(pipe, schedule=Forecast(calls=6, sizes=sizes)) as handle:
            wan_pipelines.run(pipe, call)
    assert [step["noise_level"] for step in handle.report().to_dict()["steps"]] == pytest.approx(levels)
    assert [scale for scale in scales(handle) if scale] == (sizes or [1] * 4)


@pytest.mark.parametrize(
    "sizes, expected",
    [
        (1, [1] * 6),
        ([2, 2, 1, 1, 1, 1], [2, 2, 1, 1, 1, 1]),
        (Fixed(2, protect=(0, 1)), [2] * 5 + [1]),
        (Fixed([2, 1], stretch=True), [2] * 3 + [1] * 3),
    ],
)
def test_a_loop_that_looks_ahead_is_one_run(sizes, expected):
    """Its slice is one of a run that begins at the second step; the first step shows that it does not."""
    pipe = make_pipeline()
    with ddit_ext.patch(pipe, schedule=Forecast(calls=6, sizes=sizes)) as handle:
        scheduler, loop = pipe.scheduler, Loop(pipe)
        scheduler.set_timesteps(12, mu=0.5)
        for t, _ in zip_longest(scheduler.timesteps, scheduler.timesteps[1:]):
            loop.latents = scheduler.step(loop.call(float(t) / 1000), t, loop.latents).prev_sample
    assert len(scales(handle)) == 12 and [scale for scale in scales(handle) if scale] == expected


def test_a_pipeline_that_is_made_from_it_shares_the_forecast():
    pipe, call = make_pipeline(), make_call(steps=8)
    with ddit_ext.patch(pipe, schedule=Forecast(calls=4)) as handle:
        expected = run_flux(pipe, call)
        second = type(pipe)(**pipe.components)
        second.set_progress_bar_config(disable=True)
        assert torch.equal(run_flux(second, call), expected)
        with pytest.raises(RuntimeError, match="already patched"):
            ddit_ext.patch(second)
        assert scales(handle).count(1) == 4


@pytest.mark.parametrize("leave", ["handle", "first", "second"])
@pytest.mark.parametrize("sizes", [None, 1])
def test_unpatching_takes_the_forecast_off_those_that_were_made_from_it(leave, sizes):
    pipe, call = make_pipeline(), make_call(steps=8)
    plain = run_flux(pipe, call)
    handle = ddit_ext.patch(pipe, schedule=Forecast(calls=4, sizes=sizes))
    second = type(pipe)(**pipe.components)
    second.set_progress_bar_config(disable=True)
    assert not torch.equal(run_flux(second, call), plain)
    if leave == "handle":
        handle.unpatch()
    else:
        ddit_ext.unpatch(pipe if leave == "first" else second)
    assert torch.equal(run_flux(second, call), plain) and torch.equal(run_flux(pipe, call), plain)
    assert b"ddit_ext" not in pickle.dumps(second.scheduler)
    with ddit_ext.patch(second, schedule=Forecast(calls=4)) as handle:
        run_flux(second, call)
        assert scales(handle).count(1) == 4


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_whether_known_or_not(family):
    """The bare scheduler's latents; tokens in the report where the family is known."""
    pipe = family.build()
    plain = family.run(pipe, steps=8)
    pipe.scheduler = ForecastScheduler.from_scheduler(own := pipe.scheduler, calls=4)
    expected = family.run(pipe, steps=8)
    pipe.scheduler = own
    with ddit_ext.patch(pipe) as handle:
        assert torch.equal(family.run(pipe, steps=8), expected)
        data = handle.report().to_dict()
        assert scales(handle).count(1) == 4 and len(data["steps"]) == 8
        known = known_family(pipe.transformer) is not None
        assert all((step["tokens"] is not None) == known for step in data["steps"] if step["scale"])
        assert data["speedup_estimate"] == pytest.approx(2.0) and (data["grid"] is not None) == known
        assert "4 of 8 steps computed" in str(handle.report())
    assert torch.equal(family.run(pipe, steps=8), plain)


def test_a_family_without_larger_patches():
    family = next(family for family in FAMILIES if family.name == "AuraFlow")
    pipe = family.build()
    own = pipe.scheduler
    with pytest.raises(ValueError, match="transformer must be one of .* for larger patches, got AuraFlow"):
        ddit_ext.patch(pipe, schedule=Forecast(calls=5, sizes=2))
    assert pipe.scheduler is own
    plain = family.run(pipe, steps=4)
    with ddit_ext.patch(pipe, schedule=1) as handle:
        assert torch.equal(family.run(pipe, steps=4), plain)
        assert scales(handle) == [1] * 4


def test_a_sampler_that_cannot_be_wrapped():
    pipe = make_pipeline()
    pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    with pytest.raises(TypeError, match="FlowMatchHeunDiscreteScheduler calls the model 2 times a step"):
        ddit_ext.patch(pipe)
    assert isinstance(pipe.scheduler, FlowMatchHeunDiscreteScheduler)
    assert find_hook(pipe.transformer) is None


def test_more_calls_than_steps_raise_and_leave_a_patch_that_works():
    pipe = make_pipeline()
    with ddit_ext.patch(pipe, schedule=Forecast(calls=5)):
        with pytest.raises(ValueError, match="calls=5 is more than the pipeline's 4 steps"):
            run_flux(pipe, make_call(steps=4))
        assert run_flux(pipe, make_call(steps=6)).isfinite().all()


def test_something_without_a_transformer():
    with pytest.raises(
        TypeError, match="pipe must be a diffusers pipeline with a transformer, got SimpleNamespace"
    ):
        ddit_ext.patch(SimpleNamespace(scheduler=FlowMatchEulerDiscreteScheduler()))


@pytest.mark.parametrize("sizes", [None, 1])
def test_unpatching_in_the_middle_of_a_run_raises_and_changes_nothing(sizes):
    pipe, call = make_pipeline(), make_call(steps=STEPS)
    handle = ddit_ext.patch(pipe, schedule=Forecast(calls=5, sizes=sizes))
    want = run_flux(pipe, call)

    def leave(pipe, index, timestep, kwargs):
        if index < 4:
            with pytest.raises(RuntimeError, match="unpatch: the pipeline is in the middle of a run"):
                handle.unpatch()
        return kwargs

    assert torch.equal(run_flux(pipe, call | {"callback_on_step_end": leave}), want)
    assert scales(handle).count(1) == 5


def test_unpatching_after_a_run_that_was_left():
    """Also in a method of the pipeline itself, which holds the patch."""
    pipe, call = make_pipeline(), make_call(steps=STEPS)
    own, plain = pipe.scheduler, run_flux(pipe, call)

    def leave(pipe, index, timestep, kwargs):
        raise InterruptedError

    def generate(self):
        with ddit_ext.patch(self, schedule=Forecast(calls=5)):
            run_flux(self, call | {"callback_on_step_end": leave})

    with pytest.raises(InterruptedError):
        generate(pipe)
    assert pipe.scheduler is own and torch.equal(run_flux(pipe, call), plain)
