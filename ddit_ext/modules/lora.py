"""A low-rank addition around a module that maps features linearly.

The base module stays whatever it is (a plain ``nn.Linear``, a peft layer, a module with offload hooks or with
fp8 storage) and is called as a whole; the addition is computed beside it from this project's own tensors.
Every patch size has its own low-rank weights: a coarse pass at scale 4 and one at scale 2 share nothing but the frozen
base. The paper leaves open whether one LoRA serves all sizes; one per size costs only storage, since a single
size is active in a pass.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .diffusers_hooks import MOVING, hooks_of
from .stand_in import StandIn


class LowRank(nn.Module):
    """x ↦ scale·B·(A·x), with ``a`` [r, in] and ``b`` [out, r]; B is zero at the start."""

    def __init__(self, in_features: int, out_features: int, rank: int, scale: float = 1.0):
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        self.scale = float(scale)
        self.a = nn.Parameter(torch.zeros(rank, in_features))
        self.b = nn.Parameter(torch.zeros(out_features, rank))

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """A uniform in ±1/√in as in peft, B zero."""
        with torch.no_grad():
            bound = 1 / math.sqrt(self.a.shape[1])
            self.a.uniform_(-bound, bound, generator=generator)
            self.b.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], in the dtype of ``x`` (or autocast's)."""
        a, b = self._factors(x)
        return F.linear(self._scaled(F.linear(x, a)), b)

    def add_to(self, y: Tensor, x: Tensor, *, in_place: bool) -> Tensor:
        """``y + self(x)``: [..., out] and [..., in] -> [..., out]; the sum is one product that accumulates.

        in_place: whether the result may be written over ``y``, as it is where nothing has to be kept for a
        backward. Then nothing of the size of ``y`` is allocated; docs/design/feed-forward-lora.md counts the bytes.
        """
        a, b = self._factors(x)
        low = F.linear(x, a)
        if low.dtype != y.dtype or y.numel() == 0:  # a base with an output dtype of its own
            return y + F.linear(self._scaled(low), b)
        rows, low, b = y.reshape(-1, y.shape[-1]), low.reshape(-1, low.shape[-1]), b.to(y.dtype).t()
        if in_place and y.is_contiguous() and not torch.is_grad_enabled():
            rows.addmm_(low, b, alpha=self.scale)
            return y
        return torch.addmm(rows, low, b, alpha=self.scale).view(y.shape)

    def _factors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """a and b as a product with ``x`` takes them; under autocast they are cast by the product.

        A transformer may be spread over several devices: they follow ``x``.
        """
        dtype = self.a.dtype
        if dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            dtype = x.dtype
        return self.a.to(x.device, dtype), self.b.to(x.device, dtype)

    def _scaled(self, low: Tensor) -> Tensor:
        """The scale is applied to the r numbers between the factors, the smallest tensor of the three."""
        return low if self.scale == 1.0 else low * self.scale


class LowRankLinear(StandIn):
    """``base(x) + low_rank(x)``, for the time of a coarse call in the place of ``base``.

    It holds no state of its own, so gradient checkpointing may run it again after the forward has ended.
    """

    def __init__(self, base: nn.Module, low_rank: LowRank):
        super().__init__(base)
        self.low_rank = low_rank

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        y = self.base(x, *args, **kwargs)
        # Whoever hooks the base may keep what it returned, such as TaylorSeer, whose hook is in a registry of diffusers.
        hooked = self.base._forward_hooks or any(name not in MOVING for name in hooks_of(self.base))
        return self.low_rank.add_to(y, x, in_place=not hooked)
