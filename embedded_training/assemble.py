"""Puts the trained parts into diffusers' folder format: ddit_ext/embedded/flux.

python -m embedded_training.assemble
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel, T5EncoderModel

from . import architecture
from .train_flux import NO_GUIDANCE


@torch.no_grad()
def without_guidance_input(trained: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """The same function without a guidance input: its one value's embedding goes into a bias that it is added to."""
    embed = trained.time_text_embed
    level = embed.time_proj(torch.tensor([NO_GUIDANCE * 1000.0]))
    constant = embed.guidance_embedder(level)[0]
    config = {**trained.config, "guidance_embeds": False}
    plain = FluxTransformer2DModel.from_config(config)
    weights = {name: w for name, w in trained.state_dict().items() if ".guidance_embedder." not in name}
    name = "time_text_embed.text_embedder.linear_2.bias"
    weights[name] = weights[name] + constant
    plain.load_state_dict(weights)
    return plain.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/embedded"))
    parser.add_argument("--out", type=Path, default=Path("ddit_ext/embedded/flux"))
    arguments = parser.parse_args()
    base = arguments.run / "base"
    words = architecture.tokenizer()
    pipeline = FluxPipeline(
        scheduler=architecture.sampler(),
        vae=AutoencoderKL.from_pretrained(arguments.run / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(base / "text_encoder"),
        tokenizer=words,
        text_encoder_2=T5EncoderModel.from_pretrained(base / "text_encoder_2"),
        tokenizer_2=words,
        transformer=without_guidance_input(FluxTransformer2DModel.from_pretrained(base / "transformer")),
    )
    pipeline.transformer.to(torch.bfloat16)  # half the size on disk; loaded as float32
    pipeline.save_pretrained(arguments.out)
    shutil.copy(arguments.run / "classifier.safetensors", arguments.out / "classifier.safetensors")


if __name__ == "__main__":
    main()
