"""The layers of a transformer class that weights of larger patches are made from; families register theirs here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from ..modules.compiled import unwrap
from .errors import AdapterError

Order = Literal["channel_major", "channel_fastest"]
"""The order of a patch's features: (c, dy, dx) or (dy, dx, c)."""

SHAPE = ("in_channels", "out_channels", "num_layers", "attention_head_dim", "num_attention_heads")
"""Config keys that tell one model from another in most classes."""


@dataclass(frozen=True)
class PatchLayers:
    """The facts about one transformer class."""

    family: str  # its name in adapter files
    embedding: str  # dotted name of the patch embedding, linear or a convolution that does not overlap
    output: str  # dotted name of the output projection, a linear layer
    patch: int  # p, the side of a base patch in latent pixels; of a convolution its own counts
    feed_forward: str  # regular expression of the modules that take a LoRA
    identity: tuple[str, ...]  # config keys that tell one model from another
    samples: tuple[str, ...]  # layers that a fingerprint samples beside embedding and output
    embedding_order: Order = "channel_major"
    output_order: Order = "channel_major"
    sign: int = 1  # the model's output over the velocity ε - x


_KNOWN: dict[str, PatchLayers] = {}


def register(model: str, layers: PatchLayers) -> None:
    """Say which layers transformers of the class named `model` have."""
    _KNOWN[model] = layers


def unwrapped_layer(transformer: nn.Module, name: str) -> nn.Module:
    """The module ``name``, or what peft wrapped there."""
    module = unwrap(transformer).get_submodule(name)
    return getattr(module, "base_layer", module)


def layers_of(transformer: nn.Module) -> PatchLayers:
    """The layers of ``transformer``'s class or of a base of it; AdapterError for one that has no larger patches."""
    model = unwrap(transformer)
    for cls in type(model).__mro__:
        if cls.__name__ in _KNOWN:
            layers = _KNOWN[cls.__name__]
            kernel = getattr(unwrapped_layer(model, layers.embedding), "kernel_size", None)
            return layers if kernel is None else replace(layers, patch=kernel[-1])
    raise AdapterError(
        f"transformer must be one of {sorted(_KNOWN)} for larger patches, got {type(model).__name__}"
    )
