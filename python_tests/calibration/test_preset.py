"""The preset's file: written whole, read with suspicion, and checked against what it is used on."""

import json
import os
import re
from dataclasses import replace

import pytest
import torch
from flux_pipelines import make_pipeline, make_transformer
from presets import make_preset

from ddit_ext import Budget, Fixed, Forecast, TeaCache, Threshold
from ddit_ext.calibration import Preset, PresetError
from ddit_ext.coarse import Adapter
from ddit_ext.presets.match import adapter_digest, check_patch
from ddit_ext.runtime.run_check import RunCheck, _runs_on


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


@pytest.fixture
def saved(pipe, tmp_path):
    return make_preset(pipe).save(tmp_path / "preset.json")


def test_saved_and_loaded(pipe, tmp_path):
    preset = make_preset(pipe)
    path = preset.save(str(tmp_path / "preset.json"))
    assert Preset.load(str(path)) == preset
    assert os.listdir(tmp_path) == ["preset.json"]
    assert path.stat().st_size < 10_000


def test_saving_again_replaces(pipe, saved):
    other = make_preset(pipe, target_speedup=3.0)
    other.save(saved)
    assert Preset.load(saved) == other


def damage(**changes):
    return lambda data: data | changes


def without(name):
    return lambda data: {key: value for key, value in data.items() if key != name}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (damage(format="else"), "expected format 'ddit_ext.preset', got 'else'"),
        (damage(format_version=6, ddit_ext="9.9"), "format_version.*got 6, written by ddit_ext 9.9"),
        (damage(format_version=True), "format_version.*True"),
        (without("steps"), r"lacks \['steps'\]"),
        (damage(steps=0), "steps.*0"),
        (damage(steps=2.0), "steps.*2.0"),
        (damage(speed="fast"), "speed.*'fast'"),
        (damage(psnr=float("nan")), "psnr.*NaN"),
        (damage(score="high"), "score must be"),
        (damage(measure=3), "measure must be str, got int"),
        (damage(measure="found"), "score must stand beside measure"),
        (damage(psnr=-float("inf")), "psnr must be finite, got -inf"),
        (damage(speed=True), "speed must be a number, got True"),
        (damage(threads=0), "threads must be at least 1, got 0"),
        (damage(grid=[1, 2]), "grid.*3"),
        (damage(target="best"), "target must be one of .* got 'best'"),
        (damage(base={}), "base must have family"),
        (damage(sampler={"class": "X"}), "sampler"),
        (damage(step_seconds={"one": 1}), "one"),
        (damage(strategy={"steps": 3}), "strategy must be one of"),
        (damage(strategy=None), "damaged"),
        (damage(strategy={"strategy": "Fixed", "sizes": [8, 1], "scales": [1, 2]}), "8"),
        (damage(candidates=[{}]), "damaged"),
        (damage(candidates=None), "candidates"),
    ],
)
def test_damaged_data(saved, change, text):
    saved.write_text(json.dumps(change(json.loads(saved.read_text()))))
    with pytest.raises(PresetError, match=text) as error:
        Preset.load(saved)
    assert str(saved) in str(error.value)


def test_any_cut_of_the_file_is_noticed(saved):
    text = saved.read_text()
    for length in range(0, len(text.rstrip()), 37):
        saved.write_text(text[:length])
        with pytest.raises(PresetError, match="preset.json"):
            Preset.load(saved)


def test_no_file(tmp_path):
    with pytest.raises(PresetError, match="there is no file .*nothing.json"):
        Preset.load(tmp_path / "nothing.json")


def test_another_model(pipe):
    preset = make_preset(pipe)
    with pytest.raises(PresetError, match="preset was made for another base model"):
        check_patch(preset, make_transformer(seed=7), None)
    with pytest.raises(PresetError, match="preset was made for a model with num_attention_heads = 2"):
        check_patch(preset, make_transformer(num_attention_heads=4), None)


def test_another_adapter(pipe):
    adapter = Adapter.create(pipe.transformer, rank=2)
    other = Adapter.create(pipe.transformer, rank=2, seed=1)
    preset = make_preset(pipe, adapter=adapter)
    assert check_patch(preset, pipe.transformer, adapter) == []
    for given, found in ((None, "no adapter"), (other, f"the adapter {adapter_digest(other)[:12]}")):
        with pytest.raises(PresetError, match=f"made with the adapter .*got {found}"):
            check_patch(preset, pipe.transformer, given)
    with pytest.raises(PresetError, match="made with no adapter"):
        check_patch(make_preset(pipe), pipe.transformer, adapter)


def test_steps_at_p_need_no_adapter(pipe):
    preset = make_preset(pipe, Fixed(1), adapter=Adapter.create(pipe.transformer, rank=2))
    assert check_patch(preset, pipe.transformer, None) == []


def test_an_adapter_is_known_again_from_its_folder(pipe, tmp_path):
    adapter = Adapter.create(pipe.transformer, rank=2)
    adapter.save(tmp_path)
    assert adapter_digest(Adapter.load(tmp_path, pipe.transformer)) == adapter_digest(adapter)


def test_another_dtype(pipe):
    (text,) = check_patch(make_preset(pipe, dtype="bfloat16"), pipe.transformer, None)
    assert "calibrated in bfloat16, the transformer is in float32" in text


def test_differences_of_a_run(pipe):
    check = RunCheck(make_preset(pipe))
    same = dict(transformer=pipe.transformer, scheduler=pipe.scheduler, total=6, grid=(1, 8, 6), batch=1)
    assert check.differences(**same) == []
    assert check.differences(**same | {"total": 0}) == []
    for change, text in (
        ({"total": 12}, r"6 steps \(num_inference_steps=6\), this run has 12"),
        ({"grid": (1, 6, 8)}, r"8x6 tokens \(24x32 pixels\), this run has 6x8"),
        ({"batch": 2}, "1 samples a call, this run has 2"),
        (
            {"scheduler": type(pipe.scheduler)(use_dynamic_shifting=True, shift=1.5)},
            "shift=1.5 instead of 1.0",
        ),
    ):
        (found,) = check.differences(**same | change)
        assert re.search(text, found)


def test_another_pipeline(pipe):
    same = dict(transformer=pipe.transformer, scheduler=pipe.scheduler, total=6, grid=(1, 8, 6), batch=1)
    preset = make_preset(pipe, pipeline="FluxPipeline")
    assert RunCheck(preset, "FluxPipeline").differences(**same) == []
    (text,) = RunCheck(preset, "FluxControlNetPipeline").differences(**same)
    assert text == "the preset was calibrated with FluxPipeline, this is FluxControlNetPipeline"


def test_another_device(pipe):
    same = dict(transformer=pipe.transformer, scheduler=pipe.scheduler, total=6, grid=(1, 8, 6), batch=1)
    (text,) = RunCheck(make_preset(pipe, device="NVIDIA H100")).differences(**same)
    assert re.search("calibrated on NVIDIA H100, this run is on .*: its speed may differ", text)


def test_an_offloaded_transformer_runs_where_it_is_brought_to():
    from accelerate import cpu_offload_with_hook

    transformer = make_transformer()
    assert _runs_on(transformer) == torch.device("cpu")
    cpu_offload_with_hook(transformer, execution_device=torch.device("meta"))
    assert _runs_on(transformer) == torch.device("meta")


def test_another_sampler(pipe):
    from diffusers import FlowMatchHeunDiscreteScheduler

    check = RunCheck(make_preset(pipe))
    (text,) = check.differences(pipe.transformer, FlowMatchHeunDiscreteScheduler(), 6, (1, 8, 6), 1)
    assert "FlowMatchEulerDiscreteScheduler, this run has FlowMatchHeunDiscreteScheduler" in text


def test_a_short_table_keeps_the_chosen_one(pipe):
    preset = make_preset(pipe)
    chosen, other = preset.candidates
    shown = replace(preset, candidates=(other, other, chosen)).table(1).splitlines()[2:]
    assert len(shown) == 2 and shown[0].startswith("| 6 steps") and shown[1].startswith("| **")


def test_table_and_words(pipe):
    preset = make_preset(pipe)
    lines = preset.table().splitlines()
    assert lines[2] == (
        "| **6 steps: 1 at scale 4, 2 at scale 2, 3 at scale 1** | **2.05×** | **31.0** | **2** |"
    )
    assert "1.90× (too slow)" in lines[3]
    assert preset.call == {"num_inference_steps": 6}
    assert str(preset).startswith("Fewer steps, and some of them coarser.")


COARSE = {"threshold": 0.1, "coefficients": [1.0, 0.0], "protect_first": 1, "protect_last": 2, "skipped": 3}


@pytest.mark.parametrize("version", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("kind", "settings", "strategy"),
    [
        ("coarse_first", {"first": [[4, 1], [2, 2]]}, Fixed([4, 2, 2, 1, 1, 1], stretch=True)),
        ("coarse_first", {"first": []}, Fixed(1)),
        ("fine_ends", {"before": 2, "coarse": [[2, 1], [4, 1]]}, Fixed([1, 1, 2, 4, 1, 1], stretch=True)),
        (
            "thresholds",
            {"thresholds": [0.1, 0.2], "warmup_scale": 2},
            Threshold(
                [0.1, 0.2], quantile=0.3, protect=(0, 1), warmup_scale=2, only_finer=True, mixed="hold"
            ),
        ),
        (
            "budget",
            {"costs": [0.4, 0.2], "target": 1.9, "reference": [[0.1, 0.2, 0.3]]},
            Budget(1.9, quantile=0.3, costs=[0.4, 0.2], reference=[[0.1, 0.2, 0.3]]),
        ),
        ("skips", COARSE, TeaCache(0.1, protect=(1, 2))),
        (
            "forecasts",
            {"computed": 4, "forecast": 0.5, "growth": 1.5, "corrector": 1.0, "coarse": []},
            Forecast(calls=4, growth=1.5, slope=0.5, corrector=1.0),
        ),
        (
            "forecasts",
            {"computed": 5, "forecast": 0.5, "growth": 1.5, "coarse": [[2, 2]]},
            Forecast(
                calls=5, growth=1.5, slope=0.5, corrector=0.0, sizes=Fixed([1, 1, 2, 2, 1], stretch=True)
            ),
        ),
    ],
)
def test_files_of_older_formats(pipe, saved, version, kind, settings, strategy):
    data = json.loads(saved.read_text())
    choice = {"steps": 6, "kind": kind, "settings": settings}
    entry = dict(choice=choice, predicted_speed=None, speed=2.0, psnr=30.0, runs=2, reached=True)
    old = {name: value for name, value in data.items() if name not in ("strategy", "target")}
    old |= dict(format_version=version, choice=choice, scales=[1, 2, 4], quantile=0.3, candidates=[entry])
    saved.write_text(json.dumps(old))
    preset = Preset.load(saved)
    assert preset.strategy == strategy and preset.target == "run"
    assert preset.chose(preset.candidates[0]) and preset.speed == make_preset(pipe).speed
    preset.save(saved)
    assert json.loads(saved.read_text())["format_version"] == 5 and Preset.load(saved) == preset
    for name in ("choice", "scales"):
        saved.write_text(json.dumps({key: value for key, value in old.items() if key != name}))
        with pytest.raises(PresetError, match=f"lacks .*{name}"):
            Preset.load(saved)
    saved.write_text(json.dumps(old | {"choice": choice | {"kind": "best"}}))
    with pytest.raises(PresetError, match="damaged: kind must be one of an older format's, got 'best'"):
        Preset.load(saved)
