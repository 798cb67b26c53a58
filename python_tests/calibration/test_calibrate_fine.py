"""calibrate(scales=(1,)): what needs neither an adapter nor any op of this library, as on a GPU that a build has no kernels for."""

import sys
import warnings

import pytest
from flux_pipelines import make_call, make_pipeline
from presets import TokenClock, calls

import ddit_ext
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
            scales=(1,),
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
        preset = calibrate(pipe, 10, 2.0)
    assert preset.scales == (1,) and preset.adapter == "training-free"
    assert {candidate.choice.kind for candidate in preset.candidates} == {
        "coarse_first",
        "skips",
        "forecasts",
    }
    assert not any(candidate.choice.coarse for candidate in preset.candidates)
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
    preset = calibrate(pipe, 10, 2.0, adapter=adapter)
    ddit_ext.patch(pipe, preset=preset).unpatch()
    ddit_ext.patch(pipe, adapter, preset=preset).unpatch()


def test_a_model_of_few_steps_has_nothing_left_to_try():
    with pytest.raises(
        ValueError,
        match=r"at most 1.00 can, with 4 steps at p.*there is no coarse size in scales; a model of 4",
    ):
        calibrate(make_pipeline(), 4, 1.5)
