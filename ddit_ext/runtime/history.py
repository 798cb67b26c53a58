"""The last float32 latents of a run, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from .. import ops
from .answer import Answer

View = Callable[[Tensor], Tensor]

KEPT = 4
"""A third difference takes four latents."""


class History:
    """Latents in float32 as a sampler sees them, newest first; only their differences have a meaning.

    A trajectory is kept by adding each step's difference in float32 to the first latent: rounding a latent to
    bf16 at each step would by itself give a larger third difference than the trajectory has.

    The tensors are a ring: memory is taken at a run's first four steps, then the oldest tensor is written
    over. Their cells are views that are made once for all the steps that ask with the same `view`.
    """

    def __init__(self) -> None:
        self._latents: list[Tensor] = []  # newest first
        self._view: View | None = None
        self._cells: dict[int, Tensor] = {}  # by the id of a tensor of this ring
        self._asked: tuple[tuple, Answer] | None = None

    def __len__(self) -> int:
        return len(self._latents)

    @property
    def shape(self) -> torch.Size | None:
        """The shape of the latents; None without any."""
        return self._latents[0].shape if self._latents else None

    @property
    def ready(self) -> bool:
        """Whether there are latents enough for a signal."""
        return len(self._latents) == KEPT

    def push(self, latent: Tensor) -> None:
        """Take a copy of the newest latent as it is; latents of another shape or device are forgotten."""
        if self._latents and (latent.shape != self.shape or latent.device != self._latents[0].device):
            self.clear()
        self._slot(latent).copy_(latent.detach())

    def add(self, difference: Tensor, factor: float | None = None) -> None:
        """Append the newest latent plus a difference of the same shape, in float32, times `factor`."""
        newest = self._latents[0]
        if difference.shape != newest.shape:
            raise ValueError(
                f"difference must have shape {tuple(newest.shape)}, got {tuple(difference.shape)}"
            )
        slot = self._slot(newest)
        torch.add(newest, difference.detach(), alpha=1.0 if factor is None else factor, out=slot)

    def _slot(self, like: Tensor) -> Tensor:
        """Memory for the newest latent: the oldest one's, or new."""
        self._asked = None
        if self.ready:
            slot = self._latents.pop()
        else:
            with torch.inference_mode(False):  # may be written to in any mode, whichever this step is in
                slot = torch.empty(like.shape, dtype=torch.float32, device=like.device)
        self._latents.insert(0, slot)
        return slot

    def clear(self) -> None:
        """Free the latents."""
        self._latents.clear()
        self._cells.clear()
        self._view = self._asked = None

    def ask(self, view: View, scales: Sequence[int], quantile: float) -> Answer:
        """Begin to compute what `scores` with the same arguments will read, unless latents come between."""
        if view is not self._view:
            self._cells.clear()
            self._view = view
        cells = [self._cells_of(latent) for latent in self._latents]
        answer = Answer(ops.acceleration_quantiles(*cells, scales, quantile))
        self._asked = ((view, *scales, quantile), answer)
        return answer

    def scores(self, view: View, scales: Sequence[int], quantile: float) -> list[list[float]] | None:
        """[sample][scale]: the quantile over patches of the difference's deviation; None so far.

        view: from a latent to its cells [B, F, h, w, C, p, p], the same object as long as it does the same. One
        that gives no view of the latent's memory is called at each step. On a GPU this waits for the result.
        """
        if not self.ready:
            return None
        if self._asked is not None and self._asked[0] == (view, *scales, quantile):
            return self._asked[1].read()
        return self.ask(view, scales, quantile).read()

    def _cells_of(self, latent: Tensor) -> Tensor:
        cells = self._cells.get(id(latent))
        if cells is None:
            cells = self._view(latent)
            if cells.untyped_storage().data_ptr() == latent.untyped_storage().data_ptr():
                self._cells[id(latent)] = cells
        return cells


def of_one_size(sizes: Mapping[int, int | list[int]], steps: Sequence[int], samples: int) -> list[bool]:
    """For each sample: whether all `steps` were taken at one size.

    sizes: of each step so far, one number for all samples or one a sample; a step that is not in it was taken by
    others, at no size that is known.
    """
    taken = [sizes.get(step) for step in steps]
    if any(size is None for size in taken):
        return [False] * samples
    rows = [size if isinstance(size, list) else [size] * samples for size in taken]
    return [len({row[i] for row in rows}) == 1 for i in range(samples)]
