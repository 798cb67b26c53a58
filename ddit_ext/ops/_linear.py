"""The backward of x (W + scale B A)^T + bias, shared by patch_embed and patch_deembed."""

from typing import NamedTuple

from torch import Tensor


class LinearGradients(NamedTuple):
    x: Tensor | None = None  # [M, K]
    weight: Tensor | None = None  # [N, K]
    bias: Tensor | None = None  # [N]
    lora_a: Tensor | None = None  # [r, K]
    lora_b: Tensor | None = None  # [N, r]


def linear_backward(
    grad: Tensor,  # [M, N]
    x: Tensor,  # [M, K]
    weight: Tensor,  # [N, K]
    lora_a: Tensor | None,  # [r, K]
    lora_b: Tensor | None,  # [N, r]
    lora_scale: float,
    needed: LinearGradients,  # of bools
) -> LinearGradients:
    grad_x = grad @ weight if needed.x else None
    grad_a = grad_b = None
    if lora_a is not None:
        low = (grad @ lora_b) * lora_scale if needed.x or needed.lora_a else None  # [M, r]
        if needed.x:
            grad_x = grad_x + low @ lora_a
        grad_a = low.T @ x if needed.lora_a else None
        grad_b = lora_scale * (grad.T @ (x @ lora_a.T)) if needed.lora_b else None
    return LinearGradients(
        x=grad_x,
        weight=grad.T @ x if needed.weight else None,
        bias=grad.sum(0) if needed.bias else None,
        lora_a=grad_a,
        lora_b=grad_b,
    )
