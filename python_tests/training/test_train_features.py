"""Matching of block outputs: what is compared, that it is trained on, and what is refused."""

import pytest
import torch
from tiny_flux import conditions, smooth_latents, tiny_flux
from wan_pipelines import TEXT_WIDTH, make_transformer

from ddit_ext.coarse import Adapter
from ddit_ext.families import family_for
from ddit_ext.families.grid import Grid
from ddit_ext.training import DistillConfig, distill
from ddit_ext.training.features import Features, feature_error
from ddit_ext.training.objective import add_noise, student_velocity, teacher_velocity


def noisy(transformer, latents, text):
    family = family_for(transformer)
    clean = family.training_call(latents, text)
    generator = torch.Generator().manual_seed(0)
    return family, add_noise(family, clean, torch.full((len(latents),), 0.7), generator)


@torch.no_grad()
def errors(transformer, adapter, latents, text, scale=2):
    family, call = noisy(transformer, latents, text)
    features = Features(transformer)
    with features.watch() as fine:
        teacher_velocity(transformer, call, None)
    weights = adapter.weights(scale, call["hidden_states"])
    with family.coarse(call, weights, family.noise_level(call)) as coarse, features.watch() as seen:
        student_velocity(transformer, coarse, None)
    return feature_error(seen, fine, family.grid(call), scale)


def test_the_error_is_that_of_means_over_merged_cells():
    """Two samples on a 2x4 grid and a reference token, written out by hand."""
    fine = torch.arange(2 * 9 * 2.0).view(2, 9, 2)
    means = fine[:, :8].view(2, 1, 2, 2, 2, 2).mean((2, 4)).flatten(1, 2)
    student = torch.cat([means * torch.tensor([1.0, 1.5]).view(2, 1, 1), fine[:, 8:]], dim=1)
    got = feature_error({0: student}, {0: fine}, Grid(1, 2, 4, references=1), 2)
    torch.testing.assert_close(got, torch.tensor([0.0, 0.25]))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["flux", "wan"])
def test_training_brings_the_blocks_closer(family, checkpointing):
    if family == "flux":
        transformer, latents, text = tiny_flux(), smooth_latents(4), conditions(4)
    else:
        generator = torch.Generator().manual_seed(0)
        transformer, latents = make_transformer(), torch.randn(4, 16, 2, 8, 8, generator=generator)
        text = {"encoder_hidden_states": torch.randn(4, 4, TEXT_WIDTH, generator=generator)}
    if checkpointing:
        transformer.enable_gradient_checkpointing()
    adapter = Adapter.create(transformer, scales=(2,), rank=2)
    before = errors(transformer, adapter, latents, text)
    config = DistillConfig(steps=20, lr=5e-3, warmup=1, ema=0.0, feature_weight=10.0)
    distill(transformer, adapter, [(latents, text)], config, progress=False)
    assert torch.all(errors(transformer, adapter, latents, text) < 0.9 * before)
    assert not any(block._forward_hooks for block in transformer.modules())


def test_without_a_weight_no_block_is_watched(monkeypatch):
    monkeypatch.setattr(Features, "watch", None)
    transformer = tiny_flux()
    adapter = Adapter.create(transformer, scales=(2,), rank=2)
    batch = (smooth_latents(2), conditions(2))
    assert distill(transformer, adapter, [batch], DistillConfig(steps=1), progress=False).steps == 1


def test_blocks_that_are_not_there_are_named():
    transformer = tiny_flux()
    config = DistillConfig(steps=1, feature_weight=1.0, feature_blocks=(1, 2))
    with pytest.raises(ValueError, match=r"feature_blocks must be between 0 and 1, got \[2\]"):
        distill(transformer, Adapter.create(transformer), [], config, progress=False)
    with pytest.raises(ValueError, match="feature_weight must not be negative, got -1"):
        DistillConfig(feature_weight=-1)
