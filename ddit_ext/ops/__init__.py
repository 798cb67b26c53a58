"""The ops of libddit_ext, one file each: `torch.ops.ddit_ext` with defaults,
fake kernels, autograd and autocast.

They compile (`torch.compile(fullgraph=True)`, one graph for every size with `dynamic=True`), and RuntimeErrors
name the argument that does not fit.
"""

from .acceleration_quantiles import acceleration_quantiles
from .patch_deembed import patch_deembed
from .patch_embed import patch_embed

__all__ = ["acceleration_quantiles", "patch_deembed", "patch_embed"]
