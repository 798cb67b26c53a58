"""One coarse call of a Wan transformer: what it computes, where its tokens stand, what it refuses."""

import pytest
import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from flux_pipelines import make_transformer as make_flux
from wan_pipelines import IMAGE_WIDTH, TEXT_WIDTH, WIDTH, make_transformer

from ddit_ext.coarse import Adapter
from ddit_ext.coarse.base_weights import feed_forward_layers
from ddit_ext.coarse.noise_match import detail_gain, noise_match
from ddit_ext.families import Grid, WanFamily, family_for
from ddit_ext.families.wan import rotary_tables

KINDS = ("text", "i2v_21", "vace")


def make_call(kind, rows, columns, sigma, frames=3):
    """Arguments of a call of `make_transformer(kind)`; sigma: a list, one a sample."""
    generator = torch.Generator().manual_seed(0)
    batch = len(sigma)

    def noise(*shape):
        return torch.randn(batch, *shape, generator=generator)

    side = (frames, 2 * rows, 2 * columns)
    call = {
        "hidden_states": noise(36 if kind == "i2v_21" else 16, *side),
        "timestep": torch.tensor(sigma) * 1000,
        "encoder_hidden_states": noise(512 if kind == "i2v_21" else 4, TEXT_WIDTH),
        "return_dict": False,
    }
    if kind == "i2v_21":
        call["encoder_hidden_states_image"] = noise(4, IMAGE_WIDTH)
    if kind == "vace":
        call["control_hidden_states"] = noise(96, *side)
    return call


def coarse_velocity(transformer, weights, arguments):
    family = WanFamily(transformer)
    with family.coarse(arguments, weights, family.noise_level(arguments)) as coarse, torch.no_grad():
        return transformer(**coarse)[0]


def pool(latents, scale):
    frames = torch.nn.functional.avg_pool2d(latents.flatten(1, 2), scale)
    return frames.unflatten(1, latents.shape[1:3])


def up(low, scale):
    return low.repeat_interleave(scale, 3).repeat_interleave(scale, 4)


def by_definition(transformer, call, scale, sigma, detail):
    """The base at p on the small latent c·low at σ', its noise scaled back, plus g times the detail.

    sigma: shaped so that it multiplies the latent.
    """
    latent, pooled = call["hidden_states"][:, :16], pool(call["hidden_states"], scale)
    low = pooled[:, :16]
    match = noise_match(sigma, scale)
    seen = match.input_scale * low
    small = dict(call, hidden_states=torch.cat([seen, pooled[:, 16:]], dim=1))
    if "control_hidden_states" in call:
        small["control_hidden_states"] = pool(call["control_hidden_states"], scale)
    level = match.timestep
    if call["timestep"].ndim == 2:
        level = level.expand(-1, 1, -1, *(side // 2 for side in low.shape[3:]))
        small["timestep"] = level.flatten(1) * 1000
    else:
        small["timestep"] = level.flatten() * 1000
    with torch.no_grad():
        velocity = transformer(**small)[0]
    clean = seen - match.timestep * velocity
    noise = (seen + (1 - match.timestep) * velocity) / scale
    return up(noise - clean, scale) + detail_gain(sigma, detail) * (latent - up(low, scale))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_training_free_is_the_base_on_the_smaller_latent(kind, scale):
    transformer = make_transformer(kind)
    sigma = torch.tensor([0.9, 0.35])
    call = make_call(kind, 12, 24, sigma.tolist())
    adapter = Adapter.training_free(transformer, [scale], positions="grid", detail_variance={scale: 0.3})
    got = coarse_velocity(transformer, adapter.own(scale), call)
    wanted = by_definition(transformer, call, scale, sigma.view(2, 1, 1, 1, 1), 0.3)
    torch.testing.assert_close(got, wanted, atol=5e-5, rtol=5e-5)


@pytest.mark.parametrize("scale", [2, 4])
def test_a_timestep_a_token_is_a_noise_level_a_frame(scale):
    """As Wan 2.2's TI2V has it: the first frame is given, at 0, and the others are noisy."""
    transformer = make_transformer()
    call = make_call("text", 4, 8, [0.0, 0.0])
    sigma = torch.tensor([[0.0, 0.7, 0.7], [0.0, 0.7, 0.7]])
    call["timestep"] = sigma.repeat_interleave(4 * 8, dim=1) * 1000
    adapter = Adapter.training_free(transformer, [scale], positions="grid", detail_variance={scale: 0.3})
    got = coarse_velocity(transformer, adapter.own(scale), call)
    wanted = by_definition(transformer, call, scale, sigma.view(2, 1, 3, 1, 1), 0.3)
    torch.testing.assert_close(got, wanted, atol=5e-5, rtol=5e-5)


def test_a_timestep_a_token_that_is_the_same_everywhere_is_a_timestep_a_sample():
    transformer = make_transformer()
    call = make_call("text", 3, 5, [0.7, 0.2])
    weights = Adapter.training_free(transformer, [2], detail_variance={2: 0.3}).own(2)
    by_token = call | {"timestep": call["timestep"][:, None].expand(2, 45)}
    torch.testing.assert_close(
        coarse_velocity(transformer, weights, by_token), coarse_velocity(transformer, weights, call)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "columns", "frames"), [(5, 3, 2), (1, 1, 1), (45, 2, 1)])
def test_ragged_grids_keep_their_shape(kind, rows, columns, frames):
    transformer = make_transformer(kind)
    call = make_call(kind, rows, columns, [0.6], frames)
    for scale in (2, 4):
        seen = []
        hook = transformer.blocks[0].register_forward_pre_hook(
            lambda m, args, seen=seen: seen.append(args[0].shape)
        )
        out = coarse_velocity(transformer, Adapter.training_free(transformer, [scale]).own(scale), call)
        hook.remove()
        assert out.shape == (1, 16, frames, 2 * rows, 2 * columns) and out.isfinite().all()
        assert seen == [(1, frames * -(-rows // scale) * -(-columns // scale), WIDTH)]


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_rotary_positions_are_the_cells_centres(scale):
    model = make_transformer(attention_head_dim=32)
    grid = Grid(3, 5, 7)
    latents = torch.zeros(1, 16, 3, 10, 14)
    cos, sin = rotary_tables(model.rope, latents, grid, scale, "centre")
    frames, rows, columns = grid.coarse(scale)
    offset = (scale - 1) / 2
    axes = (
        torch.arange(frames).float(),
        torch.arange(rows) * scale + offset,
        torch.arange(columns) * scale + offset,
    )
    where = torch.cartesian_prod(*axes)
    parts = [
        get_1d_rotary_pos_embed(width, where[:, axis].numpy(), use_real=True, freqs_dtype=torch.float64)
        for axis, width in enumerate((model.rope.t_dim, model.rope.h_dim, model.rope.w_dim))
    ]
    for got, index in ((cos, 0), (sin, 1)):
        assert got.shape == (1, frames * rows * columns, 1, 32)
        wanted = torch.cat([part[index] for part in parts], dim=1)
        torch.testing.assert_close(got[0, :, 0], wanted.float(), atol=2e-6, rtol=0)


def test_positions_beyond_the_models_table_raise():
    model = make_transformer(rope_max_seq_len=6)
    call = make_call("text", 5, 1, [0.5], 1)
    weights = Adapter.training_free(model, [2, 4])
    coarse_velocity(model, weights.own(2), call)
    with pytest.raises(ValueError, match="8 cells along a side are more than the model's 6 positions"):
        coarse_velocity(model, weights.own(4), call)


def test_everything_is_put_back():
    model = make_transformer("vace")
    before = {name: id(module) for name, module in model.named_modules()}
    call = make_call("vace", 3, 3, [0.5])
    with torch.no_grad():
        plain = model(**call)[0]
    adapter = Adapter.create(model, [2], rank=2)
    coarse_velocity(model, adapter.own(2), call)
    family = WanFamily(model)
    with pytest.raises(ArithmeticError), family.coarse(call, adapter.own(2), torch.tensor([0.5])):
        assert type(model.rope).__name__ == "CoarsePositions"
        raise ArithmeticError
    assert {name: id(module) for name, module in model.named_modules()} == before
    with torch.no_grad():
        assert torch.equal(model(**call)[0], plain)


def test_low_rank_layers_are_the_feed_forward_ones():
    assert feed_forward_layers(make_transformer()) == {
        "blocks.0.ffn.net.0.proj": (WIDTH, 32),
        "blocks.0.ffn.net.2": (32, WIDTH),
    }
    assert "vace_blocks.0.ffn.net.2" in feed_forward_layers(make_transformer("vace"))


def test_gradient_checkpointing_inside_the_context():
    model = make_transformer()
    weights = Adapter.create(model, [2], rank=2).own(2)
    torch.nn.init.normal_(weights.lora["blocks.0.ffn.net.2"].b, generator=torch.Generator().manual_seed(0))
    family, call = WanFamily(model), make_call("text", 3, 3, [0.7])
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        weights.zero_grad()
        with family.coarse(call, weights, torch.tensor([0.7])) as rewritten:
            model(**rewritten)[0].square().mean().backward()
        gradients.append(
            {name: p.grad.clone() for name, p in weights.named_parameters() if p.grad is not None}
        )
    assert any("lora" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_what_does_not_fit_is_named():
    model = make_transformer()
    weights = Adapter.training_free(model, [2]).own(2)
    call = make_call("text", 3, 3, [0.5])

    def refuse(error, text, **changes):
        with pytest.raises(error, match=text):
            coarse_velocity(model, weights, call | changes)

    refuse(
        ValueError, "hidden_states: height and width must be multiples of 2.*7 x 6",
        hidden_states=torch.zeros(1, 16, 3, 7, 6),
    )  # fmt: skip
    refuse(
        ValueError, r"hidden_states must have shape \[B, C, F, H, W\]", hidden_states=torch.zeros(1, 16, 6, 6)
    )
    refuse(TypeError, "hidden_states must be a tensor, got NoneType", hidden_states=None)
    refuse(ValueError, r"timestep must have shape \[B\] or \[B, 27\].*\(1, 26\)", timestep=torch.ones(1, 26))
    uneven = torch.ones(1, 27)
    uneven[0, 4] = 0
    refuse(NotImplementedError, "timesteps that differ within a frame", timestep=uneven)
    control = torch.zeros(1, 96, 3, 6, 4)
    refuse(ValueError, r"a condition must have shape \[B, C, F, 6, 6\]", control_hidden_states=control)
    with pytest.raises(ValueError, match=r"patch_size must be \(1, 2, 2\), got \(1, 4, 4\)"):
        WanFamily(make_transformer(patch_size=(1, 4, 4)))
    with pytest.raises(
        TypeError, match=r"FLUX \(FluxTransformer2DModel\).*Wan \(WanTransformer3DModel, .*got Linear"
    ):
        family_for(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="WanTransformer3DModel or .*got FluxTransformer2DModel"):
        WanFamily(make_flux())


@pytest.mark.parametrize("scale", [2, 4])
def test_animate_runs_coarse(scale):
    """Its pose latents are averaged; the face's motion is a frame's."""
    model = make_transformer("animate")
    generator = torch.Generator().manual_seed(0)
    call = {
        "hidden_states": torch.randn(1, 36, 3, 6, 10, generator=generator),
        "timestep": torch.tensor([700.0]),
        "encoder_hidden_states": torch.randn(1, 512, TEXT_WIDTH, generator=generator),
        "encoder_hidden_states_image": torch.randn(1, 4, IMAGE_WIDTH, generator=generator),
        "pose_hidden_states": torch.randn(1, 16, 2, 6, 10, generator=generator),
        "face_pixel_values": torch.rand(1, 3, 5, 16, 16, generator=generator),
        "return_dict": False,
    }
    weights = Adapter.training_free(model, [scale]).own(scale)
    out = coarse_velocity(model, weights, call)
    assert out.shape == (1, 16, 3, 6, 10) and out.isfinite().all()
    for name in ("pose_hidden_states", "face_pixel_values"):
        other = coarse_velocity(model, weights, call | {name: torch.zeros_like(call[name])})
        assert not torch.allclose(other, out)
