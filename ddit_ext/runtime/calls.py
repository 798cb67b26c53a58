"""One call of a transformer made at its sizes: modules swapped, samples split by size, outputs put together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ..coarse.levels import RunLevel
from ..families.batch import join, take
from ..modules.blocks import AfterBlocks
from ..modules.other_tools import check_caches
from ..modules.swap import Changes
from .caches import MARK, WHOLE
from .denoisers import Part
from .residual_cache import ResidualCache
from .sampler_run import Run


class SizedCall:
    """A call that a patched transformer is about to make: one pass for each size among its samples.

    changes: notes what the pass under way has changed in the model; who calls undoes it, whatever happens.
    sizes: one, or one a sample of the sampler. residuals: of a strategy that skips steps. skipped: without the blocks.
    """

    def __init__(
        self,
        changes: Changes,
        part: Part,
        run: Run,
        arguments: dict[str, Any],
        sizes: list[int],
        residuals: ResidualCache | None = None,
        skipped: bool = False,
    ) -> None:
        self._changes = changes
        self._part = part
        self.run = run
        self._residuals = residuals
        self._skipped = skipped
        self._number = run.repeats
        self._groups = groups_of(sizes, part.family.latents(arguments).shape[0])
        self._labels = {scale: _label(scale, self._groups) for scale in self._groups}
        part.caches.begin_step(run, self._labels, skips=residuals is not None)
        self._arguments = {next(iter(self._groups)): arguments}
        if len(self._groups) > 1:
            self._arguments = {
                scale: take(part.family, arguments, samples) for scale, samples in self._groups.items()
            }
        self._outputs: list[tuple[list[int], Any]] = []
        self._seen: AfterBlocks | None = None

    @property
    def scales(self) -> list[int]:
        """The scales of the passes, in their order."""
        return list(self._groups)

    def enter(self, scale: int) -> dict[str, Any] | None:
        """The arguments of the pass at `scale`, with the model made ready; None: those of the call, as they are."""
        arguments = self._at_size(scale, self._arguments[scale])
        if self._residuals is not None:
            # After the size's own modules, some of which stand inside of the first block.
            unused = arguments.get("skip_layers") or ()  # Stable Diffusion 3's skip-layer guidance
            self._seen = self._residuals.enter(self._changes, self._part, self._number, self._skipped, unused)
        return None if scale == 1 and len(self._groups) == 1 else arguments

    def leave(self, scale: int, output: Any) -> None:
        """After the pass at `scale`: the model as it was."""
        self._changes.undo()
        if self._seen is not None and self._residuals is not None:
            self._residuals.keep(self._number, self._seen, copied=self._part.compiled)
            self._seen = None
        if self._part.compiled and len(self._groups) > 1:
            output = tree_map_only(Tensor, Tensor.clone, output)  # before the next pass writes over it
        self._outputs.append((self._groups[scale], output))

    def output(self) -> Any:
        """The output of the whole call."""
        return join(self._outputs) if len(self._outputs) > 1 else self._outputs[0][1]

    def _at_size(self, scale: int, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a pass at `scale`, for which the transformer is made ready, with caches of its own."""
        run, part, family = self.run, self._part, self._part.family
        part.caches.enter(self._changes, self._labels[scale], self._number)
        if scale == 1:
            return arguments
        check_caches(family.transformer)
        weights = part.adapter.weights(scale, family.latents(arguments))
        if weights.lora and torch.is_grad_enabled() and family.transformer.gradient_checkpointing:
            raise NotImplementedError(
                "gradient checkpointing recomputes blocks after a patched call has ended: call transformer "
                f"and backward inside {type(family).__name__}.coarse(), or use disable_gradient_checkpointing()"
            )
        shared = run.noise_level is not None and family.one_level(arguments)
        if shared and not torch.is_grad_enabled():
            sigma: Tensor | RunLevel = run.state.level(run)
        else:
            sigma = family.noise_level(arguments, run.noise_level)
        return family.enter_coarse(self._changes, arguments, weights, sigma)


def _label(scale: int, groups: dict[int, list[int]]) -> str:
    """The name of a size's caches. Empty for a whole call at size 1, whose caches are as they would be without a patch.

    Samples are named: in a split batch a size may have other samples at the next step.
    """
    if len(groups) == 1:
        return WHOLE if scale == 1 else f"{MARK}{scale}"
    return f"{MARK}{scale}:{','.join(map(str, groups[scale]))}"


def groups_of(sizes: list[int], rows: int) -> dict[int, list[int]]:
    """The rows of a call by their size. A call with a multiple of the samples has them one after the other."""
    if len(set(sizes)) == 1:
        return {sizes[0]: list(range(rows))}
    if rows % len(sizes):
        raise NotImplementedError(
            f"batch='split': the sampler has {len(sizes)} samples, but the transformer's call has {rows}"
        )
    groups: dict[int, list[int]] = {}
    for row in range(rows):
        groups.setdefault(sizes[row % len(sizes)], []).append(row)
    return groups
