"""A low-rank addition made part of a copy of the layer's weight: no arithmetic of its own, but memory.

The copy stands in the layer's place for the time of a coarse call, so a size costs as much memory as the layers it
changes and the base stays as it is. docs/design/feed-forward-lora.md counts both, and what one more rounding does.
"""

from __future__ import annotations

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
        with torch.no_grad():
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


def stamp(base: nn.Module, low_rank: LowRank) -> tuple | object:
    """Equal as long as a merge would give the same, and is possible as it was; read without a look at any element."""
    own = vars(base)
    weight, bias = own["_parameters"].get("weight"), own["_parameters"].get("bias")
    factors = vars(low_rank)["_parameters"]
    try:
        return (
            id(bias),
            low_rank.scale,
            factors["a"].requires_grad,
            _version(weight),
            _version(factors["a"]),
            _version(factors["b"]),
            not own["_forward_hooks"] and not own["_forward_pre_hooks"] and "forward" not in own,
        )
    except (AttributeError, RuntimeError):  # no weight, or one without a memory of its own
        return object()


def _state(base: nn.Linear, low_rank: LowRank) -> tuple:
    return (id(base.bias), low_rank.scale, *map(_version, (base.weight, low_rank.a, low_rank.b)))


def _version(tensor: Tensor) -> tuple:
    counted = 0 if tensor.is_inference() else tensor._version
    return id(tensor), tensor.data_ptr(), counted, tensor.dtype
