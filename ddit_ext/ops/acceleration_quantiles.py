"""How fast a latent's path bends, patch by patch: the scheduler's signal."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ._devices import check_one_device


def acceleration_quantiles(
    z0: Tensor,
    z1: Tensor,
    z2: Tensor,
    z3: Tensor,
    scales: Sequence[int] = (1, 2, 4),
    quantile: float = 0.4,
) -> Tensor:
    """The `quantile` over all patches of the third difference's deviation inside a patch, a scale a column.

    z0, z1, z2, z3  latents of the last four steps, z0 the newest: cells [B, F, h, w, C, p, p], any strides
    scales          patch sides in base cells
    quantile        in [0, 1]
    returns         [B, len(scales)] float32

    Δ³ = z0 - 3 z1 + 3 z2 - z3, in float32 (float64 for float64). For a patch σ = sqrt(the mean over channels
    of the population variance over the patch's own pixels). Then the quantile over all patches of all frames,
    interpolated linearly as in torch.quantile.
    Hand over float32 latents: rounding to bfloat16 alone hides the signal.

    Inference only: it has no gradient, and autocast leaves it alone.
    Raises RuntimeError, naming the argument, where shapes, dtypes or values do not fit.
    The acceleration of DDiT (arXiv 2602.16968), section 3.
    """
    return torch.ops.ddit_ext.acceleration_quantiles(z0, z1, z2, z3, scales, quantile)


@torch.library.register_fake("ddit_ext::acceleration_quantiles")
def _fake(z0, z1, z2, z3, scales, quantile):
    check_one_device("acceleration_quantiles", z0=z0, z1=z1, z2=z2, z3=z3)
    return z0.new_empty(z0.shape[0], len(scales), dtype=torch.float32)
