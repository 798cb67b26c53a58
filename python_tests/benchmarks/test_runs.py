"""What the benchmarks run with: schedules of a speed, and diffusers' caches."""

import warnings
from pathlib import Path

import cache_cases
import flux_pipelines
import pytest
import torch
from threads import one_thread

pytest.importorskip("skimage", reason="the benchmarks' measures need it")

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


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
    with one_thread():
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
    with one_thread():
        found = magnitude_ratios(pipe, [batch], 4)
    for hook in hooks:
        hook.remove()
    norms = [residual.norm(dim=-1) for residual in residuals]
    expected = [1.0] + [float((new / old).mean()) for old, new in zip(norms, norms[1:], strict=False)]
    assert found == pytest.approx(expected, rel=1e-5)
    with one_thread():
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
