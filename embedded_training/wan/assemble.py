"""Puts the trained parts into diffusers' folder format: embedded/ddit_ext_embedded/wan.

python -m embedded_training.wan.assemble
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from transformers import UMT5EncoderModel

from ddit_ext.embedded.clip_autoencoder import ClipAutoencoder
from ddit_ext.embedded.pipeline import EmbeddedWanPipeline

from ..assemble import forget_where, name_tokenizers
from . import architecture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/embedded/wan"))
    parser.add_argument("--out", type=Path, default=Path("embedded/ddit_ext_embedded/wan"))
    arguments = parser.parse_args()
    base = arguments.run / "base"
    transformer = WanTransformer3DModel.from_pretrained(base / "transformer")
    pipeline = EmbeddedWanPipeline(
        tokenizer=architecture.tokenizer(),
        text_encoder=UMT5EncoderModel.from_pretrained(base / "text_encoder"),
        vae=ClipAutoencoder.from_pretrained(arguments.run / "vae"),
        scheduler=architecture.sampler(),
        transformer=transformer.to(torch.bfloat16),  # half the size on disk; loaded as float32
    )
    pipeline.save_pretrained(arguments.out)
    name_tokenizers(arguments.out)
    for part in ("transformer", "vae"):
        forget_where(arguments.out / part / "config.json")
    shutil.copy(arguments.run / "classifier.safetensors", arguments.out / "classifier.safetensors")


if __name__ == "__main__":
    main()
