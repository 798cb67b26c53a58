"""How fast a latent's path bends, patch by patch: the scheduler's signal."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ._checks import check, check_floating, check_kinds, check_shapes


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
    op, latents = "acceleration_quantiles", {"z0": z0, "z1": z1, "z2": z2, "z3": z3}
    check_shapes(op, {}, **{name: (z, "B F h w C p p") for name, z in latents.items()})
    for attribute in ("device", "dtype"):
        check_kinds(op, attribute, **latents)
    check_floating(op, z0=z0)
    check(op, min(scales, default=0) >= 1, f"scales must be at least 1, got {list(scales)}")
    check(op, 0 <= quantile <= 1, f"quantile must be in [0, 1], got {quantile}")
    return z0.new_empty(z0.shape[0], len(scales), dtype=torch.float32)


# Past autograd, which would mark the result as one with a gradient.
_registered = torch.library.Library("ddit_ext", "FRAGMENT")
_registered.impl("acceleration_quantiles", torch.library.fallthrough_kernel, "Autograd")
