"""One call of a transformer made at its sizes: modules swapped, samples split by size, outputs put together."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ..families.batch import join, take
from .caches import MARK, WHOLE
from .denoisers import Part
from .reuse import BlockReuse
from .sampler_watch import Run


class SizedCalls:
    """What a transformer's call under way has changed, until `leave` puts it back.

    pipe: whose transformers they are; reuse: of a policy that skips steps.
    """

    def __init__(self, pipe: weakref.ref[Any], reuse: BlockReuse | None) -> None:
        self.nested = False  # a call of some of the samples, made from inside of the user's call
        self._pipe = pipe
        self._reuse = reuse
        self._call: ExitStack | None = None
        self._outputs: list[tuple[list[int], Any]] | None = None  # of a split call: samples, output

    def enter(
        self,
        part: Part,
        module: nn.Module,
        run: Run,
        arguments: dict[str, Any],
        sizes: list[int],
        skipped: bool = False,
    ) -> tuple[tuple, dict[str, Any]] | None:
        """The rewritten arguments of a call at `sizes` (one, or one a sample of the sampler);

        None (arguments as they are) where all of it is at size 1. Where samples differ in size, all but those of one
        size have run when this returns. skipped: without the blocks.
        """
        groups = groups_of(sizes, part.family.latents(arguments).shape[0])
        labels = {scale: _label(scale, groups) for scale in groups}
        part.caches.begin_step(run, labels, skips=self._reuse is not None)
        if len(groups) > 1:
            return (), self._split(part, module, run, arguments, groups, labels)
        (scale,) = groups
        rewritten = self._open(part, run, arguments, scale, labels[scale], skipped)
        return None if scale == 1 else ((), rewritten)

    def finish(self, output: Any) -> Any:
        """The output of a split call put together; None where it is what the transformer returned."""
        outputs = self._outputs
        self.leave()
        if outputs is None or output is None:
            return None
        samples, _ = outputs.pop()
        return join([*outputs, (samples, output)])

    def leave(self) -> None:
        """End a call: the transformer's own modules and the caches' own states are back."""
        self._outputs = None
        call, self._call = self._call, None
        if call is not None:
            call.close()

    def _open(
        self, part: Part, run: Run, arguments: dict[str, Any], scale: int, label: str, skipped: bool = False
    ) -> dict[str, Any]:
        """The arguments of a call at a size, whose modules stay swapped until `leave`."""
        with ExitStack() as call:
            rewritten = call.enter_context(_at_size(part, run, arguments, scale, label))
            if self._reuse is not None:
                # After the size's own modules, some of which stand inside of the first block.
                call.enter_context(self._reuse.call(part, run.repeats, skipped))
            self._call = call.pop_all()
        return rewritten

    def _split(
        self,
        part: Part,
        module: nn.Module,
        run: Run,
        arguments: dict[str, Any],
        groups: dict[int, list[int]],
        labels: dict[int, str],
    ) -> dict[str, Any]:
        """Run all groups of samples but the last; the arguments of the last."""
        call_of = {scale: take(part.family, arguments, samples) for scale, samples in groups.items()}
        compiled = getattr(self._pipe(), part.name, None)
        if getattr(compiled, "_orig_mod", None) is module:
            module = compiled  # compiled after patching: the hook stands inside
        *first, last = groups
        outputs: list[tuple[list[int], Any]] = []
        self.nested = True
        try:
            for scale in first:
                with _at_size(part, run, call_of[scale], scale, labels[scale]) as rewritten:
                    outputs.append((groups[scale], module(**rewritten)))
        finally:
            self.nested = False
        rewritten = self._open(part, run, call_of[last], last, labels[last])
        self._outputs = [*outputs, (groups[last], None)]
        return rewritten


@contextmanager
def _at_size(
    part: Part, run: Run, arguments: dict[str, Any], scale: int, label: str
) -> Iterator[dict[str, Any]]:
    """Inside, the transformer called with what this yields makes a call at `scale`, with caches of its own."""
    family = part.family
    with part.caches.at(label, run.repeats):
        if scale == 1:
            yield arguments
            return
        weights = part.adapter.weights(scale, family.latents(arguments))
        if weights.lora and torch.is_grad_enabled() and family.transformer.gradient_checkpointing:
            raise NotImplementedError(
                "gradient checkpointing recomputes blocks after a patched call has ended: call transformer "
                f"and backward inside {type(family).__name__}.coarse(), or use disable_gradient_checkpointing()"
            )
        sigma = family.noise_level(arguments, run.noise_level)
        with family.coarse(arguments, weights, sigma, caches_apart=True) as rewritten:
            yield rewritten


def _label(scale: int, groups: dict[int, list[int]]) -> str:
    """Of a size's caches. Empty for a whole call at size 1, whose caches are as they would be without a patch.

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
