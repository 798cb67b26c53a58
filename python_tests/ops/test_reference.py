"""The reference against formulas that are written down here once more, in another way."""

import pytest
import torch
import torch.nn.functional as F
from op_cases import deembed_arguments, embed_arguments

from ddit_ext import cells, reference


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_patch_embed_is_a_convolution(scale):
    arguments = embed_arguments(scale=scale, lora=False)
    latents = torch.randn(2, 3, 16, 16)
    arguments["cells"] = cells.from_latents(latents)
    side = 2 * scale
    expected = F.conv2d(latents, arguments["weight"], arguments["bias"], stride=side)
    torch.testing.assert_close(reference.patch_embed(**arguments), expected.flatten(2).mT)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_patch_embed_pads_by_repeating(scale):
    arguments = embed_arguments(scale=scale, lora=False)
    latents = torch.randn(2, 3, 10, 14)
    arguments["cells"] = cells.from_latents(latents)
    side = 2 * scale
    padded = F.pad(latents, (0, -14 % side, 0, -10 % side), mode="replicate")
    expected = F.conv2d(padded, arguments["weight"], arguments["bias"], stride=side)
    torch.testing.assert_close(reference.patch_embed(**arguments), expected.flatten(2).mT)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_patch_deembed_is_a_transposed_convolution(scale):
    arguments = deembed_arguments((2, 1, 5, 7), scale, lora=False, bias=False)
    side, rows, cols = 2 * scale, -(-5 // scale), -(-7 // scale)
    tokens = arguments["tokens"].mT.reshape(2, -1, rows, cols)
    kernel = arguments["weight"].permute(3, 0, 1, 2)
    expected = F.conv_transpose2d(tokens, kernel, stride=side)[..., :10, :14]
    torch.testing.assert_close(reference.patch_deembed(**arguments), cells.from_latents(expected))


def test_lora_is_an_addition_to_the_weight():
    arguments = embed_arguments()
    added = torch.einsum("dr,rcyx->dcyx", arguments["lora_b"], arguments["lora_a"])
    merged = arguments["weight"] + arguments["lora_scale"] * added
    expected = reference.patch_embed(arguments["cells"], merged, arguments["bias"], scale=2)
    torch.testing.assert_close(reference.patch_embed(**arguments), expected)

    arguments = deembed_arguments()
    added = torch.einsum("cyxr,rd->cyxd", arguments["lora_b"], arguments["lora_a"])
    merged = arguments["weight"] + arguments["lora_scale"] * added
    expected = reference.patch_deembed(
        arguments["tokens"], merged, arguments["bias"], scale=2, grid=arguments["grid"]
    )
    torch.testing.assert_close(reference.patch_deembed(**arguments), expected)


def test_acceleration_of_a_cubic_is_constant():
    """z = t³ · x has the third difference 6 x."""
    x = torch.randn(2, 3, 2, 8, 8, dtype=torch.float64)
    steps = [cells.from_latents(float(t) ** 3 * x) for t in (3, 2, 1, 0)]
    got = reference.acceleration_quantiles(*steps, scales=[1, 2, 4], quantile=0.4)
    for k, side in enumerate((2, 4, 8)):
        blocks = (6 * x).unfold(3, side, side).unfold(4, side, side)  # [B, C, F, rows, cols, side, side]
        sigma = blocks.var(dim=(-2, -1), unbiased=False).mean(dim=1).sqrt().flatten(1)
        torch.testing.assert_close(got[:, k], torch.quantile(sigma, 0.4, dim=1).float())


def test_a_parabola_has_no_acceleration():
    x = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    steps = [cells.from_latents((2 * t * t - t + 1) * x) for t in (3, 2, 1, 0)]
    assert reference.acceleration_quantiles(*steps, [1, 2], 1.0).abs().max() < 1e-12


def test_a_cut_patch_counts_its_own_pixels_only():
    """3 x 3 cells at scale 2: the corner patch is one cell."""
    z0 = torch.randn(1, 2, 6, 6)
    zero = cells.from_latents(torch.zeros_like(z0))
    patches = [z0[..., :4, :4], z0[..., :4, 4:], z0[..., 4:, :4], z0[..., 4:, 4:]]
    sigma = torch.stack([p.var(dim=(-2, -1), unbiased=False).mean().sqrt() for p in patches])
    got = reference.acceleration_quantiles(cells.from_latents(z0), zero, zero, zero, [2], 0.3)
    torch.testing.assert_close(got[0, 0], torch.quantile(sigma, 0.3))


def test_low_precision_is_rounded_once():
    arguments = embed_arguments(dtype=torch.bfloat16)
    tokens = reference.patch_embed(**arguments)
    wide = {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    assert torch.equal(tokens, reference.patch_embed(**wide).bfloat16())
