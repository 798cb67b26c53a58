"""A coarse step: what it computes before any training, and what training may change."""

from types import SimpleNamespace

import pytest
import torch
from tiny_flux import noisy_call, tiny_flux
from torch import nn

from ddit_ext import cells as cell_views
from ddit_ext.coarse import Adapter, AdapterError, ScaleSpec
from ddit_ext.coarse.noise_match import detail_gain, noise_match
from ddit_ext.families.flux import FluxFamily
from ddit_ext.families.grid import Grid
from ddit_ext.families.latent import CoarseProjection, WholeProjection
from ddit_ext.families.packed import PackedProjection


def coarse_velocity(transformer, adapter, scale, arguments):
    weights = adapter.weights(scale, arguments["hidden_states"])
    with FluxFamily(transformer).coarse(arguments, weights, arguments["timestep"]) as coarse:
        return transformer(**coarse)[0]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_training_free_is_the_base_on_the_smaller_latent(scale):
    """By the definition: the base at p on c·low at σ', its noise scaled back, plus g times the detail."""
    transformer = tiny_flux()
    rows, columns, detail = 12, 24, 0.3
    sigma = torch.tensor([0.9, 0.35])
    call = noisy_call(rows, columns, sigma.tolist())
    adapter = Adapter.training_free(transformer, [scale], positions="grid", detail_variance={scale: detail})
    got = coarse_velocity(transformer, adapter, scale, call)

    def picture(packed, h, w):
        return packed.view(2, h, w, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(2, 4, 2 * h, 2 * w)

    def packed(picture):
        h, w = picture.shape[2] // 2, picture.shape[3] // 2
        return picture.view(2, 4, h, 2, w, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, h * w, 16)

    def up(low):
        return low.repeat_interleave(scale, 2).repeat_interleave(scale, 3)

    def level(value):
        return value.view(2, 1, 1, 1)

    latent = picture(call["hidden_states"], rows, columns)
    low = torch.nn.functional.avg_pool2d(latent, scale)
    match = noise_match(sigma, scale)
    seen = level(match.input_scale) * low
    small = noisy_call(rows // scale, columns // scale, sigma.tolist())
    small |= {"hidden_states": packed(seen), "timestep": match.timestep}
    velocity = picture(transformer(**small)[0], rows // scale, columns // scale)
    clean = seen - level(match.timestep) * velocity
    noise = (seen + level(1 - match.timestep) * velocity) / scale
    wanted = up(noise - clean) + level(detail_gain(sigma, detail)) * (latent - up(low))
    torch.testing.assert_close(got, packed(wanted), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("start", ["noise_matched", "pi_resize", "blended"])
@pytest.mark.parametrize("grid", [(4, 4), (5, 3)])
def test_an_untrained_adapter_is_the_training_free_step_bit_for_bit(start, grid):
    transformer = tiny_flux()
    free = Adapter.training_free(transformer, start=start)
    fresh = Adapter.create(transformer, rank=4, start=start)
    call = noisy_call(*grid, [0.8, 0.2])
    for scale in (2, 4):
        first = coarse_velocity(transformer, free, scale, call)
        assert torch.equal(first, coarse_velocity(transformer, fresh, scale, call))
        assert first.shape == call["hidden_states"].shape


def test_the_papers_start_keeps_the_timestep_and_the_plain_de_embedding():
    transformer = tiny_flux()
    adapter = Adapter.training_free(transformer, [2], start="pi_resize", detail_residual=False)
    cells, sigma = torch.randn(1, 1, 4, 4, 4, 2, 2), torch.tensor([0.6])
    step = adapter.own(2).prepare(cells, sigma)
    assert torch.equal(step.timestep, sigma)
    tokens = torch.randn(1, 4, 32)
    velocity = cell_pixels(step.velocity(tokens))
    small = transformer.proj_out(tokens).view(1, 2, 2, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, 4, 4, 4)
    torch.testing.assert_close(velocity, small.repeat_interleave(2, 2).repeat_interleave(2, 3))


def cell_pixels(cells):
    batch, _, h, w, channels, p, _ = cells.shape
    return cells[:, 0].permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, h * p, w * p)


def test_condition_channels_are_not_scaled_as_noise():
    transformer = tiny_flux(channels=2, condition_channels=3)
    weights = Adapter.training_free(transformer, [2]).own(2)
    sigma = torch.tensor([0.7])
    cells = torch.randn(1, 1, 2, 2, 5, 2, 2)
    scaled = cells.clone()
    scaled[..., :2, :, :] *= noise_match(sigma, 2).input_scale.item()
    patch = cell_pixels(scaled).unsqueeze(1)
    wanted = torch.einsum("bncyx,dcyx->bnd", patch, weights.embed_weight) + weights.embed_bias
    torch.testing.assert_close(weights.prepare(cells, sigma).tokens(), wanted)
    assert weights.prepare(cells, sigma).velocity(torch.randn(1, 1, 32)).shape == (1, 1, 2, 2, 2, 2, 2)


def test_the_patch_size_vector_is_added_to_every_token():
    weights = Adapter.create(tiny_flux(), [2], rank=0).own(2)
    cells, sigma = torch.randn(1, 1, 3, 3, 4, 2, 2), torch.tensor([0.5])
    before = weights.prepare(cells, sigma).tokens()
    torch.nn.init.normal_(weights.size_embedding)
    torch.testing.assert_close(weights.prepare(cells, sigma).tokens(), before + weights.size_embedding)


def test_every_parameter_is_trained():
    transformer = tiny_flux().requires_grad_(False)
    adapter = Adapter.create(transformer, [2], rank=2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # away from the zeros, which hide one factor from the other
        for parameter in adapter.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    coarse_velocity(transformer, adapter, 2, noisy_call(5, 4, [0.8, 0.2])).square().sum().backward()
    idle = [name for name, p in adapter.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    # Knots whose noise level did not occur get no gradient, but the others of the same tensor do.
    assert idle == []


def test_the_refinement_of_a_patch_reads_its_own_token():
    """By the definition: what W_out·silu(W_in·patch + W_token·token + …) adds changes with that token alone."""
    refinement = Adapter.create(tiny_flux(), [2], rank=0, refinement_hidden=6).own(2).refinement
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in refinement.parameters():
            parameter.normal_()
    cells, sigma = torch.randn(1, 1, 4, 6, 4, 2, 2), torch.tensor([0.5])
    tokens = torch.randn(1, 6, refinement.token_weight.shape[1])
    patches = cells.view(1, 2, 2, 3, 2, 4, 2, 2).permute(0, 1, 3, 5, 2, 6, 4, 7).reshape(6, -1)
    level = torch.cos(0.5 * torch.pi * torch.arange(8)) @ refinement.level_weight.T
    hidden = patches @ refinement.input_weight.flatten(1).T + refinement.input_bias + level
    hidden = torch.nn.functional.silu(hidden + tokens[0] @ refinement.token_weight.T)
    wanted = hidden @ refinement.output_weight.flatten(0, 2).T + refinement.output_bias.flatten()
    got = refinement(cells, refinement.bias(sigma), tokens)
    got = got.view(1, 2, 2, 3, 2, 4, 2, 2).permute(0, 1, 3, 5, 2, 6, 4, 7).reshape(6, -1)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("trained", [False, True])
def test_bfloat16_is_close_to_float32(trained):
    transformer = tiny_flux()
    adapter = Adapter.create(transformer, [2], rank=2) if trained else Adapter.training_free(transformer, [2])
    call = noisy_call(4, 5, [0.8, 0.3])
    wanted = coarse_velocity(transformer, adapter.eval(), 2, call)
    short = {k: v.bfloat16() if torch.is_tensor(v) else v for k, v in call.items()} | {
        "timestep": call["timestep"]
    }
    got = coarse_velocity(transformer.bfloat16(), adapter, 2, short)
    assert got.dtype == torch.bfloat16
    assert (got.float() - wanted).norm() / wanted.norm() < 0.02


def test_autocast_runs_and_trains():
    transformer = tiny_flux().requires_grad_(False)
    adapter = Adapter.create(transformer, [2], rank=2)
    with torch.autocast("cpu", torch.bfloat16):
        coarse_velocity(transformer, adapter, 2, noisy_call(4, 4, [0.5])).float().sum().backward()
    assert adapter.own(2).embed_weight.grad.dtype == torch.float32


def test_cells_of_another_lower_dtype_are_rounded_once():
    weights = Adapter.training_free(tiny_flux(), [2]).own(2)
    cells, sigma = torch.randn(1, 1, 4, 4, 4, 2, 2).bfloat16(), torch.tensor([0.4])
    with torch.autocast("cpu", torch.float16):
        tokens = weights.prepare(cells, sigma).tokens()
        wanted = weights.prepare(cells.float(), sigma).tokens()
    assert tokens.dtype == torch.float16 and torch.equal(tokens, wanted)


@pytest.mark.parametrize(
    ("cells", "sigma", "text"),
    [
        (torch.zeros(1, 1, 4, 4, 3, 2, 2), [0.5], r"cells must have shape \[B, F, h, w, 4, 2, 2\], got"),
        (torch.zeros(1, 1, 4, 4, 4, 2), [0.5], "cells must have shape"),
        (torch.zeros(2, 1, 4, 4, 4, 2, 2), [0.5] * 3, r"sigma must have shape \[2\], got \(3,\)"),
    ],
)
def test_what_does_not_fit_is_named(cells, sigma, text):
    weights = Adapter.training_free(tiny_flux(), [2]).own(2)
    with pytest.raises(ValueError, match=text):
        weights.prepare(cells, torch.tensor(sigma))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"scale": 1}, "scale must be an integer of 2 to 1073741824, got 1"),
        ({"start": "warm"}, "start must be one of noise_matched, pi_resize, blended, got 'warm'"),
        ({"positions": "edge"}, 'positions must be "centre" or "grid"'),
        ({"refinement_tokens": 1}, "refinement_tokens must be True or False, got 1"),
        ({"in_channels": 2}, "in_channels must be at least out_channels"),
    ],
)
def test_a_spec_refuses_what_it_does_not_know(change, text):
    fields = {"scale": 2, "patch_size": 2, "width": 8, "in_channels": 4, "out_channels": 4}
    with pytest.raises(AdapterError, match=text):
        ScaleSpec(**(fields | change))


def test_packed_and_latent_cells_give_the_same_tokens():
    weights = Adapter.training_free(tiny_flux(), [2]).own(2)
    latents, sigma = torch.randn(1, 4, 6, 10), torch.tensor([0.4])
    strided = cell_views.from_latents(latents)
    packed = cell_views.from_packed(strided.flatten(4).flatten(1, 3), 3, 5)
    torch.testing.assert_close(
        weights.prepare(strided, sigma).tokens(), weights.prepare(packed, sigma).tokens()
    )


def test_tokens_may_come_from_another_device(monkeypatch):
    """The last blocks of a transformer that is spread over several lie there; `meta` is another one."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # meta has none
    transformer = tiny_flux()
    weights = Adapter.training_free(transformer, [2]).own(2).to("meta")
    step = weights.prepare(
        torch.randn(1, 1, 4, 4, 4, 2, 2, device="meta"), torch.tensor([0.5], device="meta")
    )
    assert step.tokens().is_meta
    assert step.velocity(torch.randn(1, 4, 32)).is_meta


def test_the_output_is_on_the_device_of_the_last_block():
    tokens, velocity = torch.empty(1, 4, 32, device="meta"), torch.zeros(1, 1, 4, 4, 4, 2, 2)
    step = SimpleNamespace(velocity=lambda given: velocity)
    for projection in (
        CoarseProjection(step, False, None),
        WholeProjection(step, 4, 1),
        PackedProjection(step, nn.Linear(32, 16, device="meta"), Grid(1, 4, 4), None),
        PackedProjection(step, nn.Linear(32, 16, device="meta"), Grid(1, 4, 4, references=2), None),
    ):
        assert projection(tokens).is_meta
