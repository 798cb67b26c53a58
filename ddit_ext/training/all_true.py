"""Calls of models that look at the numbers of their masks, on tensors that have none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class AllTrue(TorchDispatchMode):
    """Inside, masks on the meta device count as true wherever a tensor is indexed by them or a branch asks for them."""

    def __init__(self) -> None:
        super().__init__()
        self._inverted: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is aten._local_scalar_dense.default:
            return True
        if func is aten.index.Tensor and args[1][0].dtype is torch.bool:
            whole, (mask,) = args
            kept = 0 if any(mask is inverted for inverted in self._inverted) else None
            return whole[:kept].clone()
        out = func(*args, **(kwargs or {}))
        if func is aten.bitwise_not.default:
            self._inverted.append(out)
        return out
