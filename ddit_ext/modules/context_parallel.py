"""Several ranks that share the tokens of one transformer: diffusers' context parallelism.

Its hooks split tokens on their way into the blocks and gather them behind proj_out; around these, pipeline and sampler run on
every rank with the whole latent. Some of the hooks are on modules that a coarse call replaces, so the modules that stand in
split and gather themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from .diffusers_hooks import hooks_of

T = TypeVar("T")

FORECASTS = "schedule=Forecast(...) works, since it calls fewer times what the ranks share"


class Ranks:
    """The ranks of a context parallel transformer, `count` of them. config: diffusers' ContextParallelConfig, set up."""

    def __init__(self, config: Any) -> None:
        from diffusers.hooks import context_parallel  # here: versions without it have no such transformers

        self._mesh = config._flattened_mesh
        self.count = self._mesh.size()
        # diffusers 0.36 has neither of the two.
        self.ragged = any(getattr(config, name, False) for name in ("ulysses_anything", "ring_anything"))
        if self.ragged:
            sharder = context_parallel.PartitionAnythingSharder
            self._split, self._gather = sharder.shard_anything, sharder.unshard_anything
        else:
            sharder = context_parallel.EquipartitionSharder
            self._split, self._gather = sharder.shard, sharder.unshard

    def part(self, whole: Tensor, dim: int) -> Tensor:
        """This rank's part of a tensor that all ranks have."""
        return self._split(whole, dim, self._mesh)

    def whole(self, part: Tensor, dim: int) -> Tensor:
        """The tensor of which every rank has a part."""
        return self._gather(part, dim, self._mesh)

    def check(self, tokens: int, scale: int) -> None:
        """ValueError where so many tokens of a coarse size can't be shared. The same on all ranks."""
        if tokens % self.count == 0 or (self.ragged and tokens >= self.count):
            return
        remedy = "" if self.ragged else ", ContextParallelConfig(ulysses_anything=True) or ring_anything=True"
        raise ValueError(
            f"context parallelism: {tokens} tokens at patch size {scale}p can't be shared by {self.count} ranks; "
            f"use scales without {scale}, another resolution{remedy}"
        )

    def agreed(self, decide: Callable[[], T]) -> T:
        """What `decide` returns on the first of these ranks, which alone calls it; on all of them.

        Where it raises there, all do: the others a RuntimeError with its words. The result has to be picklable.
        """
        group = self._mesh.get_group()
        first = distributed.get_global_rank(group, 0)
        shared: list[Any] = [None, None]
        raised: Exception | None = None
        if distributed.get_rank() == first:
            try:
                shared[0] = decide()
            except Exception as error:
                raised, shared[1] = error, f"{type(error).__name__}: {error}"
        distributed.broadcast_object_list(shared, src=first, group=group)
        if raised is not None:
            raise raised
        if shared[1] is not None:
            raise RuntimeError(f"rank {first}, which chooses the patch sizes for all, raised {shared[1]}")
        return shared[0]


def ranks_of(transformer: nn.Module, hooked: frozenset[str] | None) -> Ranks | None:
    """The ranks that share a transformer's tokens, None where it is not parallel.

    hooked: names of the modules that are known to split or gather, None where none are. NotImplementedError for tensor
    parallelism and for a cp_plan with others.
    """
    config = getattr(transformer, "_parallel_config", None)
    if config is None:
        return None
    shared = getattr(config, "context_parallel_config", None)
    if shared is None:
        raise NotImplementedError(
            "tensor parallel transformers are not supported, only context parallel ones (ContextParallelConfig); "
            f"{FORECASTS}"
        )
    found = {
        name
        for name, module in transformer.named_modules()
        for hook in hooks_of(module).values()
        if type(hook).__name__.startswith("ContextParallel")
    }
    if found != hooked:
        raise NotImplementedError(
            f"context parallelism of {type(transformer).__name__} with a cp_plan for {sorted(found)}: larger patches and "
            f"skipped steps know {sorted(hooked or ()) or 'none'} alone; {FORECASTS}"
        )
    return Ranks(shared)


def check_inference(weights: nn.Module) -> None:
    """NotImplementedError where gradients would be wrong: each rank has those of its own tokens alone."""
    if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in weights.parameters()):
        raise NotImplementedError("context parallelism: coarse patches are not trained with it")
