"""Skipped steps in a calibration: which thresholds are run, what the file says, and that the pipeline runs it."""

import json
import math
import warnings

import pytest
import torch
import wan_pipelines
from diffusers import FirstBlockCacheConfig
from flux_pipelines import make_call, make_pipeline, run
from presets import TokenClock, calls, make_preset
from skip_cases import sizes_of
from test_calibration_search import COSTS, Model, search

import ddit_ext
from ddit_ext import policies
from ddit_ext.calibration import Preset, PresetError
from ddit_ext.calibration.choices import Choice, skips
from ddit_ext.calibration.measure import Meter, quiet
from ddit_ext.calibration.search import Full, Search
from ddit_ext.calibration.skipping import RUNS, by_change, with_computed
from ddit_ext.coarse import Adapter
from ddit_ext.runtime.patched_call import find_hook

WRONG = {1: 0, 2: 20, 4: 40}
SIZE = dict(rows=8, columns=6)


def tried_by_skipping(looked):
    return [candidate for candidate in looked.tried.values() if candidate.choice.kind == "skips"]


@pytest.mark.parametrize("count", range(2, 12))
def test_a_threshold_computes_as_many_steps_as_are_asked_for(count):
    changes = [None, *([[0.1 * (1.3 + math.sin(step))]] for step in range(11))]
    choice = with_computed(12, changes, count)
    policy = choice.schedule((1, 2, 4))
    policy.begin(12)
    taken = [policy.decide(step, scores) for step, scores in enumerate(changes)]
    assert count - 1 <= 12 - taken.count(0) <= count and taken.count(0) == choice.settings["skipped"]
    assert (taken[0], taken[-1]) == (1, 1)


def test_what_no_threshold_can_do():
    changes = [None, *[[[0.1], [0.3]]] * 5]
    assert with_computed(6, changes, 1) is None  # the ends are computed
    assert with_computed(6, changes, 6) is None  # nothing to skip
    assert with_computed(6, [None] * 6, 3) is None
    assert with_computed(6, [None, *[[[0.0]]] * 5], 3) is None


@pytest.mark.parametrize("target", [1.5, 2.0, 3.0])
def test_skipped_steps_win_where_they_are_closest(target):
    looked, _, chosen = search(Model(COSTS, WRONG, 40, 28, skipped=(0.0, 0.1)), target)
    assert chosen.choice.kind == "skips" and chosen.choice.steps == 28
    assert chosen.reached and chosen.runs == 2 and chosen.predicted_speed is None
    assert looked.tried[repr(chosen.choice)] == chosen
    best = max(tried_by_skipping(looked), key=lambda candidate: candidate.psnr)
    assert chosen.speed == pytest.approx(28 / (28 - chosen.choice.settings["skipped"]))
    assert best == chosen


@pytest.mark.parametrize("cost", [0.1, 0.3])
@pytest.mark.parametrize("drift", [-0.5, 0.5])
def test_a_threshold_is_corrected_by_what_its_runs_did(cost, drift):
    """A skipped step takes time, and the run drifts from the one at p; neither is known at first."""
    looked, _, chosen = search(Model(COSTS, WRONG, 40, 28, skipped=(cost, 0.1), drift=drift), 2.0)
    tried = tried_by_skipping(looked)
    assert 2 <= len(tried) <= RUNS + 2  # more in the finals, where the last is too slow
    assert chosen.choice.kind == "skips" and chosen.reached


def test_skipped_steps_that_go_wrong_are_not_chosen():
    _, _, chosen = search(Model(COSTS, WRONG, 4, 28, skipped=(0.0, 60)), 2.0)
    assert chosen.choice.fine and chosen.choice.steps == 14


def test_where_steps_can_not_be_skipped_the_rest_is_as_it_was():
    looked, _, _ = search(Model(COSTS, WRONG, 4, 28, skipped=None), 2.0)
    assert not tried_by_skipping(looked) and looked.full.changes == []


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


def calibrate(pipe, **settings):
    clock = TokenClock(pipe)
    try:
        made = calls(make_call, 1, **SIZE)
        return ddit_ext.calibrate(pipe, made, num_inference_steps=10, clock=clock, progress=False, **settings)
    finally:
        clock.remove()


def found(preset):
    return [candidate for candidate in preset.candidates if candidate.choice.kind == "skips"]


@pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")
def test_on_a_pipeline(pipe):
    preset = calibrate(pipe, scales=(1, 2))
    tried = found(preset)
    assert 1 <= len(tried) <= RUNS
    for candidate in tried:
        # By this clock a skipped step takes no time.
        assert candidate.speed == pytest.approx(10 / (10 - skipped(candidate)))
        assert candidate.choice.words() in preset.table()
    assert any(candidate.reached for candidate in tried)


def skipping_alone(pipe, made, steps):
    """What is tried at all steps with half of the time."""
    clock = TokenClock(pipe)
    try:
        with quiet(pipe):
            meter = Meter(pipe, None, made, (1, 2, 4), 0.4, 0, clock, lambda: None)
            first = meter.run(0, 1, steps)
            full = Full(steps, [first], {1: first.seconds / steps}, 2.0)
            return by_change(meter, full, Search(meter, full).screened)
    finally:
        clock.remove()


def test_not_beside_a_cache_of_diffusers():
    pipe = make_pipeline()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e-9))
    assert skipping_alone(pipe, calls(make_call, 1, **SIZE), 4) == []
    assert find_hook(pipe.transformer) is None


@pytest.mark.parametrize("kind", ["text", "two"])
def test_wan(kind):
    """Each of two transformers computes its first step, which the changes know."""
    pipe = wan_pipelines.make_pipeline(kind)
    made = calls(lambda **call: wan_pipelines.make_call(kind, 4, 4, 1, guidance=1.0, **call), 1)
    tried = skipping_alone(pipe, made, 10)
    assert tried and tried[-1].reached
    assert all(candidate.speed == pytest.approx(10 / (10 - skipped(candidate))) for candidate in tried)


def skipped(candidate):
    return candidate.choice.settings["skipped"]


@pytest.mark.parametrize("given", [False, True])
def test_a_preset_that_skips_runs_without_and_with_an_adapter(pipe, given, tmp_path):
    """Nothing of an adapter is used, so that neither its absence nor another one is an error, or told."""
    call = make_call(**SIZE, steps=10)
    handle = ddit_ext.patch(pipe, schedule=policies.TeaCachePolicy(1e9, coefficients=(2.0, 0.0)))
    expected = run(pipe, call)
    handle.unpatch()
    made_with = Adapter.create(pipe.transformer, rank=2)
    choice = skips(10, 1e9, 8, coefficients=(2.0, 0.0))
    path = make_preset(pipe, choice, adapter=made_with).save(tmp_path / "preset.json")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        handle = ddit_ext.patch(
            pipe, Adapter.create(pipe.transformer, rank=2, seed=1) if given else None, preset=path
        )
        drawn = run(pipe, call)
    handle.unpatch()
    assert torch.equal(drawn, expected)
    assert sizes_of(handle) == [1, *[0] * 8, 1]
    assert handle.report().to_dict()["target_speedup"] == 2.0


def test_the_file(pipe, tmp_path):
    preset = make_preset(pipe, skips(28, 0.1, 14, (0.5, -1.0, 0.0), 2, 3))
    path = preset.save(tmp_path / "preset.json")
    data = json.loads(path.read_text())
    assert data["format_version"] == 4 and Preset.load(path) == preset
    policy = Preset.load(path).choice.schedule((1, 2, 4))
    assert (policy.threshold, policy.coefficients) == (0.1, [0.5, -1.0, 0.0])
    assert (policy.protect_first, policy.protect_last) == (2, 3)
    for settings, text in (
        ({"threshold": -1.0}, "threshold.*-1.0"),
        ({"threshold": 0.1, "skipped": -1}, "skipped.*-1"),
        ({"threshold": 0.1, "coefficients": [float("inf")]}, "coefficients.*inf"),
        ({"threshold": 0.1, "protect_first": 0.5}, "protect_first.*0.5"),
        ({}, "threshold"),
        ({"threshold": 0.1, "more": 1}, "more"),
    ):
        path.write_text(json.dumps(data | {"choice": {"steps": 28, "kind": "skips", "settings": settings}}))
        with pytest.raises(PresetError, match=text):
            Preset.load(path)


@pytest.mark.parametrize("version", [1, 2])
def test_files_of_older_versions_are_read(pipe, tmp_path, version):
    preset = make_preset(pipe)
    path = tmp_path / "preset.json"
    path.write_text(json.dumps(preset.to_dict() | {"format_version": version}))
    assert Preset.load(path) == preset


def test_words_and_page(pipe, tmp_path):
    choice = skips(28, 0.1, 14)
    assert choice.words() == (
        "28 steps, of which about 14 are skipped when the input has changed by less than 0.10"
    )
    assert Choice.from_dict(choice.to_dict()) == choice
    assert not choice.fixed and not choice.fine and not choice.may_be_coarse
    made = make_preset(pipe)
    candidates = (*made.candidates, made.candidates[0].__class__(choice, None, 2.0, 32.8, 2, True))
    preset = make_preset(pipe, choice, candidates=candidates)
    assert f"| **{choice.words()}** | **–** | **2.00×** | **32.8** |" in preset.table()
    preset.html(tmp_path / "preset.html")
    page = (tmp_path / "preset.html").read_text()
    assert "steps skipped" in page and f"{choice.words()}: 2.00×, 32.8 dB" in page
    assert "by how much the model's input changes" in page
