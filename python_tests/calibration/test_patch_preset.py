"""patch(preset=…): the run that was calibrated, and a word where it is another one."""

import warnings

import pytest
import torch
from flux_pipelines import make_call, make_pipeline, make_transformer, run
from presets import make_preset

import ddit_ext
from ddit_ext import Budget, Fixed, Forecast, TeaCache, Threshold
from ddit_ext.coarse import Adapter
from ddit_ext.runtime.patched_call import find_hook

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")
SIZE = dict(rows=8, columns=6)


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


@pytest.fixture(autouse=True)
def unpatched(pipe):
    yield
    hook = find_hook(pipe.transformer)
    if hook is not None:
        hook.remove()


def told(handle):
    """Warnings of the last run, without those about its speed, which is that of a busy machine here."""
    return [text for text in handle.report().to_dict()["warnings"] if not text.startswith("asked for")]


def sizes(handle):
    return [step["scale"] for step in handle.report().to_dict()["steps"]]


def test_a_preset_and_its_file_run_as_calibrated(pipe, tmp_path):
    preset = make_preset(pipe)
    call = make_call(**SIZE, steps=preset.steps)
    handle = ddit_ext.patch(pipe, schedule=[4, 2, 2, 1, 1, 1])
    expected = run(pipe, call)
    handle.unpatch()
    for given in (preset, preset.save(tmp_path / "preset.json"), str(tmp_path / "preset.json")):
        handle = ddit_ext.patch(pipe, preset=given)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(run(pipe, call), expected)
        assert sizes(handle) == [4, 2, 2, 1, 1, 1]
        data = handle.report().to_dict()
        assert told(handle) == [] and data["target_speedup"] == 2.0
        handle.unpatch()


def test_fewer_steps_at_p_need_no_adapter(pipe):
    call = make_call(**SIZE, steps=6)
    plain = run(pipe, call)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ddit_ext.patch(pipe, preset=make_preset(pipe, Fixed(1)))
        assert torch.equal(run(pipe, call), plain)


@pytest.mark.parametrize("strategy", [Fixed(1), TeaCache(1e-9), Forecast(calls=4, growth=1.5)], ids=repr)
def test_presets_without_coarse_steps_take_an_adapter_of_any_sizes(pipe, strategy):
    adapter = Adapter.create(pipe.transformer, scales=(2,), rank=2)
    handle = ddit_ext.patch(pipe, adapter, preset=make_preset(pipe, strategy))
    run(pipe, make_call(**SIZE, steps=6))
    assert set(sizes(handle)) <= {0, 1}
    handle.unpatch()
    with pytest.raises(ValueError, match=r"not for \[4\]"):
        ddit_ext.patch(pipe, adapter, preset=make_preset(pipe))


def test_a_preset_that_forecasts(pipe):
    preset = make_preset(pipe, Forecast(calls=3))
    sampler = pipe.scheduler
    with ddit_ext.patch(pipe, preset=preset) as handle:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run(pipe, make_call(**SIZE) | preset.call)
        assert len(sizes(handle)) == 6 and sizes(handle).count(1) == 3 and told(handle) == []
        with pytest.warns(UserWarning, match="the preset is for 6 steps .*, this run has 8"):
            run(pipe, make_call(**SIZE, steps=8))
    assert pipe.scheduler is sampler


def test_a_preset_with_an_adapter(pipe, tmp_path):
    adapter = Adapter.create(pipe.transformer, rank=2)
    adapter.save(tmp_path)
    preset = make_preset(pipe, adapter=adapter)
    handle = ddit_ext.patch(pipe, tmp_path, preset=preset)
    run(pipe, make_call(**SIZE, steps=6))
    assert sizes(handle) == [4, 2, 2, 1, 1, 1]
    handle.unpatch()
    with pytest.raises(ValueError, match="preset was made with the adapter .* got no adapter"):
        ddit_ext.patch(pipe, preset=preset)
    assert find_hook(pipe.transformer) is None


@pytest.mark.parametrize(
    "strategy",
    [
        Threshold(1e9, protect=(0, 1), warmup_scale=2),
        Budget(2.0, costs=[0.4, 0.2], reference=[[0.1, 0.2, 0.3]] * 6),
    ],
    ids=["threshold", "budget"],
)
def test_a_preset_by_scores(pipe, strategy, tmp_path):
    make_preset(pipe, strategy).save(tmp_path / "preset.json")
    handle = ddit_ext.patch(pipe, preset=tmp_path / "preset.json")
    run(pipe, make_call(**SIZE, steps=6))
    taken = sizes(handle)
    assert max(taken) > 1 and taken[-1] == 1
    if isinstance(strategy, Threshold):
        assert taken[:3] == [2, 2, 2]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (dict(steps=12), r"the preset is for 6 steps \(num_inference_steps=6\), this run has 12"),
        (dict(rows=6, columns=8), "calibrated at 8x6 tokens .*, this run has 6x8"),
        (dict(batch=2), "calibrated with 1 samples a call, this run has 2"),
    ],
)
def test_another_run_is_told(pipe, changes, text):
    handle = ddit_ext.patch(pipe, preset=make_preset(pipe))
    with pytest.warns(UserWarning, match=text):
        run(pipe, make_call(**{**SIZE, "steps": 6, **changes}))
    assert len(told(handle)) == 1


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (
            dict(pipeline="FluxControlNetPipeline"),
            "calibrated with FluxControlNetPipeline, this is FluxPipeline",
        ),
        (dict(device="another GPU"), "calibrated on another GPU, this run is on .*: its speed may differ"),
    ],
)
def test_another_pipeline_or_device_is_told(pipe, made, text):
    handle = ddit_ext.patch(pipe, preset=make_preset(pipe, **made))
    with pytest.warns(UserWarning, match=text):
        run(pipe, make_call(**SIZE, steps=6))
    assert len(told(handle)) == 1


@pytest.mark.filterwarnings("ignore:ddit_ext. the preset was calibrated in bfloat16")
def test_another_sampler_and_dtype_are_told(pipe):
    preset = make_preset(pipe, dtype="bfloat16", sampler={"class": "Other", "config": {}})
    with pytest.warns(UserWarning, match="calibrated in bfloat16, the transformer is in float32"):
        handle = ddit_ext.patch(pipe, preset=preset)
    with pytest.warns(UserWarning, match="sampler Other, this run has FlowMatchEuler") as caught:
        run(pipe, make_call(**SIZE, steps=6))
    assert len(caught) == 2 and len(told(handle)) == 2


@pytest.mark.parametrize(
    ("beside", "text"),
    [
        (dict(schedule=2), "preset or schedule"),
        (dict(threshold=0.1), "preset or threshold"),
        (dict(scales=(1, 2)), "preset or scales, not both"),
        (dict(quantile=0.5), "preset or quantile, not both"),
        (dict(protect=(1, 0)), "preset or protect, not both"),
        (dict(batch="split"), "preset or batch, not both"),
    ],
)
def test_what_a_preset_says_can_not_be_said_twice(pipe, beside, text):
    with pytest.raises(ValueError, match=text):
        ddit_ext.patch(pipe, preset=make_preset(pipe), **beside)
    assert find_hook(pipe.transformer) is None and "step" not in pipe.scheduler.__dict__


def test_a_preset_of_another_model(pipe):
    preset = make_preset(pipe)
    other = make_pipeline()
    other.transformer = make_transformer(seed=7)
    with pytest.raises(ValueError, match="preset was made for another base model"):
        ddit_ext.patch(other, preset=preset)
    assert find_hook(other.transformer) is None
