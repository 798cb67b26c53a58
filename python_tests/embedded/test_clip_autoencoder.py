"""The embedded Wan's autoencoder: its cells, its causality, and the calls that a Wan pipeline makes."""

import pytest
import torch

from ddit_ext.embedded.clip_autoencoder import ClipAutoencoder, to_cells, to_clip


@pytest.fixture
def vae():
    """Small, and with every layer at work: as built, the blocks add nothing."""
    torch.manual_seed(0)
    model = ClipAutoencoder(z_dim=6, encoder_width=8, decoder_width=8, encoder_blocks=1, decoder_blocks=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def test_cells_hold_what_lies_together():
    clip = torch.arange(2 * 3 * 4 * 8 * 12).view(2, 3, 4, 8, 12)
    cells = to_cells(clip, 2)
    assert cells.shape == (2, 3 * 2 * 16, 2, 2, 3)
    # Channel 1, second frame of the group, row 3, column 2 of the cell at group 1, row 1, column 2.
    assert cells[1, ((1 * 2 + 1) * 4 + 3) * 4 + 2, 1, 1, 2] == clip[1, 1, 2 + 1, 4 + 3, 8 + 2]
    assert torch.equal(to_clip(cells, 2), clip)


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_shapes_are_those_of_wan(vae, frames):
    clip = torch.rand(2, 3, frames, 16, 24) * 2 - 1
    latents = vae.encode(clip).latent_dist.mode()
    assert latents.shape == (2, 6, 1 + (frames - 1) // 4, 4, 6)
    assert vae.decode(latents, return_dict=False)[0].shape == clip.shape


def test_a_frame_knows_nothing_of_later_ones(vae):
    clip = torch.rand(1, 3, 9, 16, 16) * 2 - 1
    latents = vae.encode(clip).latent_dist.mode()
    for frames in (1, 5):
        alone = vae.encode(clip[:, :, :frames]).latent_dist.mode()
        torch.testing.assert_close(alone, latents[:, :, : alone.shape[2]])
        rebuilt = vae.decode(latents[:, :, : alone.shape[2]]).sample
        torch.testing.assert_close(rebuilt, vae.decode(latents).sample[:, :, :frames])


def test_it_is_saved_and_loaded_as_diffusers_does(vae, tmp_path):
    vae.register_to_config(latents_mean=[0.5] * 6, latents_std=[2.0] * 6)
    vae.save_pretrained(tmp_path)
    again = ClipAutoencoder.from_pretrained(tmp_path).eval()
    clip = torch.rand(1, 3, 5, 8, 8)
    assert torch.equal(again.encode(clip).latent_dist.mode(), vae.encode(clip).latent_dist.mode())
    assert again.config.latents_std == [2.0] * 6


def test_clips_that_do_not_fit_are_named(vae):
    with pytest.raises(ValueError, match=r"1 \+ 4n frames .* got 8 frames of 16x16"):
        vae.encode(torch.zeros(1, 3, 8, 16, 16))
    with pytest.raises(ValueError, match="got 5 frames of 16x18"):
        vae.encode(torch.zeros(1, 3, 5, 16, 18))
