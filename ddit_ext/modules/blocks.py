"""What a model's blocks add to their input: seen in one call, used again in another in which they are left out.

Other modules stand for one call around the first block and the norm after the last one, or empty lists in the place of
the blocks. The forward of diffusers runs as it is.

Several ranks may share the tokens. Each keeps what was added to its own; where it is the first block that parts the tokens,
`own` does the same to what is seen in front of it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .other_tools import other_forward
from .stand_in import StandIn

Own = Callable[[Tensor], Tensor] | None
"""A rank's part of the tokens [B, N, D] that go into the first block; None where they are not parted in there."""


def entering(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The tokens among the arguments of a block: the first one, or `hidden_states`."""
    return args[0] if args else kwargs["hidden_states"]


class FirstBlock(StandIn):
    """Stands in the first block: calls it as it is, and keeps what went in, of a rank its own part [B, N, D]."""

    def __init__(self, base: nn.Module, own: Own) -> None:
        super().__init__(base)
        self.own = own
        self.entered: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        entered = entering(args, kwargs).detach()
        self.entered = entered if self.own is None else self.own(entered)
        return self.base(*args, **kwargs)


class AfterBlocks(StandIn):
    """Stands in the norm after the last block: keeps the blocks' residual, in the dtype of their input.

    NotImplementedError where the forward has called blocks of its own in the place of the model's, or tokens were left out.
    """

    def __init__(self, base: nn.Module, first: FirstBlock, transformer: nn.Module) -> None:
        super().__init__(base)
        self.first = first
        self.added: Tensor | None = None
        self._why_not = partial(_own_blocks, weakref.ref(transformer))

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        entered, self.first.entered = self.first.entered, None
        if entered is None:
            raise NotImplementedError(self._why_not())
        if entered.shape != hidden_states.shape:
            raise NotImplementedError(
                f"steps can't be skipped: {entered.shape[1]} tokens went into the blocks and {hidden_states.shape[1]} came "
                "out, as where references are cached in a run's first step (Flux2KleinKVPipeline); use a strategy that "
                "skips no step"
            )
        self.added = hidden_states.detach().to(entered.dtype) - entered.to(hidden_states.device)
        return self.base(hidden_states, *args, **kwargs)


class InsteadOfBlocks(StandIn):
    """Stands in the norm where the blocks were left out: adds the residual of another call.

    lists: names of the lists of blocks, and the empty ones that stand there. NotImplementedError where the forward has put
    others in their place.
    """

    def __init__(
        self,
        base: nn.Module,
        added: Tensor,
        own: Own,
        transformer: nn.Module,
        lists: dict[str, nn.ModuleList],
    ) -> None:
        super().__init__(base)
        self.added = added
        self.own = own
        self._lists = lists
        self._places = transformer._modules
        self._why_not = partial(_own_blocks, weakref.ref(transformer))

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        # A compiled forward was traced as it is: looking would only add guards to its graph.
        if not torch.compiler.is_compiling() and any(
            self._places[name] is not empty for name, empty in self._lists.items()
        ):
            raise NotImplementedError(self._why_not())
        if self.own is not None:
            hidden_states = self.own(hidden_states)
        return self.base(hidden_states + self.added.to(hidden_states), *args, **kwargs)


def _own_blocks(transformer: weakref.ref[nn.Module]) -> str:
    """Says whose forward it is, so that the user knows which tool to leave out."""
    model = transformer()
    maker = None if model is None else other_forward(model)
    return (
        f"steps can't be skipped: another tool's forward{f' ({maker})' if maker else ''} calls blocks of its own in the "
        "place of the transformer's; take that off, or use a strategy that skips no step"
    )


def seen(
    transformer: nn.Module, blocks: Sequence[str], norm: str, own: Own = None, unused: Collection[int] = ()
) -> tuple[AfterBlocks, dict[str, nn.Module]]:
    """`added` of the first is, after a call with the second in place, what the blocks added in it.

    blocks: names of the transformer's lists of blocks, in the order of their calls; norm: the name of what it calls
    once, on the output of its last block; unused: blocks of the first list that the call does not run.
    """
    count = len(transformer.get_submodule(blocks[0]))
    name = f"{blocks[0]}.{next((index for index in range(count) if index not in unused), 0)}"
    first = FirstBlock(transformer.get_submodule(name), own)
    after = AfterBlocks(transformer.get_submodule(norm), first, transformer)
    return after, {name: first, norm: after}


def left_out(
    transformer: nn.Module, blocks: Sequence[str], norm: str, added: Tensor, own: Own = None
) -> dict[str, nn.Module]:
    """With these in place a call of `transformer` runs no block; `added`, as `seen` has it, stands for them."""
    lists = {name: nn.ModuleList() for name in blocks if name in transformer._modules}
    instead = InsteadOfBlocks(transformer.get_submodule(norm), added, own, transformer, lists)
    return lists | {norm: instead}
