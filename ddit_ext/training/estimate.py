"""What a run will cost, before anything is downloaded: ``ddit train --dry-run``.

The model, stated in full:

* FLOPs of a forward are counted on the meta device (torch's FlopCounterMode): every matrix product and attention
  of the real model at the real token count, 2 FLOPs a multiplication. Texts are as long as they are padded.
* A step is, for each sample, one teacher forward at scale 1, and for each patch size a student forward at its token count,
  as much again for the gradients of its activations (the base's weights take none), and once more where blocks are
  run again (gradient checkpointing); with one patch size a step, their mean by how often each comes up. The adapter's
  own products are not counted.
* Of several picture sizes, all samples are counted as of the largest.
* Two transformers of one pipeline (Wan 2.2) are alike and trained one after the other: twice the hours, the memory of one.
* Hours are those FLOPs at a sustained rate a GPU, assumed by kind of GPU or stated (``--tflops``).
* The cache holds the latents and text embeddings in the model's dtype.
* Memory: the base's weights (shared out by FSDP); 20 bytes a parameter of the adapter (float32 weight, gradient, two
  moments, average); activations of one sample pass, about 20 numbers of the width a token and block, or with
  checkpointing one a block and 20 in the block at work. Text encoders and VAE are gone by then.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .. import embedded
from ..coarse.adapter import Adapter
from ..coarse.base_weights import feed_forward_layers
from ..coarse.scale_spec import ScaleSpec
from ..embedded.weights import folder
from ..families import Family, encoder_for, family_for, published, supported
from .all_true import AllTrue
from .base import EMBEDDED
from .data.sizes import check_sizes
from .outlook import text
from .pair import has_pair
from .settings import TrainSettings


@dataclass(frozen=True)
class Estimate:
    """The figures of a run: ``tokens`` and ``flops`` (of a forward) by scale; see the module's text."""

    base_parameters: int
    adapter_parameters: int
    tokens: dict[int, int]
    flops: dict[int, float]
    flops_per_sample: float
    samples: int
    memory: dict[str, float]  # bytes a GPU
    latent_bytes: int  # of one sample in the cache
    text_bytes: int  # of one prompt in the cache
    states: int  # samples that share a prompt: 1 for pictures
    transformers: int  # trained one after the other, each on all samples
    checkpointing: bool
    gpus: int
    tflops: float | None  # None: by kind of GPU

    def hours(self, tflops: float) -> float:
        """At a sustained rate a GPU, in TFLOP/s."""
        flops = self.flops_per_sample * self.samples * self.transformers
        return flops / (tflops * 1e12 * self.gpus) / 3600

    @property
    def cache_bytes(self) -> int:
        """What a picture with its caption takes on disk, or a run of the base with its prompt."""
        return self.states * self.latent_bytes + self.text_bytes

    def __str__(self) -> str:
        return text(self)


def estimate(settings: TrainSettings, gpus: int, tflops: float | None, sharded: bool) -> Estimate:
    """The figures of ``settings`` on so many GPUs; nothing is downloaded, and no weights but an embedded model's are read.

    Raises:
        ValueError: a model that is neither known, nor a local folder, nor an embedded one; a picture size that it
            can't take.
    """
    with torch.device("meta"):
        transformer = _meta_transformer(settings.model.path)
    family = family_for(transformer)
    if not isinstance(family, Family):
        raise ValueError(f"model.path: expected a model of the families {supported(Family)}")
    side = _token_side(family, settings.model.path)
    check_sizes(settings.data.sizes, side)
    adapter = _meta_adapter(family, settings)
    short, tokens, flops = _ShortModels(transformer), {}, {}
    for scale in (1, *sorted(settings.adapter.scales)):
        call, tokens[scale] = _meta_call(family, settings, side * scale)
        flops[scale] = float(short.flops(call))
    training, model = settings.training, settings.model
    passes = 3 if model.gradient_checkpointing else 2
    shares = training.scale_shares or dict.fromkeys(settings.adapter.scales, 1.0)
    student = sum(share * flops[scale] for scale, share in shares.items())
    if training.scale_shares is not None or not training.share_teacher:
        student /= sum(shares.values())
    base = sum(p.numel() for p in transformer.parameters())
    trained = sum(p.numel() for p in adapter.parameters())
    size = torch.finfo(getattr(torch, model.dtype)).bits // 8
    example, _ = _meta_call(family, settings, side)
    return Estimate(
        base_parameters=base,
        adapter_parameters=trained,
        tokens=tokens,
        flops=flops,
        flops_per_sample=flops[1] + passes * student,
        samples=training.steps * training.accumulate * settings.data.batch * gpus,
        memory={
            "base": base * size / (gpus if sharded else 1),
            "adapter": trained * (20.0 if training.ema else 16.0),
            "activations": _activations(family, settings, example, tokens, size),
        },
        latent_bytes=_bytes([family.latents(example)], size),
        text_bytes=_bytes(_texts(family, example), size),
        states=settings.data.generate.states if settings.data.source == "generated" else 1,
        transformers=2 if _is_pair(model.path) else 1,
        checkpointing=model.gradient_checkpointing,
        gpus=gpus,
        tflops=tflops,
    )


def _texts(family: Family, call: dict[str, Any]) -> list[torch.Tensor]:
    """The text arguments of an example."""
    given = [call[name] for name in family.ENCODER.PROMPT.values() if name in call]
    return [row for value in given for row in (value if isinstance(value, list) else [value])]


def _meta_transformer(path: str) -> nn.Module:
    known = published()
    if path in known:
        return getattr(diffusers, known[path].transformer)(**known[path].config).eval()
    file = _folder(path) / "transformer" / "config.json"
    if not file.is_file():
        raise ValueError(
            f"--dry-run: model.path must be a local folder, an embedded model or one of {sorted(known)}, got {path!r}"
        )
    config = json.loads(file.read_text(encoding="utf-8"))
    return getattr(diffusers, config["_class_name"]).from_config(config).eval()


def _is_pair(path: str) -> bool:
    file = Path(path) / "model_index.json"
    return (
        path not in published() and file.is_file() and has_pair(json.loads(file.read_text(encoding="utf-8")))
    )


class _ShortModels:
    """Counts the FLOPs of a deep model on models of one and two blocks of each kind: blocks of a kind are alike."""

    def __init__(self, transformer: nn.Module):
        config = dict(transformer.config)
        self._depths = {name: config[name] for name in family_for(transformer).DEPTHS if name in config}
        least = dict.fromkeys(self._depths, 1)
        with torch.device("meta"):
            self._least = type(transformer).from_config(config | least).eval()
            self._deeper = {
                name: type(transformer).from_config(config | least | {name: 2}).eval()
                for name in self._depths
            }

    def flops(self, call: dict[str, Any]) -> int:
        """FLOPs of a forward of the whole model."""
        least = _count(self._least, call)
        more = {name: _count(model, call) - least for name, model in self._deeper.items()}
        return least + sum((depth - 1) * more[name] for name, depth in self._depths.items())


@torch.no_grad()
def _count(transformer: nn.Module, call: dict[str, Any]) -> int:
    with FlopCounterMode(display=False) as counter, AllTrue():
        transformer(**call, return_dict=False)
    return counter.get_total_flops()


def _folder(path: str) -> Path:
    if path.startswith(EMBEDDED):
        return folder(path.removeprefix(EMBEDDED))
    return Path(path)


def _token_side(family: Family, path: str) -> int:
    """Pixels along a side of a token at the base's own patch size; a local folder's VAE says its own factor."""
    if path.startswith(EMBEDDED):
        return encoder_for(embedded.load(path.removeprefix(EMBEDDED)).pipeline, 1).token_side
    file = Path(path) / "vae" / "config.json"
    vae = json.loads(file.read_text(encoding="utf-8")) if path not in published() and file.is_file() else {}
    levels = vae.get("block_out_channels")
    factor = vae.get("scale_factor_spatial") or vae.get("spatial_compression_ratio")
    if factor is None and levels:
        factor = 2 ** (len(levels) - 1)
    return (factor * family.ENCODER.PACKED if factor else family.ENCODER.FACTOR) * family.patch_size


def _meta_adapter(family: Family, settings: TrainSettings) -> Adapter:
    chosen = settings.adapter
    specs = [
        ScaleSpec(
            scale=scale,
            patch_size=family.patch_size,
            width=family.width,
            in_channels=family.in_channels,
            out_channels=family.out_channels,
            rank=chosen.rank,
            refinement_hidden=chosen.refinement_hidden,
            refinement_tokens=chosen.refinement_tokens,
        )
        for scale in chosen.scales
    ]
    with torch.device("meta"):
        return Adapter(specs, feed_forward_layers(family.transformer) if chosen.rank else {}, {})


def _meta_call(family: Family, settings: TrainSettings, side: int) -> tuple[dict[str, Any], int]:
    """Arguments of a call of one sample whose tokens have a ``side`` of so many pixels, and their number.

    With the tokens of a scale it is the base's own call on a picture that much smaller.
    """
    data = settings.data
    rows, columns = (math.ceil(length / side) for length in max(data.sizes, key=math.prod))
    frames = (data.frames - 1) // family.ENCODER.FRAMES + 1
    like = torch.zeros((), device="meta")
    call = family.example_call(frames, rows, columns, data.max_sequence_length, like)
    return call, frames * rows * columns


def _bytes(tensors: list[Any], size: int) -> int:
    """Bytes of one sample's tensors, each number in `size` bytes."""
    return sum(tensor.numel() for tensor in tensors) * size


def _activations(
    family: Family, settings: TrainSettings, call: dict[str, Any], tokens: dict[int, int], size: int
) -> float:
    """Bytes: the student's pass at its smallest patch size, or the teacher's block at work, whichever is more."""
    blocks = sum(len(child) for child in family.transformer.children() if isinstance(child, nn.ModuleList))
    text, _ = family.block_cost(call)
    number = settings.data.batch * family.width * size
    student = tokens[min(settings.adapter.scales)] + text
    teacher = 20.0 * (tokens[1] + text) * number
    kept = (blocks + 20) if settings.model.gradient_checkpointing else 20 * blocks
    return max(teacher, float(kept * student * number))
