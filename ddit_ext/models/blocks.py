"""What a model's blocks add to their input: seen in one call, used again in another in which they are left out.

Other modules stand for one call around the first block and the norm after the last one, or empty lists in the place of
the blocks. The forward of diffusers runs as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from .swap import swapped

NORM = "norm_out"
"""What every model here calls once, on the output of its last block."""


class FirstBlock(nn.Module):
    """Stands in the first block: calls it as it is, and keeps what went in [B, N, D]."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.entered: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden_states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        self.entered = hidden_states.detach()
        return self.base(*args, **kwargs)


class AfterBlocks(nn.Module):
    """Stands in the norm after the last block: keeps what the blocks added, in the dtype of their input."""

    def __init__(self, base: nn.Module, first: FirstBlock) -> None:
        super().__init__()
        self.base = base
        self.first = first
        self.added: Tensor | None = None

    def forward(self, hidden_states: Tensor, *args: Any) -> Tensor:
        entered, self.first.entered = self.first.entered, None
        self.added = hidden_states.detach().to(entered.dtype) - entered.to(hidden_states.device)
        return self.base(hidden_states, *args)


class InsteadOfBlocks(nn.Module):
    """Stands in the norm where the blocks were left out: adds what they added in another call."""

    def __init__(self, base: nn.Module, added: Tensor) -> None:
        super().__init__()
        self.base = base
        self.added = added

    def forward(self, hidden_states: Tensor, *args: Any) -> Tensor:
        return self.base(hidden_states + self.added.to(hidden_states), *args)


def seen(transformer: nn.Module, blocks: Sequence[str]) -> tuple[AfterBlocks, AbstractContextManager[None]]:
    """`added` of the first is, after a call inside the second, what the blocks added in it.

    blocks: names of the transformer's lists of blocks, in the order of their calls.
    """
    first = FirstBlock(transformer.get_submodule(f"{blocks[0]}.0"))
    after = AfterBlocks(transformer.get_submodule(NORM), first)
    return after, swapped(transformer, {f"{blocks[0]}.0": first, NORM: after})


def left_out(transformer: nn.Module, blocks: Sequence[str], added: Tensor) -> AbstractContextManager[None]:
    """Inside, a call of `transformer` runs no block; `added` [B, N, D] is added to what would have gone into them."""
    lists = {name: nn.ModuleList() for name in blocks if name in transformer._modules}
    return swapped(transformer, lists | {NORM: InsteadOfBlocks(transformer.get_submodule(NORM), added)})
