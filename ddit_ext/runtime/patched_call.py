"""How a patch comes between a transformer and those who call it, and how it is found there again.

A module's `__call__` runs `_call_impl`, and `_compiled_call_impl` where `module.compile()` made one. On the one module that
was handed over, an attribute of the same name stands before the method of the class. So the whole call, hooks included,
lies inside of one `try`, and the model is whole again on every way out: forward hooks aren't run after a KeyboardInterrupt.
Whoever wraps `forward` (accelerate, diffusers' hooks, torch.compile) does so further inside, in any order.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..modules.swap import Changes

if TYPE_CHECKING:
    from .calls import SizedCall
    from .denoisers import Part
    from .hook import PatchHook

REASON = "ddit_ext chooses the patch size outside of compiled graphs"
outside_of_graphs = torch.compiler.disable(reason=REASON)

ENTRIES = ("_call_impl", "_compiled_call_impl")


class PatchedCall:
    """Stands in one of ENTRIES of a module. A copied or pickled module is as unpatched."""

    def __init__(self, hook: PatchHook, part: Part, entry: str) -> None:
        self.hook: PatchHook | None = hook
        self._part = part
        self._entry = entry
        self._module = part.module
        self._own: Callable | None = vars(self._module).get(entry)  # compiled, or of another tool
        vars(self._module)[entry] = self._call_impl

    # A method of this name, of which torch.compile knows that the frame is a call's and not what is to be compiled.
    @torch.compiler.disable(recursive=False, reason=REASON)
    def _call_impl(self, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(self, PatchedCall):  # deepcopy gives the method to the copied module
            return type(self)._call_impl(self, *args, **kwargs)
        plain = self._own or functools.partial(type(self._module)._call_impl, self._module)
        hook = self.hook
        if hook is None:
            return plain(*args, **kwargs)
        with hook.lock:
            if self.hook is not hook:  # taken off while this call waited
                return plain(*args, **kwargs)
            changes = Changes()
            try:
                try:
                    call = self._begin(hook, changes, args, kwargs)
                    if call is None:
                        return plain(*args, **kwargs)
                    for scale in call.scales:
                        arguments = self._enter(call, scale)
                        output = plain(*args, **kwargs) if arguments is None else plain(**arguments)
                        self._leave(call, scale, output)
                    return self._end(hook, call)
                finally:
                    self._undo(changes)
            finally:  # once more: the interrupt may have come while that was done
                self._undo(changes)

    @outside_of_graphs
    def _begin(
        self, hook: PatchHook, changes: Changes, args: tuple, kwargs: dict[str, Any]
    ) -> SizedCall | None:
        return hook.begin_call(changes, self._part, args, kwargs)

    @outside_of_graphs
    def _enter(self, call: SizedCall, scale: int) -> dict[str, Any] | None:
        return call.enter(scale)

    @outside_of_graphs
    def _leave(self, call: SizedCall, scale: int, output: Any) -> None:
        call.leave(scale, output)

    @staticmethod
    @outside_of_graphs
    def _end(hook: PatchHook, call: SizedCall) -> Any:
        output = call.output()
        hook.end_call(call, output)
        return output

    @staticmethod
    @outside_of_graphs
    def _undo(changes: Changes) -> None:
        changes.undo()

    def remove(self) -> None:
        """Put back what was there; where others have wrapped this since, only step aside."""
        self.hook = None
        attributes = vars(self._module)
        if getattr(attributes.get(self._entry), "__self__", None) is self:
            if self._own is not None:
                attributes[self._entry] = self._own
            else:
                del attributes[self._entry]

    def __reduce__(self) -> tuple:
        # The copied module is already known to copy and pickle here; its class's own method becomes the attribute. The
        # module itself, said with nothing of ddit_ext, which need not be there where it is read.
        return operator.getitem, ([self._module], 0)


def install(hook: PatchHook, part: Part) -> list[PatchedCall]:
    """Come between one transformer, or what torch.compile made of it, and those who call it."""
    attributes = vars(part.module)
    entries = [entry for entry in ENTRIES if entry == ENTRIES[0] or attributes.get(entry) is not None]
    return [PatchedCall(hook, part, entry) for entry in entries]


def find_hook(module: nn.Module) -> PatchHook | None:
    """The patch on a transformer, or on the one inside a compiled one."""
    for candidate in (module, getattr(module, "_orig_mod", None)):
        for entry in ENTRIES:
            found = getattr(getattr(candidate, "__dict__", {}).get(entry), "__self__", None)
            if isinstance(found, PatchedCall) and found.hook is not None:
                return found.hook
    return None
