"""What an adapter needs to know of the pretrained model: its two patch layers, its feed-forward layers, its identity.

Reads only, and copies what it reads: a transformer may be offloaded, compiled, cast or wrapped by peft at any time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..modules.compiled import plain_name, unwrap
from ..modules.offloaded import on_disk
from .errors import AdapterError
from .patch_layers import Order, layers_of, unwrapped_layer
from .quantised import FOUR_BITS, unpacked


@dataclass(frozen=True)
class BaseWeights:
    """Float32 CPU copies of the two patch layers, in the layout of ``ddit_ext.ops``."""

    embed_weight: Tensor  # [D, C_in, p, p]
    embed_bias: Tensor  # [D]
    deembed_weight: Tensor  # [C_out, p, p, D]
    deembed_bias: Tensor  # [C_out, p, p]


def read_tensor(transformer: nn.Module, layer: str, name: str) -> Tensor | None:
    """Parameter ``name`` of a ``layer`` of ``transformer``, also an offloaded one; None if there is none."""
    module = unwrapped_layer(transformer, layer)
    tensor = getattr(module, name, None)
    if tensor is None:
        return None
    stored = on_disk(unwrap(transformer), tensor)
    if stored is not None or tensor.device.type != "meta":
        return tensor if stored is None else stored
    hook = getattr(module, "_hf_hook", None)
    for candidate in getattr(hook, "hooks", (hook,)):  # a SequentialHook holds several
        weights = getattr(candidate, "weights_map", None)
        if weights is not None and name in weights:
            return weights[name]
    raise AdapterError(
        f"{layer}.{name}: expected values, got a placeholder on the meta device, and no offload hook holds them; load "
        "the model's weights first"
    )


def read_layer(transformer: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """Float32 CPU copies of weight [out, in] and bias [out] of the layer ``name``, without any LoRA on it.

    Raises:
        AdapterError: a weight in a form that is not known.
    """
    weight, bias = _own(_weight(transformer, name)), read_tensor(transformer, name, "bias")
    return weight, torch.zeros(weight.shape[0]) if bias is None else _own(bias)


def _weight(transformer: nn.Module, name: str) -> Tensor:
    """The weight [out, in] of the layer ``name`` where it lies.

    A convolution that does not overlap is the linear layer it is: [out, channels·frames·rows·columns]. Quantised
    weights of torchao and bitsandbytes are read as the numbers that they stand for.
    """
    module, weight = unwrapped_layer(transformer, name), read_tensor(transformer, name, "weight")
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        shape: tuple[int, ...] = (module.out_channels, module.in_channels, *module.kernel_size)
    else:
        shape = (module.out_features, module.in_features)
    found = "no weight" if weight is None else f"{weight.dtype} of shape {tuple(weight.shape)}"
    packed = f"{name}.weight: expected numbers of shape {shape}, got {found} in a {type(module).__name__}"
    advice = f"leave {name} out of the quantisation"
    if weight is not None:
        try:
            weight = unpacked(module, weight)
        except ValueError as error:
            raise AdapterError(f"{packed}: {error}, or {advice}") from error
    if weight is None or tuple(weight.shape) != shape or not weight.is_floating_point():
        raise AdapterError(f"{packed}, a form that is not known here; {advice}")
    return weight.detach().flatten(1)


def read_base(transformer: nn.Module) -> BaseWeights:
    """The patch embedding and the output projection of ``transformer``."""
    layers = layers_of(transformer)
    p = layers.patch
    embed_weight, embed_bias = read_layer(transformer, layers.embedding)
    deembed_weight, deembed_bias = read_layer(transformer, layers.output)
    for name, features in (
        (layers.embedding, embed_weight.shape[1]),
        (layers.output, deembed_weight.shape[0]),
    ):
        if features % (p * p):
            raise AdapterError(
                f"{name} must have a multiple of {p * p} features (patches of {p}×{p}), got {features}"
            )
    deembed_weight = _in_order(deembed_weight, p, layers.output_order)
    deembed_bias = _in_order(deembed_bias, p, layers.output_order)
    return BaseWeights(
        embed_weight=_in_order(embed_weight.t(), p, layers.embedding_order).permute(3, 0, 1, 2).contiguous(),
        embed_bias=embed_bias,
        deembed_weight=layers.sign * deembed_weight.contiguous(),
        deembed_bias=layers.sign * deembed_bias.contiguous(),
    )


def _in_order(features: Tensor, patch: int, order: Order) -> Tensor:
    """Features [C·p·p, ...] of a patch, in the model's order, as [C, p, p, ...]."""
    if order == "channel_fastest":
        return features.unflatten(0, (patch, patch, -1)).movedim(2, 0)
    return features.unflatten(0, (-1, patch, patch))


def feed_forward_layers(transformer: nn.Module) -> dict[str, tuple[int, int]]:
    """Dotted name -> (in, out) features of every layer that takes a LoRA, in the model's order."""
    pattern = re.compile(layers_of(transformer).feed_forward)
    modules = unwrap(transformer).named_modules()
    names = [name for name in (plain_name(each) for each, _ in modules) if pattern.fullmatch(name)]
    layers = {name: unwrapped_layer(transformer, name) for name in names}
    return {name: (layer.in_features, layer.out_features) for name, layer in layers.items()}


def fingerprint(transformer: nn.Module) -> dict[str, Any]:
    """What identifies the base model: its class, some of its config and a sample of its weights.

    The sample is compared with a tolerance (see :func:`compare_fingerprints`), so that the same model is
    recognised in another precision.
    """
    layers = layers_of(transformer)
    config = unwrap(transformer).config
    samples = weight_samples(transformer, (layers.embedding, layers.output, *layers.samples))
    identity = {key: _plain(getattr(config, key, None)) for key in layers.identity}
    return {"family": layers.family, "config": identity, "weights": samples}


def weight_samples(transformer: nn.Module, names: Iterable[str]) -> dict[str, list[float]]:
    """Some numbers of each layer's weight.

    Layers that cannot be read as numbers, and those of four bits, whose errors are as large as the tolerance of
    :func:`compare_fingerprints`, are left out.
    """
    samples = {}
    for name in names:
        try:
            if type(unwrapped_layer(transformer, name).weight).__name__ == FOUR_BITS:
                continue
            flat = _weight(transformer, name).flatten()
        except (AdapterError, AttributeError):
            continue
        few = _own(flat[:: max(1, flat.numel() // 16)][:16])
        samples[name] = [round(value, 6) for value in few.tolist()]
    return samples


def check_fingerprint(expected: dict[str, Any], transformer: nn.Module) -> None:
    """:func:`compare_fingerprints` with that of ``transformer``."""
    compare_fingerprints(expected, fingerprint(transformer))


def compare_fingerprints(expected: dict[str, Any], actual: dict[str, Any], tolerance: float = 0.1) -> None:
    """Raise :class:`AdapterError` unless both were taken from the same model.

    Weights may differ by ``tolerance`` of their size, in root mean square over a layer's sample: enough for
    fp8 storage or a merged LoRA, far less than between two models.
    """
    if expected["family"] != actual["family"]:
        raise AdapterError(
            f"adapter was made for the family {expected['family']!r}, this model is {actual['family']!r}"
        )
    for key, value in expected["config"].items():
        found = actual["config"].get(key)
        if _plain(value) != found:
            raise AdapterError(
                f"adapter was made for a model with {key} = {value}, this one has {key} = {found}"
            )
    for name, values in expected["weights"].items():
        if name not in actual["weights"]:
            continue
        ours, theirs = torch.tensor(actual["weights"][name]), torch.tensor(values, dtype=torch.float32)
        if ours.shape != theirs.shape:
            raise AdapterError(
                f"adapter was made for another {name}: expected {len(theirs)} samples, got {len(ours)}"
            )
        distance = (ours - theirs).norm() / theirs.norm().clamp(min=1e-12)
        if not distance <= tolerance:
            raise AdapterError(
                f"adapter was made for another base model of the same shape: the weights of {name} differ by "
                f"{distance:.0%} of their size, at most {tolerance:.0%} was expected"
            )


def _own(tensor: Tensor) -> Tensor:
    return tensor.detach().to(device="cpu", dtype=torch.float32, copy=True)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
