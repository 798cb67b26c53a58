"""The two forward hooks that a patch puts on a transformer, and how it is found there again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from .denoisers import Part
    from .hook import PatchHook

outside_of_graphs = torch.compiler.disable(
    reason="ddit_ext chooses the patch size outside of compiled graphs"
)


class BeforeCall:
    """Forward pre-hook; a copied or pickled transformer gets one that does nothing."""

    def __init__(self, hook: PatchHook, part: Part) -> None:
        self.hook = hook
        self.part = part

    @outside_of_graphs
    def __call__(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        return self.hook.before(self.part, module, args, kwargs)

    def __reduce__(self) -> tuple:
        return _no_hook, ()


class AfterCall:
    """Forward hook, called after errors too; a copied or pickled transformer gets one that does nothing."""

    def __init__(self, hook: PatchHook) -> None:
        self.hook = hook

    @outside_of_graphs
    def __call__(self, module: nn.Module, args: tuple, output: Any) -> Any:
        return self.hook.after(output)

    def __reduce__(self) -> tuple:
        return _no_hook, ()


def _nothing(*args: Any) -> None:
    """What remains of a hook in a copy of a patched transformer."""


def _no_hook() -> Any:
    return _nothing


def find_hook(module: nn.Module) -> PatchHook | None:
    """The patch on a transformer, or on the one inside a compiled one."""
    for candidate in (module, getattr(module, "_orig_mod", None)):
        for hook in getattr(candidate, "_forward_pre_hooks", {}).values():
            if isinstance(hook, BeforeCall):
                return hook.hook
    return None
