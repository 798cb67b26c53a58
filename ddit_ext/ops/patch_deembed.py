"""Tokens to cells: the way back from patches of `scale` x `scale` cells."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ._autocast import register_lower_precision
from ._checks import check, check_floating, check_kinds, check_patches, check_shapes
from ._linear import LinearGradients, linear_backward
from ._patches import ceil_div, gather


def patch_deembed(
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    lora_a: Tensor | None = None,
    lora_b: Tensor | None = None,
    lora_scale: float = 1.0,
    scale: int = 1,
    grid: Sequence[int] | None = None,
) -> Tensor:
    """tokens · (W + lora_scale · B · A)ᵀ + bias, written as cells and cropped at ragged edges.

    tokens  [B, F*ceil(h/s)*ceil(w/s), D], frame-major, then row-major, with s = scale
    weight  [C, s*p, s*p, D]
    bias    [C, s*p, s*p]
    lora_a  [r, D] and lora_b [C, s*p, s*p, r], both or none
    grid    [F, h, w]: how many base cells there are; required
    returns cells [B, F, h, w, C, p, p], contiguous; viewed as [B, F*h*w, C*p*p] it is FLUX's packed layout

    float32, bfloat16, float16 and, on the CPU, float64; low precision is accumulated in float32.
    On CUDA, and elsewhere with many tokens, W + lora_scale · B · A is made first. The sum is rounded to the weight's dtype:
    additions below half a unit of it are lost. No caller in the package passes a LoRA.
    Differentiable once in all tensors; autocast casts as for linear.
    Raises RuntimeError, naming the argument, where shapes, dtypes or devices do not fit.
    The patch de-embedding of DDiT (arXiv 2602.16968), section 3.
    """
    if grid is None:
        raise TypeError("patch_deembed: grid must be given as [F, h, w] of the base cells")
    return torch.ops.ddit_ext.patch_deembed(tokens, weight, bias, lora_a, lora_b, lora_scale, scale, grid)


@torch.library.register_fake("ddit_ext::patch_deembed")
def _fake(tokens, weight, bias, lora_a, lora_b, lora_scale, scale, grid):
    op = "patch_deembed"
    check_floating(op, tokens=tokens)
    check_patches(op, scale, lora_a, lora_b)
    check(op, len(grid) == 3, f"grid must be [F, h, w], got {list(grid)}")
    frames, h, w = grid
    sizes = {"F*ceil(h/s)*ceil(w/s)": frames * ceil_div(h, scale) * ceil_div(w, scale)}
    check_shapes(op, sizes, tokens=(tokens, "B F*ceil(h/s)*ceil(w/s) D"), weight=(weight, "C s*p s*p D"))
    check_shapes(op, sizes, bias=(bias, "C s*p s*p"), lora_a=(lora_a, "r D"), lora_b=(lora_b, "C s*p s*p r"))
    check(op, weight.shape[1] % scale == 0, f"weight must have sides of s*p, s = {scale}, got {weight.shape}")
    tensors = {"tokens": tokens, "weight": weight, "bias": bias, "lora_a": lora_a, "lora_b": lora_b}
    for attribute in ("device", "dtype"):
        check_kinds(op, attribute, **tensors)
    p = weight.shape[1] // scale
    return tokens.new_empty(tokens.shape[0], *grid, weight.shape[0], p, p)


def _setup_context(ctx, inputs, output):
    tokens, weight, bias, lora_a, lora_b, ctx.lora_scale, ctx.scale, _ = inputs
    ctx.save_for_backward(tokens, weight, lora_a, lora_b)


def _backward(ctx, grad):
    tokens, weight, lora_a, lora_b = ctx.saved_tensors
    needed = LinearGradients(*ctx.needs_input_grad[:5])
    found = linear_backward(
        gather(grad, ctx.scale, edge="zero"),
        tokens.flatten(0, 1),
        weight.flatten(0, 2),
        lora_a,
        None if lora_b is None else lora_b.flatten(0, 2),
        ctx.lora_scale,
        needed,
    )
    return (
        None if found.x is None else found.x.reshape(tokens.shape),
        None if found.weight is None else found.weight.reshape(weight.shape),
        None if found.bias is None else found.bias.reshape(weight.shape[:3]),
        found.lora_a,
        None if found.lora_b is None else found.lora_b.reshape(lora_b.shape),
        None,
        None,
        None,
    )


torch.library.register_autograd("ddit_ext::patch_deembed", _backward, setup_context=_setup_context)
register_lower_precision("patch_deembed")
