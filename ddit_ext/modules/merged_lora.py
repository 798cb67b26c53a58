"""A low-rank addition made part of a copy of the layer's weight: no arithmetic of its own, but memory.

The copy stands in the layer's place for the time of a coarse call, so a size costs as much memory as the layers it
changes and the base stays as it is. docs/design/feed-forward-lora.md counts both, and what one more rounding does.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor, nn

from .lora import LowRank

MERGED_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)

SAMPLED = 16
"""Elements of a weight that are compared to notice a change which leaves no other trace."""


def why_not_merged(module: nn.Module, low_rank: LowRank) -> str | None:
    """Why ``low_rank`` can't be merged into a copy of ``module``; None where it can."""
    if type(module) is not nn.Linear:  # peft's wrappers, quantised layers
        return f"a {type(module).__module__.partition('.')[0]} {type(module).__name__}"
    weight = module.weight
    if type(weight) is not nn.Parameter or tuple(weight.shape) != (module.out_features, module.in_features):
        return f"its weight is a {type(weight).__name__} of shape {tuple(weight.shape)}"
    if weight.dtype not in MERGED_DTYPES:
        return f"its weight is stored as {str(weight.dtype).removeprefix('torch.')}"
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        return "it has hooks, as offloading has"
    if weight.device != low_rank.a.device:
        return f"its weight is on {weight.device}, the latents are on {low_rank.a.device}"
    return None


class MergedLinear(nn.Linear):
    """``base`` with ``weight + scale·B·A``, computed in float32 and rounded once to the weight's dtype."""

    def __init__(self, base: nn.Linear, low_rank: LowRank):
        super().__init__(base.in_features, base.out_features, bias=False, device="meta")
        exact = torch.promote_types(base.weight.dtype, torch.float32)
        with torch.inference_mode(False), torch.no_grad():  # may be called in any mode later
            a, b = (factor.to(base.weight.device, exact) for factor in (low_rank.a, low_rank.b))
            weight = torch.addmm(base.weight.to(exact), b, a, alpha=low_rank.scale).to(base.weight.dtype)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = base.bias
        self.eval()
        self._made_from = _state(base, low_rank)
        self._sample = sample(base.weight)

    def is_of(self, base: nn.Module, low_rank: LowRank) -> bool:
        """Whether it is what these two would give now, as far as is known without waiting for the device."""
        return isinstance(base, nn.Linear) and self._made_from == _state(base, low_rank)

    def is_comparable(self, base: nn.Module) -> bool:
        """Whether :meth:`same_sample` can be asked: a weight of the same shape and dtype on the same device."""
        mine, other = self.weight, getattr(base, "weight", None)
        if not isinstance(other, Tensor):
            return False
        return (mine.shape, mine.dtype, mine.device) == (other.shape, other.dtype, other.device)

    def same_sample(self, base: nn.Module) -> Tensor:
        """A bool on the weight's device: whether the weight of ``base`` still reads as it did."""
        return (sample(base.weight) == self._sample).all()


def sample(weight: Tensor) -> Tensor:
    """About SAMPLED elements spread over ``weight``, copied.

    ``weight.data += …``, as peft fuses a LoRA, changes neither the tensor's address nor its version.
    """
    flat = weight.detach().flatten()
    return flat[:: max(1, flat.numel() // SAMPLED) | 1].clone()  # an odd step: not one column alone


class Stamp:
    """What merges were made from: whether they would give the same now, and are possible as they were.

    It is asked in each call, so it is a few lists of what is compared, and no element of a tensor is looked at.
    """

    def __init__(self, layers: Iterable[tuple[nn.Module, LowRank]]) -> None:
        self._places: list[dict[str, Any]] = []
        self._names: list[str] = []
        self._held: list[Any] = []
        self._tensors: list[Tensor] = []
        self._trained: list[Tensor] = []
        self._hooks: list[dict] = []
        self._possible = True
        for base, low_rank in layers:
            self._add(base, low_rank)
        try:
            self._counted = [each for each in self._tensors if not each.is_inference()]
            self._read = self._now()
        except (AttributeError, RuntimeError, TypeError):  # no weight, or one without a memory of its own
            self._possible = False

    def _add(self, base: nn.Module, low_rank: LowRank) -> None:
        own, parameters, factors = vars(base), vars(base)["_parameters"], vars(low_rank)["_parameters"]
        for place, name in (
            (parameters, "weight"),
            (parameters, "bias"),
            (own, "forward"),
            (factors, "a"),
            (factors, "b"),
            (vars(low_rank), "scale"),
        ):
            self._places.append(place)
            self._names.append(name)
            self._held.append(place.get(name))
        self._tensors += [parameters.get("weight"), factors["a"], factors["b"]]
        self._trained.append(factors["a"])
        self._hooks += [own["_forward_hooks"], own["_forward_pre_hooks"]]

    def _now(self) -> list[list[Any]]:
        return [
            list(map(Tensor.data_ptr, self._tensors)),
            list(map(attrgetter("dtype"), self._tensors)),
            list(map(attrgetter("_version"), self._counted)),
            list(map(attrgetter("requires_grad"), self._trained)) if torch.is_grad_enabled() else [],
        ]

    def holds(self) -> bool:
        """Whether all is as it was."""
        return (
            self._possible
            and not any(self._hooks)
            and all(map(is_, map(dict.get, self._places, self._names), self._held))
            and self._read == self._now()
        )


def _state(base: nn.Linear, low_rank: LowRank) -> tuple:
    return (id(base.bias), low_rank.scale, *map(_version, (base.weight, low_rank.a, low_rank.b)))


def _version(tensor: Tensor) -> tuple:
    counted = 0 if tensor.is_inference() else tensor._version
    return id(tensor), tensor.data_ptr(), counted, tensor.dtype
