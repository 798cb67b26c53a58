"""What the three resized weights preserve."""

import pytest
import torch
import torch.nn.functional as F
from tiny_flux import tiny_flux

from ddit_ext import cells as cell_views
from ddit_ext import ops
from ddit_ext.coarse.base_weights import read_base
from ddit_ext.coarse.resize import bilinear_matrix, pi_resize, pooled, repeated_rows


def embed(patch, weight):
    return torch.einsum("bcyx,dcyx->bd", patch, weight)


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_pi_resize_embeds_an_enlarged_patch_as_the_original(patch, scale):
    weight = torch.randn(5, 3, patch, patch, dtype=torch.float64)
    original = torch.randn(7, 3, patch, patch, dtype=torch.float64)
    enlarged = F.interpolate(original, scale_factor=scale, mode="bilinear")
    torch.testing.assert_close(embed(enlarged, pi_resize(weight, scale)), embed(original, weight))


def test_weights_of_the_cpu_are_resized_there_whatever_the_default_device_is():
    weight = torch.randn(5, 3, 2, 2)
    expected = pi_resize(weight, 2)
    with torch.device("meta"):  # stands for a GPU
        assert torch.equal(pi_resize(weight, 2), expected)


def test_bilinear_matrix_is_what_interpolate_does():
    signal = torch.randn(1, 1, 3, dtype=torch.float64)
    wide = F.interpolate(signal, size=7, mode="linear")
    torch.testing.assert_close(bilinear_matrix(3, 7) @ signal[0, 0], wide[0, 0])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_pooled_weights_embed_the_means(scale):
    weight = torch.randn(5, 3, 2, 2, dtype=torch.float64)
    patch = torch.randn(7, 3, 2 * scale, 2 * scale, dtype=torch.float64)
    wide = pooled(weight, scale)
    assert wide[1, 2, scale, 0] == weight[1, 2, 1, 0] / scale**2
    torch.testing.assert_close(embed(patch, wide), embed(F.avg_pool2d(patch, scale), weight))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_repeated_rows_keep_every_blocks_mean_and_add_no_detail(scale):
    weight, bias = torch.randn(3, 2, 2, 5), torch.randn(3, 2, 2)
    tokens = torch.randn(7, 5)
    base = torch.einsum("cyxd,bd->bcyx", weight, tokens) + bias
    wide = torch.einsum("cyxd,bd->bcyx", repeated_rows(weight, scale), tokens) + repeated_rows(bias, scale)
    torch.testing.assert_close(F.avg_pool2d(wide, scale), base)
    torch.testing.assert_close(wide, base.repeat_interleave(scale, 2).repeat_interleave(scale, 3))


def test_base_weights_have_flux_feature_order():
    """Read from the transformer and used by the ops, they give what its own two layers give."""
    transformer = tiny_flux()
    base = read_base(transformer)
    latents = torch.randn(2, 4, 6, 4)
    cells = cell_views.from_latents(latents)
    packed = cells.flatten(4).flatten(1, 3)
    tokens = ops.patch_embed(cells, base.embed_weight, base.embed_bias, None, None, 1.0, 1)
    torch.testing.assert_close(tokens, transformer.x_embedder(packed))
    out = ops.patch_deembed(tokens, base.deembed_weight, base.deembed_bias, None, None, 1.0, 1, [1, 3, 2])
    torch.testing.assert_close(out.flatten(4).flatten(1, 3), transformer.proj_out(tokens))


@pytest.mark.parametrize("resize", [pi_resize, pooled])
def test_a_patch_that_is_not_square_is_refused(resize):
    with pytest.raises(ValueError, match=r"square patch in dimensions 2 and 3, got \(5, 3, 2, 3\)"):
        resize(torch.zeros(5, 3, 2, 3), 2)
