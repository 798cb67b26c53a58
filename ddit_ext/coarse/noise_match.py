"""The scalars of a noise-matched coarse step.

Merging s×s latent pixels averages their noise, so a coarse patch is cleaner than the noise level the model is
told. With a rectified flow z = (1-σ)·x + σ·ε the merged latent ``low`` carries the clean low-resolution
latent with weight a = 1-σ and unit noise with weight b = σ/s; dividing by a + b puts it back on the flow, at
a lower level:

    c = 1 / (a + b),    σ' = b·c,    c·low = (1-σ')·x_low + σ'·ε'

The velocity of the smaller latent, v' = ε' - x_low, then gives the low band of the wanted velocity ε - x:

    v_low = α·v' + β·low,    α = (1-σ')/s + σ',    β = c·(1/s - 1)

and the detail that no coarse token sees, z - up(low), is given the linear least-squares velocity

    g(σ) = (σ - (1-σ)·H) / (σ² + (1-σ)²·H)

for white noise and an independent clean detail of variance H per high-band coefficient. The derivation, and
what of it is in the paper, stand in docs/design/coarse-step.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: H below this is treated as this: on a latent without any detail g(σ) = 1/σ would grow without bound as σ → 0.
MIN_DETAIL = 1e-3
#: No latent space in use has more detail than this; it bounds what one unusual sample can do to its own estimate.
MAX_DETAIL = 4.0
#: Relative uncertainty of σ² itself: pipelines in bfloat16 round the timestep to eight bits.
LEVEL_ERROR = 0.005
#: Noise levels between which :func:`blended` goes over from matched to unmatched.
BLEND = (0.8, 0.9)


@dataclass(frozen=True)
class NoiseMatch:
    """The four scalars of a coarse step, each ``[B]`` float32; see the module's text for their meaning."""

    input_scale: Tensor  # c, multiplies the noisy channels before the embedding
    timestep: Tensor  # σ', the noise level the blocks are told, in [0, 1]
    alpha: Tensor  # α, multiplies the de-embedded tokens
    beta: Tensor  # β, multiplies up(low)


def noise_match(sigma: Tensor, scale: int) -> NoiseMatch:
    """c, σ', α and β for noise levels ``sigma`` [B] in [0, 1] and a merge of ``scale``×``scale`` latent pixels.

    Finite at both ends: at σ = 0 nothing is changed but α = 1/s, at σ = 1 the level stays 1 and c = s.
    """
    sigma = sigma.float()
    denominator = scale * (1 - sigma) + sigma  # s·(a + b), between 1 and s
    timestep = sigma / denominator
    input_scale = scale / denominator
    return NoiseMatch(
        input_scale=input_scale,
        timestep=timestep,
        alpha=(1 - timestep) / scale + timestep,
        beta=input_scale * (1 / scale - 1),
    )


def unmatched(sigma: Tensor) -> NoiseMatch:
    """The paper's coarse step: the latent and the timestep as they are, α = 1, β = 0."""
    sigma = sigma.float()
    one = torch.ones_like(sigma)
    return NoiseMatch(input_scale=one, timestep=sigma, alpha=one, beta=torch.zeros_like(sigma))


def blended(sigma: Tensor, scale: int) -> NoiseMatch:
    """Noise-matched up to the lower level of :data:`BLEND`, unmatched from the upper one on.

    Whatever the factor k on the input and the level t that the blocks are told, their output v' says that the clean
    low-resolution latent is k·low - t·v', and so that the low band of the velocity is

        (low - (k·low - t·v'))/σ = α·v' + β·low,    α = t/σ,    β = (1 - k)/σ

    Between the two levels, k and t go over from (c, σ') to (1, σ) geometrically.
    """
    sigma = sigma.float()
    matched = noise_match(sigma, scale)
    low, high = BLEND
    share = ((sigma - low) / (high - low)).clamp(0, 1)
    timestep = matched.timestep ** (1 - share) * sigma**share
    input_scale = matched.input_scale ** (1 - share)
    above = sigma.clamp(min=low)
    return NoiseMatch(
        input_scale=input_scale,
        timestep=timestep,
        alpha=torch.where(share > 0, timestep / above, matched.alpha),
        beta=torch.where(share > 0, (1 - input_scale) / above, matched.beta),
    )


def matched_by(start: str, sigma: Tensor, scale: int) -> NoiseMatch:
    """The scalars of ``ScaleSpec.start`` at noise levels ``sigma`` [B]."""
    if start == "pi_resize":
        return unmatched(sigma)
    return noise_match(sigma, scale) if start == "noise_matched" else blended(sigma, scale)


def gain_lines(sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Where g(σ) starts at H = 0 and how it goes on: (start + slope·H) holds its numerator and denominator, [B, 2]."""
    sigma = sigma.float()
    clean = 1 - sigma
    return torch.stack([sigma, sigma.square()], 1), torch.stack([-clean, clean.square()], 1)


def detail_gain(sigma: Tensor, detail: Tensor | float) -> Tensor:
    """g(σ): the factor from the noisy detail to its velocity, ``[B]`` float32.

    Args:
        sigma: noise levels [B] in [0, 1].
        detail: H, the variance of the clean latents' detail per high-band coefficient; one number or [B].
    """
    detail = torch.as_tensor(detail, dtype=torch.float32, device=sigma.device).clamp(min=MIN_DETAIL)
    start, slope = gain_lines(sigma)
    return gain_at(start, slope, detail.expand_as(sigma))


def gain_at(start: Tensor, slope: Tensor, detail: Tensor) -> Tensor:
    """g [B] at H = ``detail`` [B], from its :func:`gain_lines` [B, 2], or [1, 2] for all samples."""
    numerator, denominator = torch.addcmul(start, slope, detail[:, None]).unbind(1)
    return numerator / denominator


def default_detail(scale: int) -> float:
    """H when nothing was measured: 1 - s^(-3/4), so 0.41 at s = 2 and 0.65 at s = 4.

    It is what a unit-variance latent has whose s×s block means keep a variance of roughly s^(-3/4):
    neighbours that correlate by about a half. Measure it with :func:`measure_detail` where clean latents are at hand.
    """
    return 1 - scale**-0.75


def detail_line(sigma: Tensor, coefficients: int, prior: float) -> tuple[Tensor, Tensor]:
    """How H follows from the noisy latent itself: start + slope·E, [B] float32 each.

    The noisy detail has variance V = σ² + (1-σ)²·H, so H = (V - σ²)/(1-σ)². That quotient is all noise near σ
    = 1, where the clean detail has not appeared yet. Instead of a threshold on σ, the quotient and ``prior``
    are averaged with the inverse of their variances as weights: the standard error of V over ``coefficients``
    samples (and a σ known to :data:`LEVEL_ERROR`) on the one side, a prior as wide as itself on the other.
    Multiplied through by (1-σ)⁴ this is finite everywhere and slides from the prior at σ = 1 to the
    measurement at low σ.

    Args:
        sigma: noise levels [B].
        coefficients: how many high-band coefficients a sample has; E is the sum of their squares, so V = E/coefficients.
        prior: H to fall back on.
    """
    sigma = sigma.float()
    noise2, clean2 = sigma.square(), (1 - sigma).square()
    expected = noise2 + clean2 * prior
    error2 = (2.0 / max(coefficients, 1) + LEVEL_ERROR**2) * expected.square()
    measured, total = prior * prior * clean2, prior * prior * clean2.square() + error2
    return (error2 * prior - measured * noise2) / total, measured / (total * max(coefficients, 1))


def estimate_detail(line: tuple[Tensor, Tensor], energy: Tensor) -> Tensor:
    """H of each sample [B] from its :func:`detail_line` and the energy E of its high band [B]."""
    return torch.addcmul(line[0], line[1], energy).clamp(MIN_DETAIL, MAX_DETAIL)


def high_band_energy(detail: Tensor) -> Tensor:
    """E, the sum of squares of what is above the means in each sample: ``detail`` [B, ...] -> [B] float32.

    Spread over the 1 - 1/s² of the coefficients that are not means, it is their variance.
    """
    return torch.linalg.vector_norm(detail.flatten(1), dim=1).square()


def high_band_coefficients(detail: Tensor, scale: int) -> int:
    """How many coefficients of one sample are no means of s×s pixels."""
    pixels = detail[0].numel()
    return pixels - pixels // scale**2


def measure_detail(cells: Tensor, scale: int) -> float:
    """H of clean latents given as cells [B, F, h, w, C, p, p]: the number to pass as ``detail_variance``."""
    from .residual import split_bands

    _, detail = split_bands(cells, scale)
    return float(high_band_energy(detail).mean()) / high_band_coefficients(detail, scale)
