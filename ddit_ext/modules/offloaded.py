"""Weights that aren't there between calls: diffusers' group offloading, which leaves empty tensors in their place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from .diffusers_hooks import GROUP_OFFLOADING, hooks_of


def groups(transformer: nn.Module) -> Iterator[Any]:
    """The groups of modules that diffusers' group offloading moves together."""
    for module in transformer.modules():
        hook = hooks_of(module).get(GROUP_OFFLOADING)
        if hook is not None:
            yield hook.group


def on_disk(transformer: nn.Module, parameter: Tensor) -> Tensor | None:
    """The values of a parameter that was offloaded to disk; None for one that was not.

    In memory stands an empty tensor of the same shape then, on the device that it was offloaded to.
    """
    for group in groups(transformer):
        if getattr(group, "offload_to_disk_path", None) is None or not group._is_offloaded_to_disk:
            continue
        key = group.tensor_to_key.get(parameter)
        if key is not None:
            with safe_open(group.safetensors_file_path, "pt") as file:
                return file.get_tensor(key)
    return None


def is_group_offloaded(transformer: nn.Module) -> bool:
    """Whether weights are moved or fetched in groups, so that a layer's may not be there before its group is called."""
    return next(groups(transformer), None) is not None


def waits_on_disk(transformer: nn.Module, layer: nn.Module) -> bool:
    """Whether weights of a layer are fetched from disk when another module than its own is called."""
    own, parameters = set(layer.modules()), list(layer.parameters())
    return any(
        getattr(group, "offload_to_disk_path", None) is not None
        and group.offload_leader not in own
        and any(parameter in group.tensor_to_key for parameter in parameters)
        for group in groups(transformer)
    )
