"""What stands around a model's feed-forward layers while a coarse call has low-rank additions on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from .compiled import unwrap
from .lora import LowRank, LowRankLinear
from .merged_lora import MergedLinear, Stamp, why_not_merged
from .offloaded import is_group_offloaded
from .swap import Changes


class Places:
    """Where stand-ins go in one transformer. stand_ins: by the dotted names of its layers."""

    def __init__(self, transformer: nn.Module, stand_ins: Mapping[str, nn.Module]) -> None:
        on_the_way: dict[tuple[int, str], tuple[dict[str, Any], str, Any]] = {}
        self._stand_ins: list[tuple[dict[str, Any], str, nn.Module]] = []
        self.bases: list[nn.Module] = []
        self.merged: tuple[tuple, Stamp] | None = None  # in which state copies were merged, and from what
        for name, stand_in in stand_ins.items():
            module = transformer
            for part in name.split("."):
                held = unwrap(module)._modules
                on_the_way[id(held), part] = (held, part, held[part])
                module = held[part]
            self._stand_ins.append((held, part, stand_in))
            self.bases.append(module)
        self._found = list(on_the_way.values())

    def hold(self) -> bool:
        """Whether all modules are still where they were."""
        return all([held.get(part) is module for held, part, module in self._found])

    def enter(self, changes: Changes) -> None:
        """Put the stand-ins there until `changes.undo()`."""
        for held, part, stand_in in self._stand_ins:
            changes.put(held, part, stand_in)


class LowRankLayers:
    """The stand-ins for one transformer's layers.

    They are kept from call to call, so that a compiled model meets the same objects again.

    Attributes:
        merge: whether additions are merged into copies of the weights, where they can be.
        unmerged: of the last call, the name of each layer that could not be -> why.
    """

    def __init__(self) -> None:
        self.merge = False
        self.unmerged: dict[str, str] = {}
        self._remark: Callable[[str], None] | None = None
        self._places: WeakKeyDictionary[nn.Module, Places] = WeakKeyDictionary()
        self._beside: WeakKeyDictionary[nn.Module, dict[str, LowRankLinear]] = WeakKeyDictionary()
        self._merged: WeakKeyDictionary[nn.Module, dict[str, MergedLinear]] = WeakKeyDictionary()

    def of(
        self, transformer: nn.Module, weights: nn.Module, lora: Mapping[str, LowRank]
    ) -> dict[str, nn.Module]:
        """Dotted name -> the module that stands there in a call with `weights`, to which `lora` belongs."""
        self.unmerged = {}
        layers = {
            name: self._stand_in(transformer, weights, name, low_rank) for name, low_rank in lora.items()
        }
        if self.unmerged and self._remark is not None:
            name, reason = next(iter(self.unmerged.items()))
            self._remark(
                f"lora='merged': {len(self.unmerged)} of {len(layers)} layers can't be merged and are computed "
                f"beside their bases; the first is {name}: {reason}"
            )
        return layers

    def enter(
        self,
        changes: Changes,
        transformer: nn.Module,
        weights: nn.Module,
        lora: Callable[[], Mapping[str, LowRank]],
    ) -> None:
        """Put the stand-ins of a call with `weights` in place, until `changes.undo()`. lora: gives what belongs to them.

        Where they go is looked up once. A call compares objects: the modules on the way to each layer, and the layer.
        """
        places = self._places.get(weights)
        if places is None or not places.hold() or (self.merge and not self._as_merged(transformer, places)):
            places = None
            self._places.pop(weights, None)  # first: there may be no room for two merged copies
            low_ranks = lora()
            places = Places(transformer, self.of(transformer, weights, low_ranks))
            if self.merge:
                stamp = Stamp(zip(places.bases, low_ranks.values(), strict=True))
                places.merged = (_state(transformer), stamp)
            self._places[weights] = places
        places.enter(changes)

    def _as_merged(self, transformer: nn.Module, places: Places) -> bool:
        """Whether copies that were merged would be the same now; False where some could not be, which a run is told."""
        return (
            not self.unmerged
            and places.merged is not None
            and places.merged[0] == _state(transformer)
            and places.merged[1].holds()
        )

    def begin_run(self, transformer: nn.Module, remark: Callable[[str], None]) -> None:
        """Free merged copies whose base has changed, also where only its numbers did.

        Waits for the device: once a run, not once a call. remark: is told what can't be merged in this run.
        """
        self._remark = remark
        self._places.clear()
        for kept in self._merged.values():
            compared = {}
            for name, merged in list(kept.items()):
                base = transformer.get_submodule(name)
                if merged.is_comparable(base):
                    compared[name] = merged.same_sample(base)
                else:
                    del kept[name]
            if compared:
                same = torch.stack(list(compared.values())).tolist()
                for name, unchanged in zip(compared, same, strict=True):
                    if not unchanged:
                        del kept[name]

    def clear(self) -> None:
        """Free everything that is kept."""
        self._remark = None
        self._places.clear()
        self._beside.clear()
        self._merged.clear()

    def _stand_in(
        self, transformer: nn.Module, weights: nn.Module, name: str, low_rank: LowRank
    ) -> nn.Module:
        module = transformer.get_submodule(name)
        if self.merge:
            reason = _why_not(transformer, module, low_rank)
            if reason is None:
                return self._merge(module, weights, name, low_rank)
            self._merged.get(weights, {}).pop(name, None)
            self.unmerged[name] = reason
        kept = self._beside.setdefault(weights, {})
        if name not in kept or kept[name].base is not module or kept[name].low_rank is not low_rank:
            kept[name] = LowRankLinear(module, low_rank)
        return kept[name]

    def _merge(self, base: nn.Linear, weights: nn.Module, name: str, low_rank: LowRank) -> nn.Module:
        kept = self._merged.setdefault(weights, {})
        if name not in kept or not kept[name].is_of(base, low_rank):
            kept.pop(name, None)  # first: there may be no room for two
            kept[name] = MergedLinear(base, low_rank)
        return kept[name]


def _state(transformer: nn.Module) -> tuple[bool, bool]:
    return torch.is_grad_enabled(), hasattr(transformer, "_hf_hook")


def _why_not(transformer: nn.Module, module: nn.Module, low_rank: LowRank) -> str | None:
    """Why an addition can't be merged now; None where it can."""
    if getattr(transformer, "_hf_hook", None) is not None or is_group_offloaded(transformer):
        return "the transformer is offloaded"
    if torch.is_grad_enabled() and low_rank.a.requires_grad:
        return "its low-rank factors are being trained"
    return why_not_merged(module, low_rank)
