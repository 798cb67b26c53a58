"""What an adapter needs to know of the pretrained model: its two patch layers, its feed-forward layers, its
identity.

Reads only, and copies what it reads: a transformer may be offloaded, compiled, cast or wrapped by peft at any
time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .quantised import FOUR_BITS, unpacked


class AdapterError(ValueError):
    """An adapter, or a model for one, is not what was expected; the text names both."""


@dataclass(frozen=True)
class PatchLayers:
    """The facts about one transformer class."""

    name: str
    embedding: (
        str  # dotted name of the patch embedding: C_in·p·p features, channel-major, linear or a convolution
    )
    output: str  # dotted name of the output projection, a linear layer
    output_order: Literal["channel_major", "channel_fastest"]  # of its rows: (c, dy, dx) or (dy, dx, c)
    patch: int  # p, the side of a base patch in latent pixels
    feed_forward: str  # regular expression of the modules that take a LoRA
    identity: tuple[str, ...]  # config keys that tell one model from another
    samples: tuple[str, ...]  # layers whose weights are sampled into the fingerprint


_WAN = PatchLayers(
    name="wan",
    embedding="patch_embedding",
    output="proj_out",
    output_order="channel_fastest",
    patch=2,
    feed_forward=r"blocks\.\d+\.ffn\.net\.(0\.proj|2)",
    identity=(
        "in_channels",
        "out_channels",
        "num_layers",
        "attention_head_dim",
        "num_attention_heads",
        "text_dim",
        "freq_dim",
        "ffn_dim",
        "image_dim",
        "added_kv_proj_dim",
    ),
    samples=(
        "patch_embedding",
        "proj_out",
        "condition_embedder.text_embedder.linear_1",
        "condition_embedder.time_embedder.linear_1",
    ),
)

LAYERS = {
    "FluxTransformer2DModel": PatchLayers(
        name="flux",
        embedding="x_embedder",
        output="proj_out",
        output_order="channel_major",
        patch=2,  # packed by the pipeline; the config's patch_size of 1 counts packed tokens
        feed_forward=(
            r"transformer_blocks\.\d+\.(ff|ff_context)\.net\.(0\.proj|2)"
            # A single-stream block has its feed-forward layers fused with the attention's output.
            r"|single_transformer_blocks\.\d+\.(proj_mlp|proj_out)"
        ),
        identity=(
            "in_channels",
            "out_channels",
            "num_layers",
            "num_single_layers",
            "attention_head_dim",
            "num_attention_heads",
            "joint_attention_dim",
            "pooled_projection_dim",
            "guidance_embeds",
            "axes_dims_rope",
        ),
        samples=("x_embedder", "proj_out", "context_embedder", "time_text_embed.timestep_embedder.linear_1"),
    ),
    "WanTransformer3DModel": _WAN,
    "WanVACETransformer3DModel": replace(
        _WAN,
        name="wan-vace",
        feed_forward=r"(vace_)?" + _WAN.feed_forward,
        identity=(*_WAN.identity, "vace_in_channels", "vace_layers"),
    ),
    "WanAnimateTransformer3DModel": replace(_WAN, name="wan-animate"),
}


@dataclass(frozen=True)
class BaseWeights:
    """Float32 CPU copies of the two patch layers, in the layout of ``ddit_ext.ops``."""

    embed_weight: Tensor  # [D, C_in, p, p]
    embed_bias: Tensor  # [D]
    deembed_weight: Tensor  # [C_out, p, p, D]
    deembed_bias: Tensor  # [C_out, p, p]


def unwrap(transformer: nn.Module) -> nn.Module:
    """The model itself, out of a ``torch.compile`` wrapper."""
    return getattr(transformer, "_orig_mod", transformer)


def layers_of(transformer: nn.Module) -> PatchLayers:
    """The facts about ``transformer``'s class; raises :class:`AdapterError` for a class that is not
    supported.
    """
    for cls in type(unwrap(transformer)).__mro__:
        if cls.__name__ in LAYERS:
            return LAYERS[cls.__name__]
    raise AdapterError(
        f"transformer must be one of {sorted(LAYERS)}, got {type(unwrap(transformer)).__name__}"
    )


def read_tensor(module: nn.Module, name: str) -> Tensor | None:
    """Parameter ``name`` of ``module``, also when accelerate has it offloaded; None if there is none."""
    tensor = getattr(module, name, None)
    if tensor is None or tensor.device.type != "meta":
        return tensor
    hook = getattr(module, "_hf_hook", None)
    for candidate in getattr(hook, "hooks", (hook,)):  # a SequentialHook holds several
        weights = getattr(candidate, "weights_map", None)
        if weights is not None and name in weights:
            return weights[name]
    raise AdapterError(
        f"{type(module).__name__}.{name} is on the meta device and no offload hook holds its values"
    )


def read_layer(transformer: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """Float32 CPU copies of weight [out, in] and bias [out] of the layer ``name``, without any LoRA on it.

    A convolution that does not overlap is the linear layer it is: [out, channels·frames·rows·columns]. Quantised
    weights of torchao and bitsandbytes are read as the numbers that they stand for.

    Raises:
        AdapterError: a weight in a form that is not known.
    """
    module = unwrapped_layer(transformer, name)
    weight, bias = read_tensor(module, "weight"), read_tensor(module, "bias")
    if isinstance(module, nn.Conv3d):
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
    weight = _own(weight).flatten(1)
    return weight, torch.zeros(shape[0]) if bias is None else _own(bias)


def unwrapped_layer(transformer: nn.Module, name: str) -> nn.Module:
    """The module ``name``, or what peft wrapped there."""
    module = unwrap(transformer).get_submodule(name)
    return getattr(module, "base_layer", module)


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
    if layers.output_order == "channel_fastest":
        deembed_weight = deembed_weight.unflatten(0, (p, p, -1)).permute(2, 0, 1, 3)
        deembed_bias = deembed_bias.unflatten(0, (p, p, -1)).permute(2, 0, 1)
    else:
        deembed_weight = deembed_weight.unflatten(0, (-1, p, p))
        deembed_bias = deembed_bias.unflatten(0, (-1, p, p))
    return BaseWeights(
        embed_weight=embed_weight.unflatten(1, (-1, p, p)),
        embed_bias=embed_bias,
        deembed_weight=deembed_weight.contiguous(),
        deembed_bias=deembed_bias.contiguous(),
    )


def feed_forward_layers(transformer: nn.Module) -> dict[str, tuple[int, int]]:
    """Dotted name -> (in, out) features of every layer that takes a LoRA, in the model's order."""
    pattern = re.compile(layers_of(transformer).feed_forward)
    layers = {}
    for name, module in unwrap(transformer).named_modules():
        if pattern.fullmatch(name):
            layer = getattr(module, "base_layer", module)
            layers[name] = (layer.in_features, layer.out_features)
    return layers


def fingerprint(transformer: nn.Module) -> dict[str, Any]:
    """What identifies the base model: its class, some of its config and a sample of its weights.

    The sample is compared with a tolerance (see :func:`check_fingerprint`), so that the same model is
    recognised in another precision. Layers that cannot be read as numbers, and those of four bits, whose errors
    are as large as the tolerance, are left out.
    """
    layers = layers_of(transformer)
    config = unwrap(transformer).config
    samples = {}
    for name in layers.samples:
        try:
            if type(unwrapped_layer(transformer, name).weight).__name__ == FOUR_BITS:
                continue
            weight, _ = read_layer(transformer, name)
        except (AdapterError, AttributeError):
            continue
        flat = weight.flatten()
        samples[name] = [round(value, 6) for value in flat[:: max(1, flat.numel() // 16)][:16].tolist()]
    identity = {key: _plain(getattr(config, key, None)) for key in layers.identity}
    return {"family": layers.name, "config": identity, "weights": samples}


def check_fingerprint(expected: dict[str, Any], transformer: nn.Module, tolerance: float = 0.1) -> None:
    """Raise :class:`AdapterError` unless ``transformer`` is the model that ``expected`` was taken from.

    Weights may differ by ``tolerance`` of their size, in root mean square over a layer's sample: enough for
    fp8 storage or a merged LoRA, far less than between two models.
    """
    actual = fingerprint(transformer)
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
        ours, theirs = torch.tensor(actual["weights"][name]), torch.tensor(values)
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
