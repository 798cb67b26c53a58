"""The corrector: what forecast steps got wrong, added to the latent after the next computed step."""

import math

import pytest
import torch
import wan_pipelines
from flux_pipelines import make_call, make_pipeline, run
from presets import make_preset
from skip_cases import sizes_of

import ddit_ext
from ddit_ext import policies
from ddit_ext.calibration.choices import forecasts
from ddit_ext.runtime.corrector import Corrector
from ddit_ext.runtime.patched_call import find_hook

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")

SIZES = [1, 1, 0, 0, 1, 0, 1, 0, 0, 1, 1, 0]
SIZE = dict(rows=4, columns=4)


def walk(corrector, outputs, sizes, levels, start):
    """Euler steps with each step's output, and the corrector's word after each."""
    latent = start
    for step, size in enumerate(sizes):
        length = levels[step + 1] - levels[step]
        latent = latent + length * outputs[step]
        correction = corrector.step(size == 0, outputs[step], levels[step], length)
        latent = latent if correction is None else latent + correction
    return latent


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_outputs_on_a_line_are_put_right(share):
    """Where the true outputs lie on one line over σ, what is left of the forecasts' error is what the share leaves."""
    torch.manual_seed(0)
    levels = [1 - (step / 12) ** 1.5 for step in range(13)]
    start, offset, slope = torch.randn(3, 2, 5)
    true = [offset + slope * level for level in levels[:-1]]
    wrong = [torch.randn(2, 5) for _ in SIZES]
    given = [value if size else other for value, other, size in zip(true, wrong, SIZES, strict=True)]
    exact = walk(Corrector(0.0), true, [1] * 12, levels, start)
    left = sum(
        (levels[step + 1] - levels[step]) * (wrong[step] - true[step]) * (1 - share if step < 11 else 1)
        for step, size in enumerate(SIZES)
        if not size
    )  # no computed step comes after the last one
    torch.testing.assert_close(walk(Corrector(share), given, SIZES, levels, start), exact + left)


def test_nothing_is_corrected_without_a_gap_or_a_step_before_it():
    corrector, output = Corrector(1.0), torch.ones(2)
    assert corrector.step(True, output, 1.0, -0.1) is None
    assert corrector.step(False, output, 0.9, -0.1) is None  # nothing was computed before that gap
    assert corrector.step(False, output, 0.8, -0.1) is None
    assert corrector.step(True, output, 0.7, -0.1) is None
    corrector.clear()
    assert corrector.step(False, output, 0.6, -0.1) is None


def corrected_by_callback(pipe, call, sizes, share):
    """What the pipeline's own callback makes of the same: it sees the latents after each step."""
    sigmas, seen, before = None, [], [None]

    def after(pipe, step, timestep, given):
        nonlocal sigmas
        sigmas = pipe.scheduler.sigmas.tolist()[pipe.scheduler.begin_index or 0 :]
        latents = given["latents"]
        seen.append((latents - before[0]) / (sigmas[step + 1] - sigmas[step]))
        earlier = [place for place in range(step) if sizes[place]]
        if sizes[step] and earlier:
            last = earlier[-1]
            for place in range(last + 1, step):
                way = (sigmas[place] - sigmas[last]) / (sigmas[step] - sigmas[last])
                line = (1 - way) * seen[last] + way * seen[step]
                latents = latents + share * (sigmas[place + 1] - sigmas[place]) * (line - seen[place])
        before[0] = latents
        return {"latents": latents}

    step = pipe.scheduler.step

    def first(output, timestep, sample, **kwargs):
        if before[0] is None:
            before[0] = sample
        return step(output, timestep, sample, **kwargs)

    pipe.scheduler.step = first
    return run(pipe, call | {"callback_on_step_end": after})


@pytest.mark.parametrize(
    ("kind", "share", "guided"),
    [("text", 1.0, False), ("text", 0.5, False), ("text", 1.0, True), ("img2img", 1.0, False)],
)
def test_a_run_of_a_pipeline(kind, share, guided):
    """img2img enters the noise levels later: 12 of 13 steps."""
    steps = {"text": len(SIZES), "img2img": 13}[kind]
    call = make_call(kind, **SIZE, steps=steps, true_cfg=guided)
    pipe = make_pipeline(kind)
    handle = ddit_ext.patch(pipe, schedule=SIZES, forecast=0.75, corrector=share)
    given = run(pipe, call)
    assert sizes_of(handle) == SIZES
    assert torch.equal(run(pipe, call), given)  # nothing is left of the run before
    corrector = handle._hook.corrector
    assert corrector._output is None and corrector._moved is None
    handle.unpatch()
    ddit_ext.patch(pipe, schedule=SIZES, forecast=0.75)
    assert not torch.allclose(run(pipe, call), given, atol=1e-3)
    torch.testing.assert_close(corrected_by_callback(pipe, call, SIZES, share), given, rtol=1e-4, atol=1e-4)


def test_a_preset_brings_it():
    call, choice = make_call(**SIZE, steps=12), forecasts(12, 6, 0.75, 1.75, corrector=0.5)
    pipe = make_pipeline()
    sizes = policies.growing_gaps(12, 6, 1.75)
    handle = ddit_ext.patch(pipe, schedule=sizes, forecast=0.75, corrector=0.5)
    expected = run(pipe, call)
    handle.unpatch()
    preset = make_preset(pipe, choice, grid=(1, 4, 4), picture=(16, 16))
    assert "corrector 0.5" in choice.words()
    handle = ddit_ext.patch(pipe, preset=preset)
    assert torch.equal(run(pipe, call), expected)
    handle.unpatch()
    with pytest.raises(ValueError, match="give preset or corrector, not both"):
        ddit_ext.patch(pipe, preset=preset, corrector=0.5)


def test_an_interrupted_run_leaves_nothing_to_the_next():
    pipe, call = make_pipeline(), make_call(**SIZE, steps=len(SIZES))
    ddit_ext.patch(pipe, schedule=SIZES, corrector=1.0)
    expected = run(pipe, call)

    def stop(pipe, step, timestep, given):
        pipe._interrupt = step >= 3
        return {}

    run(pipe, call | {"callback_on_step_end": stop})
    assert torch.equal(run(pipe, call), expected)


@pytest.mark.filterwarnings("ignore:ddit_ext. step 4 was computed")
def test_another_transformer_begins_anew():
    """Wan 2.2: between the outputs of two transformers there is no line; the second one's first step is computed."""
    pipe = wan_pipelines.make_pipeline("two", scheduler="euler")
    call = wan_pipelines.make_call("two", 4, 4, 1, steps=8)
    latents = []
    for corrector in (1.0, 0.0):
        handle = ddit_ext.patch(pipe, schedule=[1, 1, 0, 0, 0, 0, 0, 0], corrector=corrector)
        latents.append(wan_pipelines.run(pipe, call))
        sizes = sizes_of(handle)
        handle.unpatch()
        assert sizes.count(1) == 3 and sizes[:2] == [1, 1]
    assert torch.equal(*latents)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"corrector": 1.5}, ValueError, r"corrector must be in \[0, 1\], got 1.5"),
        ({"corrector": math.nan}, ValueError, "corrector must be a number, got NaN"),
        ({"corrector": "all"}, TypeError, "corrector must be a number, got 'all'"),
        ({"schedule": 2}, ValueError, "corrector=1.0 is for a schedule that skips steps"),
    ],
)
def test_bad_arguments(settings, error, text):
    pipe = make_pipeline()
    with pytest.raises(error, match=text):
        ddit_ext.patch(pipe, **({"schedule": SIZES, "corrector": 1.0} | settings))
    assert find_hook(pipe.transformer) is None


def test_half_precision_and_inference_mode():
    pipe, call = (
        make_pipeline(dtype=torch.bfloat16),
        make_call(**SIZE, steps=len(SIZES), dtype=torch.bfloat16),
    )
    ddit_ext.patch(pipe, schedule=SIZES, forecast=0.5, corrector=1.0)
    with torch.inference_mode():
        drawn = run(pipe, call)
    assert drawn.isfinite().all() and torch.equal(run(pipe, call), drawn)


def test_a_preset_on_another_sampler_says_that_nothing_is_corrected():
    pipe, call = make_pipeline(), make_call(**SIZE, steps=12)
    preset = make_preset(pipe, forecasts(12, 6, 0.75, 1.75, corrector=1.0), grid=(1, 4, 4), picture=(16, 16))

    class Own(type(pipe.scheduler)):
        """Might step otherwise."""

    pipe.scheduler = Own.from_config(pipe.scheduler.config)
    handle = ddit_ext.patch(pipe, preset=preset)
    with pytest.warns(UserWarning, match="forecasts are not corrected.*the pipeline's is Own"):
        given = run(pipe, call)
    handle.unpatch()
    ddit_ext.patch(pipe, schedule=policies.growing_gaps(12, 6, 1.75), forecast=0.75)
    assert torch.equal(run(pipe, call), given)


def test_a_sampler_of_other_steps_raises_before_the_first_one():
    pipe = wan_pipelines.make_pipeline()
    call = wan_pipelines.make_call(rows=4, columns=4, steps=len(SIZES))
    handle = ddit_ext.patch(pipe, schedule=SIZES, corrector=1.0)
    with pytest.raises(ValueError, match="corrector=1 needs a sampler of plain Euler steps.*UniPCMultistep"):
        wan_pipelines.run(pipe, call)
    assert handle.report().to_dict()["steps"] == []
    handle.unpatch()
    assert wan_pipelines.run(pipe, call).isfinite().all()
