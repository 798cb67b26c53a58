"""Puts the trained parts into diffusers' folder format: embedded/ddit_ext_embedded/flux.

python -m embedded_training.assemble
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextModel, T5EncoderModel

from . import architecture


def forget_where(config: Path) -> None:
    """Take the folder that a part was loaded from out of its config: a path of the machine that trained it."""
    settings = json.loads(config.read_text())
    settings.pop("_name_or_path", None)
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def name_tokenizers(folder: Path) -> None:
    """Name the tokenizers by the class that transformers 4 and 5 both have; 5 writes a name of its own."""
    for file in (folder / "model_index.json", *folder.glob("tokenizer*/tokenizer_config.json")):
        file.write_text(file.read_text().replace('"TokenizersBackend"', '"PreTrainedTokenizerFast"'))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/embedded"))
    parser.add_argument("--out", type=Path, default=Path("embedded/ddit_ext_embedded/flux"))
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
        transformer=FluxTransformer2DModel.from_pretrained(base / "transformer"),
    )
    pipeline.transformer.to(torch.bfloat16)  # half the size on disk; loaded as float32
    pipeline.save_pretrained(arguments.out)
    name_tokenizers(arguments.out)
    for part in ("transformer", "vae"):
        forget_where(arguments.out / part / "config.json")
    shutil.copy(arguments.run / "classifier.safetensors", arguments.out / "classifier.safetensors")


if __name__ == "__main__":
    main()
