"""The last four float32 latents of a run, and their scores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

LENGTH = 4
"""A third difference takes four latents."""


class History:
    """Latents in float32 as a sampler sees them, newest first; only their differences have a meaning.

    A trajectory is kept by adding each step's difference in float32 to the first latent: rounding a latent to
    bf16 at each step would by itself give a larger third difference than the trajectory has.
    """

    def __init__(self) -> None:
        self._latents: deque[Tensor] = deque(maxlen=LENGTH)

    def __len__(self) -> int:
        return len(self._latents)

    @property
    def shape(self) -> torch.Size | None:
        """Of the latents, None without any."""
        return self._latents[0].shape if self._latents else None

    @property
    def ready(self) -> bool:
        """Whether there are latents enough for a signal."""
        return len(self._latents) == LENGTH

    def push(self, latent: Tensor) -> None:
        """Take a copy of the newest latent as it is."""
        self._latents.appendleft(latent.detach().to(torch.float32, copy=True))

    def add(self, difference: Tensor) -> None:
        """Append the newest latent plus a float32 difference of the same shape."""
        self._latents.appendleft(self._latents[0] + difference.detach())

    def clear(self) -> None:
        """Free the latents."""
        self._latents.clear()

    def scores(
        self, view: Callable[[Tensor], Tensor], scales: Sequence[int], quantile: float
    ) -> list[list[float]] | None:
        """[sample][scale]: the quantile over patches of the third difference's deviation; None so far.

        view: from a latent to its cells [B, F, h, w, C, p, p]. On a GPU this waits for the result.
        """
        if not self.ready:
            return None
        from .. import ops

        cells = [view(latent) for latent in self._latents]
        return ops.acceleration_quantiles(*cells, list(scales), quantile).tolist()
