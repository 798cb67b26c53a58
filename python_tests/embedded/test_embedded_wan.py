"""The embedded Wan: its judge, and what only a trained pipeline of clips shows."""

import numpy as np
import pytest
import torch

import ddit_ext
from ddit_ext import embedded
from ddit_ext.embedded import clips
from ddit_ext.fidelity import temporal_fidelity

PROMPT = "a spinning pizza on red checks"


@pytest.fixture(scope="module")
def model():
    return embedded.load("wan")


def draw(model, prompts, steps, seed=3):
    generator = torch.Generator().manual_seed(seed)
    frames = model.pipeline(prompts, num_inference_steps=steps, generator=generator).frames
    return np.uint8(np.rint(frames * 255))


def test_classifier_tells_real_clips_from_shuffled_prompts(model):
    shown, prompts = model.reference(32, seed=11)
    assert shown.shape == (32, 9, 96, 96, 3)
    assert model.score(shown, prompts)["accuracy"] >= 0.85
    assert model.score(shown, prompts[1:] + prompts[:1])["accuracy"] <= 0.15


def test_score_averages_over_the_frames(model):
    shown, prompts = model.reference(2, seed=1)
    stills = [np.repeat(shown[:, index : index + 1], clips.FRAMES, axis=1) for index in range(clips.FRAMES)]
    each = [model.judge(still, prompts) for still in stills]
    judged = model.judge(shown, prompts)
    np.testing.assert_allclose(judged.found, np.mean([still.found for still in each], axis=0))
    np.testing.assert_allclose(
        judged.features, np.mean([still.features for still in each], axis=0), atol=1e-5
    )
    with pytest.raises(ValueError, match=r"pictures must be uint8 of shape \[n, 9, 96, 96, 3\], got uint8"):
        model.score(shown[:, :5], prompts)


def test_clips_show_what_was_asked_for(model):
    _, prompts = model.reference(6, seed=21)
    shown = draw(model, prompts, 12)
    assert shown.shape == (6, clips.FRAMES, clips.CLIP_SIZE, clips.CLIP_SIZE, 3)
    accuracy = model.score(shown, prompts)["accuracy"]
    assert accuracy >= model.score(shown, prompts[1:] + prompts[:1])["accuracy"] + 0.3


def test_schedule_one_is_bit_identical_with_the_adapter(model):
    before = draw(model, PROMPT, 4)
    keys = list(model.pipeline.transformer.state_dict())
    handle = ddit_ext.patch(model.pipeline, model.adapter, schedule=1)
    try:
        assert np.array_equal(before, draw(model, PROMPT, 4))
        assert list(model.pipeline.transformer.state_dict()) == keys
    finally:
        handle.unpatch()
    assert np.array_equal(before, draw(model, PROMPT, 4))


def test_a_run_on_a_budget_takes_coarse_steps_and_stays_close(model, tmp_path):
    fixed, other = draw(model, PROMPT, 16), draw(model, PROMPT, 16, seed=4)
    # Sizes by arithmetic instead of this machine's clock, so that they repeat.
    policy = ddit_ext.policies.BudgetPolicy([1, 2, 4], [0.4, 0.25], 1.8, protect_last=2)
    handle = ddit_ext.patch(model.pipeline, model.adapter, schedule=policy)
    try:
        dynamic = draw(model, PROMPT, 16)
    finally:
        handle.unpatch()
    steps = handle.report().to_dict()["steps"]
    assert {step["tokens"] for step in steps} <= {432, 108, 27} and any(step["scale"] > 1 for step in steps)
    close, far = (temporal_fidelity(clip, fixed) for clip in (dynamic, other))
    assert close.frame_psnr.mean() > far.frame_psnr.mean() and close.flicker[0] < far.flicker[0]
    handle.report().html(tmp_path / "run.html", clips=dynamic, references=fixed)
    page = (tmp_path / "run.html").read_text()
    assert f"{close.flicker[0]:.2f}" in page and "PSNR of each frame" in page
    with pytest.raises(ValueError, match="clips and references must be given together"):
        handle.report().html(tmp_path / "run.html", clips=dynamic)


def test_a_flux_adapter_is_refused_by_name(model):
    with pytest.raises(ValueError, match="adapter was made for the family 'flux', this model is 'wan'"):
        ddit_ext.patch(model.pipeline, embedded.load("flux").adapter)
