import pytest
import torch

from ddit_ext import cells


def test_from_packed_is_the_flux_layout():
    batch, h, w, channels, p = 2, 3, 5, 4, 2
    latents = torch.randn(batch, channels, h * p, w * p)
    packed = latents.view(batch, channels, h, p, w, p).permute(0, 2, 4, 1, 3, 5)  # as FluxPipeline packs
    packed = packed.reshape(batch, h * w, channels * p * p)
    view = cells.from_packed(packed, h, w, p)
    assert view.shape == (batch, 1, h, w, channels, p, p)
    assert torch.equal(view, cells.from_latents(latents, p))
    assert view.data_ptr() == packed.data_ptr()


@pytest.mark.parametrize("p", [1, 2, 3])
def test_from_latents_video(p):
    latents = torch.arange(2 * 3 * 4 * 6 * 12).reshape(2, 3, 4, 6, 12)
    view = cells.from_latents(latents, p)
    assert view.shape == (2, 4, 6 // p, 12 // p, 3, p, p)
    assert view[1, 2, 1, 3, 2, p - 1, 0] == latents[1, 2, 2, 2 * p - 1, 3 * p]
    view[1, 2, 1, 3, 2, p - 1, 0] = -1  # a view, not a copy
    assert (latents == -1).sum() == 1


def test_views_of_views():
    """Slices of a larger latent, the conditions of an image-to-video model for example, stay views."""
    latents = torch.randn(2, 8, 3, 6, 8)[:, 2:5, ::2, :, ::2]
    assert cells.from_latents(latents).data_ptr() == latents.data_ptr()
    packed = torch.randn(2, 12, 32)[..., :16]
    assert cells.from_packed(packed, 3, 4).data_ptr() == packed.data_ptr()


def test_an_empty_batch_is_fine():
    assert cells.from_packed(torch.zeros(0, 6, 16), 2, 3).shape == (0, 1, 2, 3, 4, 2, 2)
    assert cells.from_latents(torch.zeros(0, 4, 2, 6)).shape == (0, 1, 1, 3, 4, 2, 2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((torch.zeros(6, 16), 2, 3), r"from_packed: tokens must have shape \[B, h\*w, C\*p\*p\], got \[6,"),
        ((torch.zeros(1, 6, 16), 2, 4), r"from_packed: h and w must satisfy h\*w = .* = 6, got h=2, w=4"),
        ((torch.zeros(1, 6, 16), -2, -3), r"from_packed: h and w must satisfy"),
        ((torch.zeros(1, 6, 15), 2, 3), r"from_packed: tokens must have C\*p\*p features, .* = 4, got 15"),
        ((torch.zeros(1, 6, 16), 2, 3, 0), r"from_packed: p must be at least 1, got 0"),
    ],
)
def test_from_packed_names_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        cells.from_packed(*arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((torch.zeros(4, 6),), r"from_latents: latents must have shape \[B, C, H, W\] or .*, got \[4, 6\]"),
        ((torch.zeros(1, 4, 6, 5),), r"from_latents: latents must have .* multiples of p = 2, got 6 x 5"),
        ((torch.zeros(1, 4, 0, 4),), r"from_latents: latents must have .* multiples of p = 2, got 0 x 4"),
        ((torch.zeros(1, 4, 6, 6), -1), r"from_latents: p must be at least 1, got -1"),
    ],
)
def test_from_latents_names_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        cells.from_latents(*arguments)
