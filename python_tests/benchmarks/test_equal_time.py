"""What the benchmarks of the frontier count with: methods at equal time, schedules, and runs with diffusers' caches."""

import warnings
from pathlib import Path

import cache_cases
import flux_pipelines
import numpy as np
import pytest
import torch

pytest.importorskip("skimage", reason="the benchmarks' measures need it")

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def samples(psnr, speed, prompts=8):
    """Prompts that differ from each other by the same in every method."""
    from _equal_time import Samples

    return Samples.of(psnr + np.linspace(-1, 1, prompts), [speed] * (prompts // 2), batch=2)


def test_samples_repeat_the_speed_of_their_batch_and_count_at_most_alike():
    from _quality import ALIKE

    from _equal_time import Samples  # isort: skip

    made = Samples.of([100.0, 20.0, 30.0], [1.5, 2.5], batch=2)
    assert made.psnr.tolist() == [ALIKE, 20, 30] and made.speed.tolist() == [1.5, 1.5, 2.5]
    assert made.at(np.array([1, 2])) == (2.0, 25.0)


def test_the_line_is_interpolated_over_the_logarithm_of_the_speed():
    from _equal_time import above_line

    line = [samples(10, 8.0), samples(30, 2.0)]  # in any order
    found = above_line(samples(23, 4.0), line)
    assert [found[name] for name in ("mean", "low", "high")] == pytest.approx([3, 3, 3])
    assert above_line(samples(17, 4.0), line)["high"] == pytest.approx(-3)
    assert above_line(samples(30, 2.0), line)["mean"] == pytest.approx(0)
    assert above_line(samples(40, 1.9), line) is None and above_line(samples(40, 8.1), line) is None


def test_a_difference_within_the_noise_has_an_interval_about_zero():
    from _equal_time import Samples, above_line

    noise = np.array([3.0, -3.0] * 8)
    line = [Samples.of([20.0] * 16, [2.0] * 8, 2), Samples.of([20.0] * 16, [4.0] * 8, 2)]
    found = above_line(Samples.of(20.5 + noise, [3.0] * 8, 2), line)
    assert found["mean"] == pytest.approx(0.5) and found["low"] < 0 < found["high"]


def test_a_rival_is_closer_beyond_the_interval_and_not_much_slower():
    from _equal_time import rivals

    others = {
        "closer and faster": samples(21, 2.1),
        "closer, a little slower": samples(20.5, 1.6),
        "closer, much slower": samples(25, 1.4),
        "faster but no closer": samples(20, 3.0),
        "within the noise": samples(20.1, 2.1),
    }
    others["within the noise"].psnr[:4] -= 2
    others["within the noise"].psnr[4:] += 2
    assert rivals(samples(20, 2.0), others) == ["closer and faster", "closer, a little slower"]


@pytest.mark.parametrize("target", [1.2, 1.5, 2.0, 2.4])
def test_fine_at_both_ends_costs_what_the_target_allows(target):
    from _thresholds import both_ends

    seconds = {1: 0.2, 2: 0.07, 4: 0.04}
    schedule = both_ends(28, seconds, target)
    cost = sum(seconds[scale] for scale in schedule)
    assert abs(cost - 28 * 0.2 / target) <= (0.2 - 0.07) / 2 + 1e-9
    first, last = schedule.index(2), schedule[::-1].index(2)
    assert first >= last >= 1 and set(schedule[first : 28 - last]) == {2}


def test_fine_at_both_ends_is_none_where_the_coarse_steps_are_too_slow():
    from _thresholds import both_ends

    assert both_ends(28, {1: 0.2, 2: 0.1}, 2.0) is None


def tiny_batch(steps):
    from _runs import Batch

    call = flux_pipelines.make_call(steps=steps)
    noise = torch.randn(1, 24, flux_pipelines.FEATURES, generator=torch.Generator().manual_seed(5))
    left_out = ("num_inference_steps", "generator", "output_type")
    return Batch(["one"], {k: v for k, v in call.items() if k not in left_out} | {"latents": noise})


@pytest.mark.parametrize(
    "name", ["FirstBlockCache", "MagCache", "TaylorSeer", "PyramidAttentionBroadcast", "FasterCache"]
)
def test_a_cache_is_on_for_its_run_alone_and_forgets_the_last(name):
    from _caches import settings
    from _runs import Method, run

    steps = 9
    pipe, batch = cache_cases.make("flux"), tiny_batch(steps)
    bold = list(settings([1.0] * steps)[name].values())[-1]
    if name == "FirstBlockCache":
        from _caches import first_block

        bold = first_block(5.0)  # of random blocks all differences are large
    plain = Method("plain", steps)
    with flux_pipelines.one_thread():
        without, seconds, report = run(pipe, batch, plain)
        first, _, _ = run(pipe, batch, Method(name, steps, cache=bold))
        again, _, _ = run(pipe, batch, Method(name, steps, cache=bold))
        stacked, _, report = run(
            pipe, batch, Method(name, steps, {"schedule": [1] * 3 + [2] * 4 + [1] * 2}, bold)
        )
        after, _, _ = run(pipe, batch, plain)
    assert torch.equal(first, again) and not torch.equal(first, without)
    assert [step["scale"] for step in report["steps"]] == [1] * 3 + [2] * 4 + [1] * 2
    assert not torch.equal(stacked, first)
    assert torch.equal(after, without) and not pipe.transformer.is_cache_enabled


def test_a_cache_is_off_after_a_run_that_failed():
    from _caches import first_block
    from _runs import cached

    pipe = cache_cases.make("flux")
    with pytest.raises(KeyError), cached(pipe, first_block(0.1)):
        assert pipe.transformer.is_cache_enabled
        raise KeyError
    assert not pipe.transformer.is_cache_enabled


def test_magnitude_ratios_are_the_mean_of_what_the_calibration_measures():
    from _caches import magnitude_ratios

    pipe, batch = cache_cases.make("flux"), tiny_batch(4)
    residuals = []
    blocks = pipe.transformer
    entered = []
    hooks = [
        blocks.transformer_blocks[0].register_forward_pre_hook(
            lambda module, args, kwargs: entered.append(kwargs["hidden_states"]), with_kwargs=True
        ),
        blocks.single_transformer_blocks[-1].register_forward_hook(
            lambda module, args, output: residuals.append(output[1] - entered[-1])
        ),
    ]
    with flux_pipelines.one_thread():
        found = magnitude_ratios(pipe, [batch], 4)
    for hook in hooks:
        hook.remove()
    norms = [residual.norm(dim=-1) for residual in residuals]
    expected = [1.0] + [float((new / old).mean()) for old, new in zip(norms, norms[1:], strict=False)]
    assert found == pytest.approx(expected, rel=1e-5)
    with flux_pipelines.one_thread():
        twice = magnitude_ratios(pipe, [batch, batch], 4)
    assert twice == pytest.approx(found) and not pipe.transformer.is_cache_enabled


def test_a_run_that_lost_its_time_to_other_machines_is_made_again(monkeypatch):
    import _runs
    import _timing

    made = []
    lost = {
        "first": [40, 0],
        "second": [40, 10, 30, 20],
        "third": [4],
    }  # of 100 ticks a method, one entry a try
    ticks = [0, 0]

    def run(pipe, batch, method):
        tries = lost.get(method.name, [])
        number = [name for name, _ in made].count(method.name)
        ticks[0] += tries[number] if number < len(tries) else 0
        ticks[1] += 100 if method.name in lost else 0
        made.append((method.name, number))
        return torch.tensor([float(number)]), float(len(made)), None

    monkeypatch.setattr(_runs, "_short", lambda method: _runs.Method("warm up", 1))
    monkeypatch.setattr(_runs, "run", run)
    monkeypatch.setattr(_timing, "_cpu_ticks", lambda: tuple(ticks))
    methods = [_runs.Method(name, 4) for name in lost]
    found = _runs.interleaved_runs(None, [None], methods, beside=_runs.Method("beside", 2))
    assert [name for name, _ in made if name in lost] == ["first"] * 2 + ["second"] * 4 + ["third"]
    kept = {name: outcome.latents[0].item() for name, outcome in found.items()}
    assert kept == {"first": 1, "second": 1, "third": 0}  # the try that lost least
    order = [name for name, _ in made]
    for name, outcome in found.items():
        at = made.index((name, int(kept[name])))
        around = [number + 1 for number in (at - 1, at + 1)]
        assert order[at - 1] == order[at + 1] == "beside" and outcome.beside == [sum(around) / 2]


def test_targets_that_a_calibration_leaves_out_are_named(monkeypatch):
    from types import SimpleNamespace

    from embedded_calibrated import calibrated

    import ddit_ext

    def calibrate(pipe, prompts, *, target_speedup, **settings):
        assert target_speedup == [1.5, 3.0]
        warnings.warn("ddit_ext: target_speedup=3 was not reached: too slow; it is left out", stacklevel=2)
        return {1.5: "a preset"}

    monkeypatch.setattr(ddit_ext, "calibrate", calibrate)
    presets, missing = calibrated(SimpleNamespace(pipeline=None, adapter=None), [3.0, 1.5], ["a"], 1, 10)
    assert presets == {1.5: "a preset"}
    assert missing == {3.0: "target_speedup=3 was not reached: too slow; it is left out"}
