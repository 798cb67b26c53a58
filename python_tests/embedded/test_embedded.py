"""The embedded model: its grammar, its scenes, its judge, and what only a trained pipeline shows."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import ddit_ext
from ddit_ext import embedded
from ddit_ext.embedded import scenes, weights
from ddit_ext.embedded.classifier import frechet_distance
from ddit_ext.embedded.vocabulary import describe, parse


@pytest.fixture(scope="module")
def model():
    return embedded.load("flux")


def test_prompts_round_trip():
    for _, scene in zip(range(50), scenes.pictures(50, seed=1)[1], strict=True):
        assert parse(scene.prompt) == (scene.objects, scene.pattern, scene.colour)
    assert describe(("apple", "cat"), "gradient", "orange") == "an apple and a cat on an orange gradient"


def test_parse_names_a_foreign_prompt():
    with pytest.raises(ValueError, match="prompt must name .* got 'a zebra on plain red'"):
        parse("a zebra on plain red")


def test_scenes_repeat_for_a_seed_and_differ_between_seeds():
    first, _ = scenes.pictures(3, seed=5)
    assert first.shape == (3, 64, 64, 3) and first.dtype == np.uint8
    assert np.array_equal(first, scenes.pictures(3, seed=5)[0])
    assert not np.array_equal(first, scenes.pictures(3, seed=6)[0])


def test_frechet_distance_of_shifted_gaussians():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 8))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)
    # The same spread, means 3 apart along one axis: the distance is 3 squared.
    assert frechet_distance(features, features + 3 * np.eye(8)[0]) == pytest.approx(9, rel=1e-6)
    # Twice the spread: sum of (2 - 1)^2 over the 8 axes.
    assert frechet_distance(features, 2 * features) == pytest.approx(8, rel=0.1)


def test_load_names_what_there_is():
    with pytest.raises(ValueError, match=r"name must be one of \['flux', 'flux-128', 'wan'\], got 'sdxl'"):
        embedded.load("sdxl")


def test_loading_prints_nothing_and_leaves_the_libraries_talkative():
    script = (
        "import logging\n"
        "from ddit_ext import embedded\n"
        "from transformers.utils import logging as library\n"
        "embedded.load('flux')\n"
        "assert library.is_progress_bar_enabled()\n"
        "assert all(logging.getLogger(name).level == logging.WARNING for name in ('transformers', 'diffusers'))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_classifier_tells_real_scenes_from_shuffled_prompts(model):
    pictures, prompts = model.reference(256, seed=11)
    matched = model.score(pictures, prompts)
    shuffled = model.score(pictures, prompts[1:] + prompts[:1])
    assert matched["accuracy"] >= 0.95
    assert shuffled["accuracy"] <= 0.15
    noise = np.random.default_rng(0).integers(0, 256, pictures.shape, dtype=np.uint8)
    assert matched["frechet"] < 0.2 * model.score(noise, prompts)["frechet"]


def test_score_names_what_does_not_fit(model):
    pictures, prompts = model.reference(2, seed=1)
    with pytest.raises(ValueError, match="2 pictures, 1 prompts"):
        model.score(pictures, prompts[:1])
    with pytest.raises(ValueError, match=r"pictures must be uint8 of shape \[n, 64, 64, 3\], got float64"):
        model.score(pictures / 255, prompts)
    for nothing in ([], pictures[:0]):
        with pytest.raises(ValueError, match="pictures must hold at least one picture, got none"):
            model.score(nothing, [])


def test_pictures_that_cannot_be_written_to_are_judged_without_a_warning(model, recwarn):
    """As a calibration hands them to a measure."""
    pictures, prompts = model.reference(2, seed=3)
    pictures.flags.writeable = False
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        assert len(model.judge(pictures, prompts).found) == 2
    finally:
        torch.set_warn_always(always)
    assert not recwarn.list


def test_pictures_show_what_was_asked_for(model):
    _, prompts = model.reference(8, seed=21)
    images = model.pipeline(
        prompts, num_inference_steps=12, generator=torch.Generator().manual_seed(0)
    ).images
    shown = model.score(images, prompts)["accuracy"]
    assert shown >= 0.5 - 1e-9  # a mean of shares, rounded
    assert model.score(images, prompts[1:] + prompts[:1])["accuracy"] <= shown - 0.3


def test_schedule_one_is_bit_identical_with_the_adapter(model):
    def draw():
        generator = torch.Generator().manual_seed(3)
        return model.pipeline(
            "a cat on plain red", num_inference_steps=5, generator=generator, output_type="np"
        ).images

    before = draw()
    keys = list(model.pipeline.transformer.state_dict())
    handle = ddit_ext.patch(model.pipeline, model.adapter, schedule=1)
    try:
        assert np.array_equal(before, draw())
        assert list(model.pipeline.transformer.state_dict()) == keys
    finally:
        handle.unpatch()
    assert np.array_equal(before, draw())


def test_dynamic_run_takes_coarse_steps_and_stays_close(model):
    _, prompts = model.reference(2, seed=31)

    def draw():
        generator = torch.Generator().manual_seed(4)
        pictures = model.pipeline(
            prompts, num_inference_steps=embedded.STEPS, generator=generator, output_type="np"
        ).images
        return np.uint8(np.rint(pictures * 255))

    fixed = draw()
    handle = ddit_ext.patch(model.pipeline, model.adapter, threshold=4e-3)
    try:
        dynamic = draw()
    finally:
        handle.unpatch()
    steps = handle.report().to_dict()["steps"]
    assert [step["scale"] for step in steps[:3]] == [1, 1, 1]  # no signal yet
    assert any(step["scale"] > 1 for step in steps)
    other = scenes.pictures(2, seed=32)[0]
    error = lambda a, b: ((a.astype(float) - b) ** 2).mean()  # noqa: E731
    assert error(fixed, dynamic) < 0.25 * error(fixed, other)


def test_without_its_weights_the_error_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "ddit_ext" / "embedded" / "weights.py"))
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"pip install ./embedded"):
        embedded.load("flux")


def test_installed_weights_serve_where_there_is_no_checkout(monkeypatch, tmp_path):
    installed = tmp_path / "site" / "ddit_ext_embedded"
    shutil.copytree(weights.root() / "assets", installed / "assets")
    (installed / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "ddit_ext" / "embedded" / "weights.py"))
    assert weights.root() == installed
    with pytest.raises(FileNotFoundError, match="holds no model 'flux': run `pip install ./embedded`"):
        weights.folder("flux")


def test_the_large_flux_makes_pictures_of_both_sizes():
    large = embedded.load("flux-128")
    pictures, prompts = large.reference(2, seed=3)
    assert pictures.shape == (2, 128, 128, 3)
    assert large.score(pictures, prompts)["accuracy"] == 1
    shown = large.pipeline(prompts[0], num_inference_steps=2, output_type="np").images
    assert shown.shape == (1, 128, 128, 3)
    small = large.pipeline(prompts[0], num_inference_steps=2, height=64, width=64, output_type="np").images
    assert small.shape == (1, 64, 64, 3)
    with pytest.raises(ValueError, match=r"pictures must be uint8 of shape \[n, 128, 128, 3\]"):
        large.score(embedded.load("flux").reference(2, seed=3)[0], prompts)
