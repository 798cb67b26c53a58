"""What stands around a model's feed-forward layers while a coarse call has low-rank additions on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from weakref import WeakKeyDictionary

import torch
from torch import nn

from .lora import LowRank, LowRankLinear
from .merged_lora import MergedLinear, why_not_merged


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

    def begin_run(self, transformer: nn.Module, remark: Callable[[str], None]) -> None:
        """Free merged copies whose base has changed, also where only its numbers did.

        Waits for the device: once a run, not once a call. remark: is told what can't be merged in this run.
        """
        self._remark = remark
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


def _why_not(transformer: nn.Module, module: nn.Module, low_rank: LowRank) -> str | None:
    """Why an addition can't be merged now; None where it can."""
    if getattr(transformer, "_hf_hook", None) is not None:
        return "the transformer is offloaded"
    if torch.is_grad_enabled() and low_rank.a.requires_grad:
        return "its low-rank factors are being trained"
    return why_not_merged(module, low_rank)
