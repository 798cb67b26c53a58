"""calibrate(scales=(1,)): what needs neither an adapter nor any op of this library, as on a GPU that a build has no kernels for."""

import re
import sys
import warnings

import pytest
from flow_families import FAMILIES
from flux_pipelines import make_call, make_pipeline, make_vae
from presets import TokenClock, calls

import ddit_ext
from ddit_ext import Fixed
from ddit_ext.calibration import runner
from ddit_ext.coarse import Adapter


@pytest.fixture
def no_ops(monkeypatch):
    """Every wrapper of an op raises, wherever it is held."""

    def refuse(*args, **kwargs):
        raise AssertionError("an op was called")

    wrappers = [getattr(ddit_ext.ops, name) for name in ddit_ext.ops.__all__]
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "ddit_ext":
            for key, value in list(vars(module).items()):
                if any(value is wrapper for wrapper in wrappers):
                    monkeypatch.setattr(module, key, refuse)


def calibrate(pipe, steps, target, **settings):
    clock = TokenClock(pipe)
    try:
        made = calls(make_call, 1, rows=4, columns=4)
        return ddit_ext.calibrate(
            pipe,
            made,
            num_inference_steps=steps,
            target_speedup=target,
            clock=clock,
            progress=False,
            **settings,
        )
    finally:
        clock.remove()


def test_no_op_and_no_adapter_is_needed(no_ops, tmp_path):
    pipe = make_pipeline()
    with pytest.raises(AssertionError, match="an op was called"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ddit_ext.patch(pipe, schedule=2)
        pipe(**make_call(rows=4, columns=4))
    ddit_ext.unpatch(pipe)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is training-free
        preset = calibrate(pipe, 10, 2.0)  # without an adapter scales are (1,)
    assert preset.adapter == "training-free"
    assert {type(candidate.strategy).__name__ for candidate in preset.candidates} == {"Fixed", "Forecast"}
    assert not any(candidate.strategy.coarse for candidate in preset.candidates)
    saved = ddit_ext.Preset.load(preset.save(tmp_path / "preset.json"))
    assert saved == preset
    handle = ddit_ext.patch(pipe, preset=saved)
    call = make_call(rows=4, columns=4)
    pipe(**call | {"num_inference_steps": preset.steps})
    handle.unpatch()
    assert len(handle.report().to_dict()["steps"]) == preset.run_steps


def test_an_adapter_may_be_given():
    pipe = make_pipeline()
    adapter = Adapter.create(pipe.transformer, rank=2)
    preset = calibrate(pipe, 10, 2.0, adapter=adapter, scales=(1,))
    ddit_ext.patch(pipe, preset=preset).unpatch()
    ddit_ext.patch(pipe, adapter, preset=preset).unpatch()


def test_a_forecast_is_no_full_run():
    pipe = make_pipeline()
    own = pipe.scheduler
    pipe.scheduler = ddit_ext.ForecastScheduler.from_scheduler(own, calls=3)
    with pytest.raises(ValueError, match="pipe.scheduler is a ForecastScheduler.*= pipe.scheduler.base"):
        calibrate(pipe, 10, 2.0)
    pipe.scheduler = pipe.scheduler.base
    assert type(pipe.scheduler) is type(own)
    assert calibrate(pipe, 10, 2.0).full_steps == 10


def test_a_first_call_that_warms_up_makes_nothing_faster():
    def speeds(slow):
        pipe = make_pipeline()
        clock, cold = TokenClock(pipe), [slow]
        pipe.transformer.register_forward_pre_hook(
            lambda *_: setattr(clock, "seconds", clock.seconds + (cold.pop() if cold else 0.0))
        )
        made = calls(make_call, 1, rows=4, columns=4)
        preset = ddit_ext.calibrate(
            pipe, made, num_inference_steps=10, target_speedup=2.0, clock=clock, progress=False
        )
        return {(each.steps, each.strategy): each.speed for each in preset.candidates}

    assert speeds(5.0) == pytest.approx(speeds(0.0))


def test_rivals_are_compared_on_the_calls_that_both_were_run_on():
    pipe = make_pipeline()
    clock = TokenClock(pipe)
    preset = ddit_ext.calibrate(
        pipe,
        calls(make_call, 6, rows=2, columns=2),
        num_inference_steps=28,
        target_speedup=1.5,
        clock=clock,
        progress=False,
    )
    chosen = next(candidate for candidate in preset.candidates if preset.chose(candidate))
    fewer = next(candidate for candidate in preset.candidates if candidate.strategy == Fixed(1))
    assert (chosen.runs, fewer.runs) == (6, 4)
    told = re.search(
        r"Fewer steps alone .* (\S+) dB on the first 4 calls, where the chosen has (\S+) dB\.",
        preset.explanation,
    )
    assert told[1] == f"{fewer.psnr:.1f}" and told[2] != f"{chosen.psnr:.1f}"


def test_two_computed_steps_are_the_fewest():
    pipe = make_pipeline()
    assert calibrate(pipe, 10, 4.0).strategy.calls == 2
    with pytest.raises(
        ValueError, match="at most 5.00 can, with 10 steps, 2 computed.*; at least 2 are computed"
    ):
        calibrate(pipe, 10, 6.0)


def test_pictures_that_are_no_numbers_are_nothing_to_compare_with(monkeypatch):
    pipe = make_pipeline()
    decode = pipe.vae.decode
    monkeypatch.setattr(pipe.vae, "decode", lambda *args, **more: (decode(*args, **more)[0] * float("nan"),))
    with pytest.raises(ValueError, match="the full run's pictures hold NaN.*float16.*bfloat16 or float32"):
        calibrate(pipe, 10, 2.0)


def test_a_model_of_few_steps_has_nothing_left_to_try():
    with pytest.raises(ValueError, match=r"at most 1.00 can, with 4 steps; a model of 4 steps keeps them"):
        calibrate(make_pipeline(), 4, 1.5)


@pytest.mark.parametrize(
    ("prompts", "most", "speedup", "target"),
    [(4, 10, 1.5, "run"), (4, 10, 2.0, "exact"), (4, 10, 3.0, "run"), (32, 60, 2.0, "run")],
)
def test_what_it_costs_in_full_runs(prompts, most, speedup, target):
    """Calls of the model, in full runs of 28: the dense run of each prompt is among them."""
    pipe, calls_of_the_model = make_pipeline(), [0]

    def count(*_):
        calls_of_the_model[0] += 1

    pipe.transformer.transformer_blocks[0].register_forward_pre_hook(count)
    clock = TokenClock(pipe)
    preset = ddit_ext.calibrate(
        pipe,
        calls(make_call, prompts, rows=2, columns=2),
        num_inference_steps=28,
        target_speedup=speedup,
        target=target,
        clock=clock,
        progress=False,
    )
    clock.remove()
    assert calls_of_the_model[0] / 28 <= most
    chosen = next(candidate for candidate in preset.candidates if preset.chose(candidate))
    assert chosen.runs == prompts and chosen.reached


def test_several_targets_share_the_dense_runs():
    pipe, dense = make_pipeline(), []
    run = runner.Runner.run

    def counted(self, number, setting, **settings):
        if setting.strategy == Fixed(1) and setting.steps in (None, 12):
            dense.append(number)
        return run(self, number, setting, **settings)

    clock = TokenClock(pipe)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(runner.Runner, "run", counted)
        presets = ddit_ext.calibrate(
            pipe,
            calls(make_call, 3, rows=4, columns=4),
            num_inference_steps=12,
            target_speedup=[2.0, 1.5],
            clock=clock,
            progress=False,
        )
    clock.remove()
    assert sorted(dense) == [0, 1, 2]
    assert list(presets) == [2.0, 1.5]
    for speedup, preset in presets.items():
        assert preset.target_speedup == speedup and preset.speed >= 0.95 * speedup


def test_a_family_that_is_not_known():
    family = next(family for family in FAMILIES if family.name == "AuraFlow")
    pipe = family.build()
    pipe.vae = make_vae()  # its own pipeline decodes
    passed = [0.0]
    pipe.transformer.register_forward_pre_hook(lambda *_: passed.__setitem__(0, passed[0] + 1.0))
    arguments = family.arguments(1)
    preset = ddit_ext.calibrate(
        pipe, [arguments], num_inference_steps=12, clock=lambda: passed[0], progress=False
    )
    assert preset.grid is None and preset.speed >= 1.9
    assert preset.base["family"] == "AuraFlowTransformer2DModel"
    again = ddit_ext.Preset.from_dict(preset.to_dict())
    assert again == preset
    with ddit_ext.patch(pipe, preset=again):
        pipe(**arguments, output_type="latent", **preset.call)
    with pytest.raises(ValueError, match="preset was made for the family .AuraFlow.*, this model is .flux."):
        ddit_ext.patch(make_pipeline(), preset=again)
