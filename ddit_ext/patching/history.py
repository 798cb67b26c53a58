"""The last float32 latents (or outputs) of a run, and their scores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


class History:
    """Tensors in float32 as a sampler sees them, newest first; only their differences have a meaning.

    order: of the difference that is scored, 1, 2 or 3; it takes so many + 1 tensors.

    A trajectory is kept by adding each step's difference in float32 to the first latent: rounding a latent to
    bf16 at each step would by itself give a larger third difference than the trajectory has.
    """

    def __init__(self, order: int = 3) -> None:
        self.order = order
        self._latents: deque[Tensor] = deque(maxlen=order + 1)

    def __len__(self) -> int:
        return len(self._latents)

    @property
    def shape(self) -> torch.Size | None:
        """Of the latents, None without any."""
        return self._latents[0].shape if self._latents else None

    @property
    def ready(self) -> bool:
        """Whether there are latents enough for a signal."""
        return len(self._latents) == self.order + 1

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
        """[sample][scale]: the quantile over patches of the difference's deviation; None so far.

        view: from a latent to its cells [B, F, h, w, C, p, p]. On a GPU this waits for the result.
        """
        if not self.ready:
            return None
        from .. import ops

        cells = [view(latent) for latent in _as_third_difference(list(self._latents))]
        return ops.acceleration_quantiles(*cells, list(scales), quantile).tolist()


def _as_third_difference(newest_first: list[Tensor]) -> list[Tensor]:
    """Four tensors whose third difference a - 3b + 3c - d is the difference of the two to four given ones.

    (a, 0, 0, d) has a - d: the first difference of two tensors. The second is that of two first differences.
    """
    if len(newest_first) == 4:
        return newest_first
    a, d = newest_first if len(newest_first) == 2 else _steps(newest_first)
    nothing = torch.zeros((), dtype=a.dtype, device=a.device).expand(a.shape)
    return [a, nothing, nothing, d]


def _steps(newest_first: list[Tensor]) -> list[Tensor]:
    return [new - old for new, old in zip(newest_first, newest_first[1:], strict=False)]


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
