"""calibrate(): by a clock that counts tokens, so that every figure can be computed again."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flux_pipelines import make_call, make_pipeline
from presets import TokenClock, calls

import ddit_ext
from ddit_ext import Budget, Fixed, Forecast
from ddit_ext.calibration import fixed
from ddit_ext.calibration.calibrate import _calls
from ddit_ext.calibration.forecasts import forecasts
from ddit_ext.calibration.pictures import as_uint8, prompts_of
from ddit_ext.calibration.runner import Setting, quiet
from ddit_ext.calibration.search import Search
from ddit_ext.coarse import Adapter
from ddit_ext.fidelity import psnr
from ddit_ext.runtime.patched_call import find_hook

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")
STEPS = 10
COST = {1: 16 + 6, 2: 4 + 6, 4: 1 + 6}  # tokens of a step: 4x4 cells, 6 of the text


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


def calibrate(pipe, *, steps=STEPS, count=2, clock=None, **settings):
    clock = clock or TokenClock(pipe)
    try:
        made = calls(make_call, count, rows=4, columns=4)
        return ddit_ext.calibrate(
            pipe, made, num_inference_steps=steps, clock=clock, progress=False, **settings
        )
    finally:
        clock.remove()


@pytest.fixture(scope="module")
def preset(pipe):
    return calibrate(pipe, seed=5, scales=(1, 2, 4))


def draw(pipe, number, steps):
    """Call `number` of the calibration above, as it is drawn without it."""
    call = calls(make_call, 2, rows=4, columns=4)[number]
    generator = torch.Generator().manual_seed(5 + number)
    return as_uint8(pipe(**call, num_inference_steps=steps, generator=generator, output_type="np"))


def test_the_figures_are_those_of_the_run(pipe, preset):
    assert preset.step_seconds == pytest.approx({scale: cost / 1000 for scale, cost in COST.items()})
    full = [draw(pipe, number, STEPS) for number in range(2)]
    with ddit_ext.patch(pipe, preset=preset) as handle:
        fast, seconds = [], []
        for number in range(2):
            clock = TokenClock(pipe)
            handle.time_by(clock)
            fast.append(draw(pipe, number, preset.steps))
            seconds.append(clock.seconds)
            clock.remove()
        assert handle.report().to_dict()["warnings"] == []
        assert len(handle.report().to_dict()["steps"]) == preset.run_steps
    assert preset.speed == pytest.approx(np.median([STEPS * COST[1] / 1000 / taken for taken in seconds]))
    assert preset.psnr == pytest.approx(psnr(np.concatenate(fast), np.concatenate(full)).mean())
    assert list(preset.pictures) == ["1", "2"]  # these calls have embeddings, no text
    for number, columns in enumerate(preset.pictures.values()):
        close = psnr(fast[number], full[number])[0]
        assert list(columns) == [f"full run, {STEPS} steps", f"chosen, {close:.1f} dB"]
        for picture, drawn in zip(columns.values(), (full, fast), strict=True):
            np.testing.assert_array_equal(picture, drawn[number][0])


def brightness(pictures, references, prompts):
    """The darker a picture, the better: what no PSNR would choose by."""
    assert pictures.shape == references.shape and prompts == [""] * len(pictures)
    assert not (pictures.flags.writeable or references.flags.writeable)
    return -pictures.reshape(len(pictures), -1).mean(axis=1)


def test_the_users_measure_decides(pipe, preset, tmp_path):
    own = calibrate(pipe, seed=5, scales=(1, 2, 4), measure=brightness)
    ended = [candidate for candidate in own.candidates if candidate.runs == 2 and candidate.reached]
    assert own.measure == "brightness" and own.score == max(candidate.score for candidate in ended)
    assert own.psnr < max(candidate.psnr for candidate in own.candidates)
    with ddit_ext.patch(pipe, preset=own):
        shown = np.concatenate([draw(pipe, number, own.steps) for number in range(2)])
    assert own.score == pytest.approx(-shown.mean())
    scores = [candidate.score for candidate in own.candidates]
    assert scores == sorted(scores, reverse=True)
    assert f"brightness {own.score:.3g}, {own.psnr:.1f} dB" in own.explanation
    assert "| brightness |" in own.table() and "brightness" not in preset.table()
    loaded = ddit_ext.Preset.load(own.save(tmp_path / "preset.json"))
    assert loaded == own and preset.score is None
    own.html(tmp_path / "preset.html")
    hint = f"{own.speed:.2f}×, brightness {own.score:.3g}, {own.psnr:.1f} dB"
    assert hint in (tmp_path / "preset.html").read_text()


def test_psnr_decides_where_a_measure_does_not_tell(pipe):
    own = calibrate(pipe, seed=5, scales=(1, 2, 4), measure=lambda pictures, *_: [0.5] * len(pictures))
    ended = [candidate for candidate in own.candidates if candidate.runs == 2 and candidate.reached]
    assert own.measure == "measure" and {candidate.score for candidate in ended} == {0.5}
    assert len(ended) > 1 and own.psnr == max(candidate.psnr for candidate in ended)
    shown = [candidate.psnr for candidate in own.candidates]
    assert shown == sorted(shown, reverse=True)


def test_the_search_goes_on_from_the_closer_of_equal_scores(monkeypatch):
    """(score, PSNR) by name: the score decides, and PSNR where it is the same."""
    ran = {"far": (0.5, 20.0), "near": (0.5, 30.0), "worse": (0.4, 40.0)}
    found = {name: SimpleNamespace(closeness=score, psnr=close) for name, (score, close) in ran.items()}
    monkeypatch.setattr(Search, "measure", lambda self, setting, calls: found[setting])
    assert Search(SimpleNamespace(runner=None), (1,), 0.5)._ranked(list(ran), 1) == ["near", "far", "worse"]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (0.5, r"measure must give 1 finite numbers, one a picture, got shape \(\)"),
        ([0.5, 0.5], r"got shape \(2,\)"),
        ([float("nan")], r"got \[nan\]"),
    ],
)
def test_what_a_measure_must_give(pipe, given, text):
    with pytest.raises(ValueError, match=text):
        calibrate(pipe, measure=lambda pictures, references, prompts: given)
    assert find_hook(pipe.transformer) is None


def test_plain_steps_stand_beside_a_closer_choice(pipe, monkeypatch):
    monkeypatch.setattr(fixed, "fewer_steps", lambda reference: Setting(2, Fixed(1)))
    preset = calibrate(pipe, seed=5)
    assert type(preset.strategy) is Forecast
    for number, columns in enumerate(preset.pictures.values()):
        full, plain = draw(pipe, number, STEPS), draw(pipe, number, 2)
        caption = f"2 plain steps, {psnr(plain, full)[0]:.1f} dB"
        assert list(columns)[2:] == [caption]
        np.testing.assert_array_equal(columns[caption], plain[0])


@pytest.mark.parametrize(
    ("call", "count", "expected"),
    [
        ({"prompt": "a cat"}, 2, ["a cat", "a cat"]),
        ({"prompt": ["a cat", "a dog"]}, 4, ["a cat", "a cat", "a dog", "a dog"]),
        ({"prompt": None}, 1, [""]),
        ({}, 2, ["", ""]),
    ],
)
def test_each_sample_knows_its_prompt(call, count, expected):
    assert prompts_of(call, count) == expected


def test_the_closest_that_is_fast_enough_is_chosen(preset):
    ended = [candidate for candidate in preset.candidates if candidate.runs == 2]
    assert preset.psnr == max(candidate.psnr for candidate in ended if candidate.reached)
    assert preset.speed >= 2.0 * 0.95
    assert all(candidate.reached == (candidate.speed >= 2.0 * 0.95) for candidate in preset.candidates)
    assert len({(candidate.steps, candidate.strategy) for candidate in preset.candidates}) == len(
        preset.candidates
    )
    kinds = {type(candidate.strategy) for candidate in preset.candidates}
    assert {Fixed, Budget, Forecast} <= kinds
    assert any(candidate.strategy == Fixed(1) for candidate in ended)
    sized = [candidate.strategy for candidate in preset.candidates if type(candidate.strategy) is Forecast]
    assert any(strategy.sizes is not None for strategy in sized) and any(
        strategy.sizes is None for strategy in sized
    )
    lengths = {candidate.steps for candidate in preset.candidates}
    assert {5, STEPS} <= lengths


def test_predictions_hold_on_a_steady_clock(preset):
    for candidate in preset.candidates:
        scales = candidate.strategy.computed_scales(candidate.steps)
        if scales is not None:
            assert candidate.speed == pytest.approx(STEPS * COST[1] / sum(COST[scale] for scale in scales))


def test_words(preset):
    assert preset.strategy.words(preset.steps) in preset.explanation
    assert f"{preset.speed:.2f} times as fast as {STEPS} full-size steps" in preset.explanation
    if preset.steps < STEPS:
        assert f"num_inference_steps={preset.steps}" in preset.explanation
    assert len(preset.table().splitlines()) == 2 + len(preset.candidates)


def test_where_it_was_made(pipe, preset):
    assert preset.grid == (1, 4, 4) and preset.picture == (16, 16) and preset.batch == 1
    assert preset.full_steps == STEPS and preset.adapter == "training-free" and preset.dtype == "float32"
    assert preset.sampler["class"] == "FlowMatchEulerDiscreteScheduler"
    assert set(preset.versions) == {"ddit_ext", "torch", "diffusers"}
    json.dumps(preset.to_dict(), allow_nan=False)


def test_the_pipeline_is_as_it_was(pipe, preset):
    assert find_hook(pipe.transformer) is None and "step" not in pipe.scheduler.__dict__
    assert pipe._progress_bar_config == {"disable": True}  # as make_pipeline has set it


def test_a_model_of_few_steps_keeps_them_and_is_deterministic(pipe):
    presets = [calibrate(pipe, steps=4, count=1, target_speedup=1.5, scales=(1, 2, 4)) for _ in range(2)]
    assert presets[0] == presets[1]
    assert presets[0].strategy.coarse and presets[0].steps == 4
    assert all(type(candidate.strategy) is Fixed for candidate in presets[0].candidates)
    assert any(
        candidate.strategy == Fixed(1) for candidate in presets[0].candidates
    )  # fewer steps stand beside it


def test_what_cannot_be_reached(pipe):
    # 4 steps: three at 7 and one at 22 instead of 4 at 22.
    with pytest.raises(
        ValueError,
        match=r"target_speedup=3 .*at most 2.05 .*4 steps: 3 at scale 4.*one at scale 4 takes 0.32",
    ):
        calibrate(pipe, steps=4, count=1, target_speedup=3.0, scales=(1, 2, 4))
    assert find_hook(pipe.transformer) is None


def test_coarse_steps_that_save_nothing(pipe):
    clock = TokenClock(pipe, overhead=0.0)
    clock.per_call_only()
    with pytest.raises(ValueError, match="at most 1.00 can.*scale 2 takes 1.00, one at scale 4 takes 1.00"):
        calibrate(pipe, steps=4, count=1, clock=clock, scales=(1, 2, 4))
    assert find_hook(pipe.transformer) is None


def test_an_adapter(pipe, tmp_path):
    Adapter.create(pipe.transformer, rank=2).save(tmp_path)
    preset = calibrate(pipe, steps=4, count=1, target_speedup=1.5, adapter=tmp_path)
    ddit_ext.patch(pipe, tmp_path, preset=preset).unpatch()
    assert len(preset.adapter) == 64
    with pytest.raises(ValueError, match="made with the adapter"):
        ddit_ext.patch(pipe, preset=preset)


def test_an_error_in_a_run_leaves_the_pipeline_unpatched(pipe):
    def fail(module, args):
        raise ArithmeticError("broken")

    hook = pipe.transformer.single_transformer_blocks[0].register_forward_pre_hook(fail)
    with pytest.raises(ArithmeticError):
        calibrate(pipe, steps=4, count=1)
    hook.remove()
    assert find_hook(pipe.transformer) is None


def test_training_free_is_told(pipe):
    with pytest.warns(UserWarning, match="no adapter was given"), pytest.raises(ValueError, match="reached"):
        calibrate(pipe, steps=4, count=1, target_speedup=9.0, scales=(1, 2))


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        (dict(target_speedup=1.0), ValueError, "target_speedup.*above 1.*1.0"),
        (dict(target_speedup=float("nan")), ValueError, "target_speedup"),
        (dict(target_speedup="2"), TypeError, "target_speedup.*'2'"),
        (dict(target_speedup=[]), ValueError, "target_speedup.*none"),
        (dict(target_speedup=[2.0, 1.0]), ValueError, r"above 1.*\[2.0, 1.0\]"),
        (dict(target_speedup=[2.0, True]), TypeError, "target_speedup.*True"),
        (dict(prompts="a cat"), TypeError, "prompts.*str"),
        (dict(prompts=[]), ValueError, "prompts.*none"),
        (dict(prompts=["a", 2]), TypeError, "prompts.*int, str"),
        (dict(prompts=["a", "b", "c"], batch_size=2), ValueError, "batch_size=2.*got 3"),
        (dict(batch_size=0), ValueError, "batch_size.*0"),
        (dict(batch_size=1.5), TypeError, "batch_size must be a whole number, got 1.5"),
        (dict(seed="5"), TypeError, "seed must be a whole number, got '5'"),
        (dict(seed=2**64), ValueError, f"seed must be at most {2**63 - 1}, got {2**64}"),
        (dict(num_inference_steps=0), ValueError, "num_inference_steps must be at least 1, got 0"),
        (dict(num_inference_steps=8.0), TypeError, "num_inference_steps must be a whole number, got 8.0"),
        (dict(prompts=[{"prompt": "a"}], batch_size=2), ValueError, "batch_size is for texts"),
        (dict(prompts=[{"num_inference_steps": 4}]), ValueError, "num_inference_steps must be the same"),
        (dict(generator=None), ValueError, "generator is set by calibrate"),
        (dict(sigmas=[1.0, 0.5]), ValueError, "sigmas says every step .* give num_inference_steps"),
        (dict(timesteps=[999, 500]), ValueError, "timesteps says every step"),
        (dict(prompts=[{"prompt": "a", "sigmas": [1.0]}]), ValueError, "sigmas says every step"),
        (dict(output_type="pil"), ValueError, "output_type is set by calibrate"),
        (dict(scales=(2, 4)), ValueError, "scales"),
        (dict(quantile=2.0), ValueError, "quantile"),
        (dict(measure="lpips"), TypeError, "measure must be callable.*got 'lpips'"),
        (dict(target="best"), ValueError, "target must be one of .*'run', 'exact'.* got 'best'"),
        (dict(adapter=3), TypeError, "adapter.*int"),
        (dict(adapter="no/such/folder"), ValueError, "no/such/folder"),
    ],
)
def test_bad_arguments(pipe, settings, error, text):
    prompts = settings.pop("prompts", ["a cat"])
    with pytest.raises(error, match=text):
        ddit_ext.calibrate(pipe, prompts, progress=False, **settings)
    assert find_hook(pipe.transformer) is None


def test_a_patched_pipeline(pipe):
    with ddit_ext.patch(pipe, schedule=1), pytest.raises(RuntimeError, match="already patched"):
        ddit_ext.calibrate(pipe, ["a cat"], progress=False)


def test_texts_in_batches():
    assert _calls(["a", "b"], 1, {"height": 8}) == [
        {"height": 8, "prompt": "a"},
        {"height": 8, "prompt": "b"},
    ]
    assert _calls(("a", "b", "c", "d"), 2, {}) == [{"prompt": ["a", "b"]}, {"prompt": ["c", "d"]}]
    assert _calls([{"image": 1}], 1, {"strength": 0.5}) == [{"image": 1, "strength": 0.5}]


def test_the_progress_bar_of_a_pipeline_comes_back():
    class Pipe:
        pass

    pipe = Pipe()
    with quiet(pipe):
        assert pipe._progress_bar_config == {"disable": True}
    assert not pipe.__dict__


def test_one_of_several_targets_that_cannot_be_reached(pipe):
    with pytest.raises(ValueError, match="target_speedup=3 can't be reached"):
        calibrate(pipe, steps=4, count=1, target_speedup=[1.5, 3.0], scales=(1, 2, 4))


@pytest.fixture
def slow_at_2_4(monkeypatch):
    """In the runs for a target of 2.4 everything is too slow."""
    measure = Search.measure

    def slowed(self, setting, calls):
        candidate = measure(self, setting, calls)
        if self.reference.speedup == 2.4:
            candidate = self.tried[setting] = replace(candidate, reached=False)
        return candidate

    monkeypatch.setattr(Search, "measure", slowed)


def test_a_target_that_runs_miss_does_not_cost_the_others(pipe, slow_at_2_4):
    with pytest.warns(UserWarning, match="ddit_ext: target_speedup=2.4 was not reached: .*it is left out"):
        presets = calibrate(pipe, count=1, scales=(1,), target_speedup=[2.4, 1.5])
    assert list(presets) == [1.5] and presets[1.5].speed >= 1.5 * 0.95


@pytest.mark.parametrize("target", [2.4, [2.4]])
def test_no_target_that_is_reached(pipe, slow_at_2_4, target):
    with pytest.raises(ValueError, match="^target_speedup=2.4 was not reached"):
        calibrate(pipe, count=1, scales=(1,), target_speedup=target)
    assert find_hook(pipe.transformer) is None


@pytest.mark.parametrize(
    "enough, scales, expected",
    [
        (7.6, {1: 1.0, 2: 1 / 3}, [[2, 2, 1, 1, 1], [2, 2, 2, 2, 2, 1, 1]]),
        (7.0, {1: 1.0, 2: 1 / 3}, [[2, 2, 2, 1, 1, 1]]),
        (7.6, {1: 1.0, 2: 1 / 8, 4: 1.2}, [[2] * 5 + [1] * 3, [2] * 13 + [1] * 2]),
        (14.0, {1: 1.0, 2: 1 / 3}, []),
        (7.6, {1: 1.0}, []),
        (
            3.8,
            {1: 1.0, 2: 1 / 3, 4: 1 / 6},
            [
                [2] + [1] * 7,
                [2] * 4 + [1] * 6,
                [2] * 7 + [1] * 5,
                [4] * 2 + [1] * 7,
                [4] * 8 + [1] * 6,
            ],
        ),
    ],
)
@pytest.mark.parametrize("measure", [None, brightness])
def test_coarse_calls_come_first_where_time_is_left(enough, scales, expected, measure):
    """What 28 / enough full calls take is spent: on that many full calls, one less, or about half of all; the rest on coarse ones."""
    reference = SimpleNamespace(
        steps=28, enough=enough, few=False, target="run", seconds=scales, measure=measure
    )
    found = [setting.strategy for setting in forecasts(reference)]
    early = expected if measure else expected[:1]  # before other variants; by PSNR they seldom win
    assert [each.sizes is None for each in found[: len(early) + 2]] == [True, *[False] * len(early), True]
    coarse = [each.computed_scales(28) for each in found if each.sizes is not None]
    assert coarse == expected
    assert all(sum(scales[size] for size in sizes) <= 28 / enough + 1e-9 for sizes in coarse)
