"""Some samples of a transformer call's batch, and the outputs of several such calls put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .model import OF_ATTENTION, ModelFamily

ATTENTION = ("ip_adapter_image_embeds", "ip_hidden_states")


def take(family: ModelFamily, arguments: dict[str, Any], samples: Sequence[int]) -> dict[str, Any]:
    """A call's arguments (by name) for some samples of its batch, in the order of `samples`.

    NotImplementedError names an argument that may belong to the samples in a way that the family doesn't know.
    """
    latents = family.latents(arguments)
    batch = latents.shape[0]
    index = torch.tensor(list(samples), device=latents.device)
    taken: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in family.ENTRIES and value is not None:
            taken[name] = _entries(name, value, samples, batch)
        elif name in family.ROWS:
            taken[name] = _rows(name, value, index, batch)
        elif name in OF_ATTENTION and value is not None:
            taken[name] = {key: _attention(name, key, item, index, batch) for key, item in value.items()}
        elif name in family.WHOLE or not _has_tensors(value):
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
    if isinstance(first, list):  # of one entry a sample
        entries = {i: entry for samples, output in parts for i, entry in zip(samples, output, strict=True)}
        return [entries[i] for i in sorted(entries)]
    if isinstance(first, tuple):
        return tuple(join([(samples, output[i]) for samples, output in parts]) for i in range(len(first)))
    if isinstance(first, dict):  # diffusers' BaseOutput
        return type(first)(**{k: join([(samples, output[k]) for samples, output in parts]) for k in first})
    raise NotImplementedError(
        f"batch='split': the transformer's output is a {type(first).__name__}, which can't be put together"
    )


def _entries(name: str, value: Any, samples: Sequence[int], batch: int) -> Any:
    """The entries of a list that has one a sample; an entry may stand for all samples."""
    if len(value) == 1 and batch != 1:
        return value
    if len(value) != batch:
        raise NotImplementedError(
            f"batch='split': {name} must have one entry a sample, {batch}, got {len(value)}"
        )
    return [value[i] for i in samples]


def _attention(name: str, key: str, value: Any, index: Tensor, batch: int) -> Any:
    if key in ATTENTION:
        return _rows(f"{name}[{key!r}]", value, index, batch)
    if _has_tensors(value) or key == "attention_mask":
        raise NotImplementedError(f"batch='split': {name}[{key!r}] is not known to be splittable by sample")
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
    return any(isinstance(leaf, Tensor) for leaf in tree_leaves(value))
