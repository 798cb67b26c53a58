"""Presets of Wan pipelines: one transformer, and two with a preset that knows both."""

import pytest
import torch
from presets import TokenClock, calls
from wan_pipelines import make_call, make_pipeline

import ddit_ext
from ddit_ext.calibration import Preset
from ddit_ext.presets import PresetError

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")
STEPS = 8


def calibrate(pipe, kind, **settings):
    clock = TokenClock(pipe)
    try:
        made = calls(lambda **call: make_call(kind, 4, 4, 1, guidance=1.0, **call), 1)
        return ddit_ext.calibrate(
            pipe, made, num_inference_steps=STEPS, scales=(1, 2, 4), clock=clock, progress=False, **settings
        )
    finally:
        clock.remove()


@pytest.mark.parametrize("kind", ["text", "two"])
def test_a_preset_runs_as_it_was_calibrated(kind, tmp_path):
    pipe = make_pipeline(kind)
    preset = calibrate(pipe, kind, target_speedup=1.3)
    path = preset.save(tmp_path / "preset.json")
    assert Preset.load(path) == preset
    handle = ddit_ext.patch(pipe, preset=path)
    pipe(**make_call(kind, 4, 4, 1, guidance=1.0, steps=preset.steps))
    report = handle.report().to_dict()
    handle.unpatch()
    assert len(report["steps"]) == preset.run_steps
    assert not [text for text in report["warnings"] if "preset" in text]


def test_a_preset_knows_both_transformers_and_both_adapters():
    pipe = make_pipeline("two")
    preset = calibrate(pipe, "two", target_speedup=1.3)
    other = make_pipeline("two")
    with torch.no_grad():
        other.transformer_2.patch_embedding.weight.add_(1.0)
    with pytest.raises(PresetError, match="preset was made for another base model"):
        ddit_ext.patch(other, preset=preset)
    with pytest.raises(
        PresetError, match=r"for a pipeline with 2 transformer\(s\), this one has \['transformer'\]"
    ):
        ddit_ext.patch(make_pipeline("text"), preset=preset)
    with pytest.raises(
        PresetError, match=r"with 1 transformer\(s\), this one has \['transformer', 'transformer_2'\]"
    ):
        ddit_ext.patch(pipe, preset=calibrate(make_pipeline("text"), "text", target_speedup=1.3))
    ddit_ext.patch(pipe, preset=preset).unpatch()
