"""Cells to tokens: patches of `scale` x `scale` cells times a weight with an optional LoRA."""

import torch
from torch import Tensor

from ._autocast import register_lower_precision
from ._checks import check_floating, check_kinds, check_patches, check_shapes
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
    input_scale: Tensor | None = None,
) -> Tensor:
    """patches · (W + lora_scale · B · A)ᵀ + bias, without a copy of the latent in between.

    cells   [B, F, h, w, C, p, p], any strides (see `ddit_ext.cells`)
    weight  [D, C, s*p, s*p] with s = scale
    bias    [D]
    lora_a  [r, C, s*p, s*p] and lora_b [D, r], both or none
    input_scale  [B or 1, C or 1], float32: a factor for the cells, by sample and channel
    returns tokens [B, F*ceil(h/s)*ceil(w/s), D], frame-major, then row-major

    At a ragged edge the last pixel row and column are repeated.
    float32, bfloat16, float16 and, on the CPU, float64; low precision is accumulated in float32.
    On CUDA, and elsewhere with many tokens, W + lora_scale · B · A is made first. The sum is rounded to the weight's dtype:
    additions below half a unit of it are lost. No caller in the package passes a LoRA.
    With `input_scale`, cells may also be float32 where the weight is lower: they are multiplied in float32 and rounded
    to the weight's dtype once, as they are gathered.
    Differentiable once in all tensors; autocast casts as for linear, but neither `input_scale` nor the cells it scales.
    Raises RuntimeError, naming the argument, where shapes, dtypes or devices do not fit.
    The patch embedding of DDiT (arXiv 2602.16968), section 3.
    """
    return torch.ops.ddit_ext.patch_embed(cells, weight, bias, lora_a, lora_b, lora_scale, scale, input_scale)


@torch.library.register_fake("ddit_ext::patch_embed")
def _fake(cells, weight, bias, lora_a, lora_b, lora_scale, scale, input_scale=None):
    op, sizes = "patch_embed", {}
    check_floating(op, cells=cells)
    check_patches(op, scale, lora_a, lora_b)
    check_shapes(op, sizes, cells=(cells, "B F h w C p p"))
    sizes["s*p"] = scale * sizes["p"]
    check_shapes(op, sizes, weight=(weight, "D C s*p s*p"), bias=(bias, "D"))
    check_shapes(op, sizes, lora_a=(lora_a, "r C s*p s*p"), lora_b=(lora_b, "D r"))
    added = {"bias": bias, "lora_a": lora_a, "lora_b": lora_b}
    check_kinds(op, "device", cells=cells, weight=weight, **added, input_scale=input_scale)
    check_kinds(op, "dtype", weight=weight, **added)
    if input_scale is None:
        check_kinds(op, "dtype", cells=cells, weight=weight)
    batch, frames, h, w = cells.shape[:4]
    return weight.new_empty(batch, frames * ceil_div(h, scale) * ceil_div(w, scale), weight.shape[0])


def _setup_context(ctx, inputs, output):
    cells, weight, _, lora_a, lora_b, ctx.lora_scale, ctx.scale, input_scale = inputs
    ctx.save_for_backward(cells, weight, lora_a, lora_b, input_scale)


def _backward(ctx, grad):
    cells, weight, lora_a, lora_b, input_scale = ctx.saved_tensors
    factor = None if input_scale is None else input_scale[:, None, None, None, :, None, None]
    scaled = cells if factor is None else (cells * factor).to(weight.dtype)
    by_cells, *others = ctx.needs_input_grad[:5]
    by_scale = any(ctx.needs_input_grad[7:])  # shorter where no factor is given
    needed = LinearGradients(by_cells or by_scale, *others)
    found = linear_backward(
        grad.flatten(0, 1),
        gather(scaled, ctx.scale, edge="repeat"),
        weight.flatten(1),
        None if lora_a is None else lora_a.flatten(1),
        lora_b,
        ctx.lora_scale,
        needed,
    )
    grad_cells = None if found.x is None else scatter_add(found.x, cells.shape, ctx.scale)
    grad_scale = None
    if grad_cells is not None and factor is not None:
        grad_scaled = grad_cells.to(torch.promote_types(cells.dtype, factor.dtype))
        if by_scale:
            grad_scale = (grad_scaled * cells).sum_to_size(factor.shape).view(input_scale.shape)
            grad_scale = grad_scale.to(input_scale.dtype)
        grad_cells = (grad_scaled * factor).to(cells.dtype) if by_cells else None
    return (
        grad_cells,
        None if found.weight is None else found.weight.reshape(weight.shape),
        found.bias,
        None if found.lora_a is None else found.lora_a.reshape(lora_a.shape),
        found.lora_b,
        None,
        None,
        grad_scale,
    )


torch.library.register_autograd("ddit_ext::patch_embed", _backward, setup_context=_setup_context)
register_lower_precision("patch_embed", scaled=(0, 7))
