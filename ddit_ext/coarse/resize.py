"""Weights of a larger patch, made from those of the base patch.

Three ways, all linear in the base weights: the pseudo-inverse resize of FlexiViT (Beyer et al., arXiv
2212.08013), which the DDiT paper starts from; pooled embedding weights, which make the embedding see the s×s
means of the latent; and repeated de-embedding rows, which write each output value to all s×s pixels it stands for.

Embedding weights are ``[D, C, p, p]``, de-embedding weights ``[C, p, p, D]``, as in ``ddit_ext.ops``; the order of a
model's own features is ``base_weights.py``'s business.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bilinear_matrix(size: int, new_size: int) -> Tensor:
    """The matrix [new_size, size] (float64) of bilinear interpolation along one axis."""
    rows = torch.eye(size, dtype=torch.float64, device="cpu")[None]
    return F.interpolate(rows, size=new_size, mode="linear", align_corners=False)[0].T


def pi_resize(weight: Tensor, scale: int) -> Tensor:
    """FlexiViT's resize: [D, C, p, p] -> [D, C, s·p, s·p].

    The result is the least-norm solution of ⟨B·x, w_s⟩ = ⟨x, w⟩ for every patch x, with B the bilinear
    enlargement: embedding an enlarged patch gives exactly the token of the original.
    """
    _check_square(weight, "weight", 2, 3)
    patch = weight.shape[-1]
    resize = torch.linalg.pinv(bilinear_matrix(patch, patch * scale).T)  # [s·p, p]
    wide = torch.einsum("yi,dcij,xj->dcyx", resize, weight.double(), resize)
    return wide.to(weight.dtype)


def pooled(weight: Tensor, scale: int) -> Tensor:
    """Embed the s×s means: weight_s[d, c, y, x] = weight[d, c, y//s, x//s] / s²; [D, C, p, p] -> [D, C, s·p, s·p].

    Embedding a patch with it equals embedding, at scale 1, the patch of its s×s means.
    """
    _check_square(weight, "weight", 2, 3)
    return weight.repeat_interleave(scale, 2).repeat_interleave(scale, 3) / scale**2


def repeated_rows(weight: Tensor, scale: int) -> Tensor:
    """De-embed to s×s times as many pixels: out[c, y, x] = weight[c, y//s, x//s].

    [C, p, p, D] -> [C, s·p, s·p, D], and a bias [C, p, p] -> [C, s·p, s·p]. Every s×s block of the result is
    constant and equals the base's value; so its mean is the base's de-embedding, and its high band is zero.
    """
    _check_square(weight, "weight", 1, 2)
    return weight.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def _check_square(weight: Tensor, name: str, first: int, second: int) -> None:
    if weight.ndim <= second or weight.shape[first] != weight.shape[second]:
        raise ValueError(
            f"{name} must have a square patch in dimensions {first} and {second}, got {tuple(weight.shape)}"
        )
