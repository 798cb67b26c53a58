"""calibrate() on img2img, which does fewer steps than it is asked for."""

import pytest
from flux_pipelines import make_call, make_pipeline
from presets import TokenClock, calls
from skip_cases import sizes_of

import ddit_ext
from ddit_ext import Forecast

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline("img2img")


def calibrate(pipe, steps, strength, target, columns=4, **settings):
    """The preset, and the arguments of the call that it was made with."""
    (call,) = calls(lambda **made: make_call("img2img", **made), 1, rows=4, columns=columns)
    call["strength"] = strength
    clock = TokenClock(pipe)
    try:
        preset = ddit_ext.calibrate(
            pipe,
            [call],
            num_inference_steps=steps,
            target_speedup=target,
            clock=clock,
            progress=False,
            **settings,
        )
    finally:
        clock.remove()
    return preset, call


def test_a_run_is_as_the_preset_says_and_ends_at_p(pipe):
    preset, call = calibrate(pipe, 8, 0.5, 1.5, scales=(1, 2, 4))
    assert preset.strategy.coarse and preset.run_steps == 4
    assert "a run does 4 of 8 steps" in preset.explanation
    handle = ddit_ext.patch(pipe, preset=preset)
    try:
        pipe(**call, num_inference_steps=preset.steps, output_type="latent")
    finally:
        handle.unpatch()
    ran = sizes_of(handle)
    assert ran == preset.strategy.sizes_of(4)
    assert max(ran) > 1 and ran[-1] == 1
    assert preset.speed >= 1.5 * 0.95


def test_forecasts_keep_their_share_of_the_calls(pipe):
    preset, call = calibrate(pipe, 20, 0.6, 2.0)
    assert preset.run_steps in (12, 6) and preset.speed >= 2.0 * 0.95
    tried = [candidate for candidate in preset.candidates if isinstance(candidate.strategy, Forecast)]
    assert tried and all(candidate.speed == pytest.approx(12 / 6) for candidate in tried)


def test_a_budget_that_the_steps_of_the_run_can_not_keep_is_not_tried(pipe):
    # 32 + 6 tokens a full-size step, 2 + 6 at scale 4; enough is 0.95 * 3.7: 28 steps could keep that, the 9 that are
    # done can't.
    preset, _ = calibrate(pipe, 28, 0.3, 3.7, columns=8, scales=(1, 2, 4))
    assert preset.speed >= 3.7 * 0.95 and preset.run_steps <= 9
    assert "Budget" not in {type(candidate.strategy).__name__ for candidate in preset.candidates}
