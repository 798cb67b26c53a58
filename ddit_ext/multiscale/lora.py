"""A low-rank addition around a module that maps features linearly.

The base module stays whatever it is (a plain ``nn.Linear``, a peft layer, a module with offload hooks or with
fp8 storage) and is called as a whole; the addition is computed beside it from this project's own tensors.
Every patch size has its own low-rank weights: a coarse pass at 4p and one at 2p share nothing but the frozen
base. The paper leaves open whether one LoRA serves all sizes; one per size costs only storage, since a single
size is active in a pass.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        a, b = self.a, self.b
        if a.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            a, b = a.to(x.dtype), b.to(x.dtype)
        # The scale is applied to the r numbers between the factors, the smallest tensor of the three.
        down = F.linear(x, a)
        return F.linear(down if self.scale == 1.0 else down * self.scale, b)


class LowRankLinear(nn.Module):
    """``base(x) + low_rank(x)``, for the time of a coarse call in the place of ``base``.

    It holds no state of its own, so gradient checkpointing may run it again after the forward has ended; and
    it answers for the base's other attributes (``weight``, ``in_features``, …), which callers may look at.
    """

    def __init__(self, base: nn.Module, low_rank: LowRank):
        super().__init__()
        self.base = base
        self.low_rank = low_rank

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        return self.base(x, *args, **kwargs) + self.low_rank(x)

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)
