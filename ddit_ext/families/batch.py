"""Some samples of a transformer call's batch, and the outputs of several such calls put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

TENSORS = (
    "hidden_states",
    "encoder_hidden_states",
    "encoder_hidden_states_image",  # Wan
    "pooled_projections",
    "timestep",
    "guidance",
)
LISTS = ("controlnet_block_samples", "controlnet_single_block_samples")
ATTENTION = ("ip_adapter_image_embeds", "ip_hidden_states")
SHARED = ("img_ids", "txt_ids", "controlnet_blocks_repeat", "return_dict")


def take(arguments: dict[str, Any], samples: Sequence[int]) -> dict[str, Any]:
    """A call's arguments (by name) for some samples of its batch, in the order of `samples`.

    NotImplementedError names an argument that may belong to the samples in a way that is not known here.
    """
    batch = arguments["hidden_states"].shape[0]
    index = torch.tensor(list(samples), device=arguments["hidden_states"].device)
    taken: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in TENSORS or name in LISTS:
            taken[name] = _rows(name, value, index, batch)
        elif name == "joint_attention_kwargs" and value is not None:
            taken[name] = {key: _attention(key, item, index, batch) for key, item in value.items()}
        elif name in SHARED or not _has_tensors(value):
            taken[name] = value
        else:
            raise NotImplementedError(f"batch='split': {name} is not known to be splittable by sample")
    return taken


def join(parts: Sequence[tuple[Sequence[int], Any]]) -> Any:
    """One output out of (samples, output of these samples): a tensor, a tuple or a diffusers output object."""
    first = parts[0][1]
    if isinstance(first, Tensor):
        order = torch.tensor([i for samples, _ in parts for i in samples], device=first.device)
        return torch.cat([output for _, output in parts])[torch.argsort(order)]
    if isinstance(first, tuple):
        return tuple(join([(samples, output[i]) for samples, output in parts]) for i in range(len(first)))
    if isinstance(first, dict):  # diffusers' BaseOutput
        return type(first)(**{k: join([(samples, output[k]) for samples, output in parts]) for k in first})
    raise NotImplementedError(
        f"batch='split': the transformer's output is a {type(first).__name__}, which can't be put together"
    )


def _attention(key: str, value: Any, index: Tensor, batch: int) -> Any:
    if key in ATTENTION:
        return _rows(f"joint_attention_kwargs[{key!r}]", value, index, batch)
    if _has_tensors(value) or key == "attention_mask":
        raise NotImplementedError(
            f"batch='split': joint_attention_kwargs[{key!r}] is not known to be splittable by sample"
        )
    return value


def _rows(name: str, value: Any, index: Tensor, batch: int) -> Any:
    """The rows of `index`; one row stands for all samples."""
    if isinstance(value, list | tuple):
        return type(value)(_rows(f"{name}[{i}]", item, index, batch) for i, item in enumerate(value))
    if not isinstance(value, Tensor):
        return value
    if value.ndim == 0 or (value.shape[0] == 1 and batch != 1):
        return value
    if value.shape[0] != batch:
        raise NotImplementedError(
            f"batch='split': {name} must have one entry a sample, {batch}, got shape {tuple(value.shape)}"
        )
    return value[index.to(value.device)]


def _has_tensors(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_has_tensors(item) for item in value)
    if isinstance(value, dict):
        return any(_has_tensors(item) for item in value.values())
    return isinstance(value, Tensor)
