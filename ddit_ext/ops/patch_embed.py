"""Cells to tokens: patches of `scale` x `scale` cells times a weight with an optional LoRA."""

import torch
from torch import Tensor

from ._autocast import register_lower_precision
from ._devices import check_one_device
from ._linear import LinearGradients, linear_backward
from ._patches import ceil_div, gather, scatter_add


def patch_embed(
    cells: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    lora_a: Tensor | None = None,
    lora_b: Tensor | None = None,
    lora_scale: float = 1.0,
    scale: int = 1,
) -> Tensor:
    """patches · (W + lora_scale · B · A)ᵀ + bias, without a copy of the latent in between.

    cells   [B, F, h, w, C, p, p], any strides (see `ddit_ext.cells`)
    weight  [D, C, s*p, s*p] with s = scale
    bias    [D]
    lora_a  [r, C, s*p, s*p] and lora_b [D, r], both or none
    returns tokens [B, F*ceil(h/s)*ceil(w/s), D], frame-major, then row-major

    At a ragged edge the last pixel row and column are repeated.
    float32, bfloat16, float16 and, on the CPU, float64; low precision is accumulated in float32.
    Differentiable once in all tensors; autocast casts as for linear.
    Raises RuntimeError, naming the argument, where shapes, dtypes or devices do not fit.
    The patch embedding of DDiT (arXiv 2602.16968), section 3.
    """
    return torch.ops.ddit_ext.patch_embed(cells, weight, bias, lora_a, lora_b, lora_scale, scale)


@torch.library.register_fake("ddit_ext::patch_embed")
def _fake(cells, weight, bias, lora_a, lora_b, lora_scale, scale):
    check_one_device("patch_embed", cells=cells, weight=weight, bias=bias, lora_a=lora_a, lora_b=lora_b)
    batch, frames, h, w = cells.shape[:4]
    return cells.new_empty(batch, frames * ceil_div(h, scale) * ceil_div(w, scale), weight.shape[0])


def _setup_context(ctx, inputs, output):
    cells, weight, _, lora_a, lora_b, ctx.lora_scale, ctx.scale = inputs
    ctx.save_for_backward(cells, weight, lora_a, lora_b)


def _backward(ctx, grad):
    cells, weight, lora_a, lora_b = ctx.saved_tensors
    needed = LinearGradients(*ctx.needs_input_grad[:5])
    found = linear_backward(
        grad.flatten(0, 1),
        gather(cells, ctx.scale, edge="repeat"),
        weight.flatten(1),
        None if lora_a is None else lora_a.flatten(1),
        lora_b,
        ctx.lora_scale,
        needed,
    )
    return (
        None if found.x is None else scatter_add(found.x, cells.shape, ctx.scale),
        None if found.weight is None else found.weight.reshape(weight.shape),
        found.bias,
        None if found.lora_a is None else found.lora_a.reshape(lora_a.shape),
        found.lora_b,
        None,
        None,
    )


torch.library.register_autograd("ddit_ext::patch_embed", _backward, setup_context=_setup_context)
register_lower_precision("patch_embed")
