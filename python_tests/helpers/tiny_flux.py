"""A random FLUX transformer of a few thousand parameters and calls of it, built without any hub."""

import torch
from diffusers import FluxTransformer2DModel

TEXT_TOKENS, TEXT_WIDTH = 3, 8


def tiny_flux(seed=0, channels=4, condition_channels=0, **config):
    """C_out = channels latent channels, packed 2×2; width 32, one block of each kind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = FluxTransformer2DModel(
            in_channels=4 * (channels + condition_channels),
            out_channels=4 * channels,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=TEXT_WIDTH,
            pooled_projection_dim=TEXT_WIDTH,
            guidance_embeds=False,
            axes_dims_rope=(4, 6, 6),
            **config,
        )
    return transformer.eval()


def conditions(batch, seed=0):
    """The text arguments of a call."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "pooled_projections": torch.randn(batch, TEXT_WIDTH, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT_TOKENS, TEXT_WIDTH, generator=generator),
    }


def smooth_latents(batch, side=8, channels=4, seed=0):
    """Clean latents [batch, channels, side, side] with little detail."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, channels, side // 2, side // 2, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")


def training_batch(step, batch=4):
    """One batch of `distill`, a function of the step."""
    return smooth_latents(batch, seed=step), conditions(batch, seed=step)


def noisy_call(rows, columns, sigma, channels=4, condition_channels=0, seed=0):
    """Arguments of a call with random packed latents on a rows×columns grid; sigma: a list, one a sample."""
    generator = torch.Generator().manual_seed(seed)
    batch = len(sigma)
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1] = torch.arange(rows)[:, None]
    ids[..., 2] = torch.arange(columns)
    features = 4 * (channels + condition_channels)
    return {
        "hidden_states": torch.randn(batch, rows * columns, features, generator=generator),
        "timestep": torch.tensor(sigma),
        "img_ids": ids.view(-1, 3),
        "txt_ids": torch.zeros(TEXT_TOKENS, 3),
        "return_dict": False,
        **conditions(batch, seed),
    }
