"""What every module has in common that stands in the place of another for one call."""

from __future__ import annotations

from typing import Any

from torch import nn


class StandIn(nn.Module):
    """Answers for the attributes of the module `base` (`weight`, `attn`, …), which others may look at during a call."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)
