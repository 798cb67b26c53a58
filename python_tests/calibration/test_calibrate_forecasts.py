"""Forecast steps in a calibration of tiny pipelines, and presets that forecast: the run they make is the one that was tried."""

import json
import warnings

import pytest
import torch
import wan_pipelines
from diffusers import FirstBlockCacheConfig
from flux_pipelines import make_call, make_pipeline, run
from presets import TokenClock, calls, make_preset
from skip_cases import sizes_of

import ddit_ext
from ddit_ext.calibration import Preset, PresetError, forecasting
from ddit_ext.calibration.choices import forecasts
from ddit_ext.calibration.measure import Meter, quiet
from ddit_ext.calibration.schedules import spread
from ddit_ext.calibration.search import Full, Search
from ddit_ext.coarse import Adapter
from ddit_ext.runtime.patched_call import find_hook

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")
SIZE = dict(rows=4, columns=4)


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


@pytest.fixture(autouse=True)
def unpatched(pipe):
    yield
    hook = find_hook(pipe.transformer)
    if hook is not None:
        hook.remove()


def calibrate(pipe, steps, target):
    clock = TokenClock(pipe)
    try:
        made = calls(make_call, 1, **SIZE)
        return ddit_ext.calibrate(
            pipe, made, num_inference_steps=steps, target_speedup=target, clock=clock, progress=False
        )
    finally:
        clock.remove()


def forecasts_of(preset):
    return [candidate for candidate in preset.candidates if candidate.choice.kind == "forecasts"]


@pytest.mark.parametrize("target", [2.0, 3.0])
def test_on_a_pipeline(pipe, target):
    preset = calibrate(pipe, 12, target)
    assert preset.step_seconds[0] == 0.0  # by this clock, which only ticks in blocks
    tried = forecasts_of(preset)
    lines = 3 if target >= forecasting.SPARSE else 2
    assert 4 <= len(tried) <= 3 * lines + 8  # growths by lines, then variants of the best
    for candidate in tried:
        assert candidate.speed == pytest.approx(candidate.predicted_speed) and candidate.reached
        assert candidate.choice.words() in preset.table()
    assert {candidate.choice.forecast for candidate in tried} >= {0.5, 0.75}
    assert any(candidate.choice.coarse for candidate in tried) == (target >= forecasting.SPARSE)
    assert [candidate.runs for candidate in tried].count(1) == len(
        tried
    )  # on one call the finals are one run, too


def test_a_model_of_few_steps_has_none(pipe):
    preset = calibrate(pipe, 6, 1.5)
    assert not forecasts_of(preset) and 0 not in preset.step_seconds


def tried_alone(pipe, made, steps, target=2.0):
    """The seconds of a skipped step, and what is tried with forecasts."""
    clock = TokenClock(pipe)
    try:
        with quiet(pipe):
            meter = Meter(pipe, None, made, (1, 2, 4), 0.4, 0, clock, lambda: None)
            first = meter.run(0, 1, steps)
            idle = meter.skipped_seconds(steps)
            full = Full(steps, [first], {1: first.seconds / steps}, target, idle=idle)
            return idle, forecasting.by_forecast(full, Search(meter, full).screen)
    finally:
        clock.remove()


def test_not_beside_a_cache_of_diffusers():
    pipe = make_pipeline()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e-9))
    assert tried_alone(pipe, calls(make_call, 1, **SIZE), 10) == (None, [])
    assert find_hook(pipe.transformer) is None


@pytest.mark.parametrize(("kind", "guidance"), [("text", 1.0), ("text", 4.0), ("two", 1.0)])
def test_wan(kind, guidance):
    """With guidance in two calls a step; of two transformers the second one's first step is computed in any case."""
    pipe = wan_pipelines.make_pipeline(kind)
    made = calls(lambda **call: wan_pipelines.make_call(kind, 4, 4, 1, guidance=guidance, **call), 1)
    idle, tried = tried_alone(pipe, made, 10)
    assert idle == 0.0 and len(tried) >= 4
    for candidate in tried:
        also = round(10 / candidate.speed) - candidate.choice.computed
        assert 10 / candidate.speed == pytest.approx(candidate.choice.computed + also)
        assert also in ((0, 1) if kind == "two" else (0,))


@pytest.mark.parametrize("choice", [forecasts(12, 6, 0.75, 1.75), forecasts(12, 7, 0.5, 1.25, {2: 3})])
def test_a_preset_and_its_file_run_as_calibrated(pipe, choice, tmp_path):
    call = make_call(**SIZE, steps=12)
    sizes = spread(12, choice.computed, choice.settings["growth"], list(choice.coarse.items()))
    handle = ddit_ext.patch(pipe, schedule=sizes, forecast=choice.forecast)
    expected = run(pipe, call)
    handle.unpatch()
    preset = make_preset(pipe, choice, grid=(1, 4, 4), picture=(16, 16))
    for given in (preset, preset.save(tmp_path / "preset.json")):
        handle = ddit_ext.patch(pipe, preset=given)
        assert torch.equal(run(pipe, call), expected)
        assert sizes_of(handle) == sizes
        handle.unpatch()
    handle = ddit_ext.patch(pipe, schedule=sizes)
    assert not torch.equal(run(pipe, call), expected)  # it matters what is forecast


@pytest.mark.parametrize("given", [False, True])
def test_a_preset_that_forecasts_at_p_needs_no_adapter(pipe, given):
    choice, made_with = forecasts(12, 6, 0.75, 1.75), Adapter.create(pipe.transformer, rank=2)
    preset = make_preset(pipe, choice, adapter=made_with, grid=(1, 4, 4), picture=(16, 16))
    other = Adapter.create(pipe.transformer, rank=2, seed=1) if given else None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ddit_ext.patch(pipe, other, preset=preset).unpatch()
    coarse = make_preset(pipe, forecasts(12, 7, 0.5, 1.25, {2: 3}), adapter=made_with)
    with pytest.raises(PresetError, match="made with the adapter"):
        ddit_ext.patch(pipe, other, preset=coarse)


@pytest.mark.parametrize("share", [0.5, 1])
def test_what_a_preset_says_can_not_be_said_twice(pipe, share):
    for choice in (forecasts(12, 6, 0.75, 1.75), None):
        with pytest.raises(ValueError, match=f"preset or forecast, not both.*got forecast={share}"):
            ddit_ext.patch(pipe, preset=make_preset(pipe, choice), forecast=share)
    assert find_hook(pipe.transformer) is None


def test_the_file(pipe, tmp_path):
    preset = make_preset(pipe, forecasts(28, 14, 0.5, 1.25, {4: 2, 2: 6}), step_seconds={0: 0.001, 1: 0.05})
    path = preset.save(tmp_path / "preset.json")
    data = json.loads(path.read_text())
    assert data["format_version"] == 4 and Preset.load(path) == preset
    data["choice"]["settings"]["forecast"] = 9
    path.write_text(json.dumps(data))
    with pytest.raises(PresetError, match=r"forecast.*\[0, 1\], got 9"):
        Preset.load(path)


def test_words_and_page(pipe, tmp_path):
    choice = forecasts(12, 6, 0.75, 1.75)
    made = make_preset(pipe)
    candidates = (*made.candidates, made.candidates[0].__class__(choice, 1.9, 2.0, 32.8, 2, True))
    preset = make_preset(
        pipe, choice, candidates=candidates, step_seconds={0: 0.001, 1: 0.05}, grid=(1, 4, 4)
    )
    assert f"| **{choice.words()}** | **1.90×** | **2.00×** | **32.8** |" in preset.table()
    preset.html(tmp_path / "preset.html")
    page = (tmp_path / "preset.html").read_text()
    assert "steps forecast" in page and f"{choice.words()}: 2.00×, 32.8 dB" in page
    assert page.count("forecast</title>") == 6 and "<td>skipped</td>" in page
