"""A measure without reference that sees what the eye sees on striped and checked scenes: are they straight, and sharp?

Prompt accuracy and Fréchet distance don't tell 7 Euler steps from 28 on the embedded model. What is visibly wrong with
few steps are backgrounds: stripes that bend, double and fade. Stripes and checks are two-valued and periodic, so how
well the best clean pattern explains a background says how clean it is.
"""

from __future__ import annotations

import functools

import numpy as np

from ddit_ext.embedded.scenes import PICTURE_SIZE
from ddit_ext.embedded.vocabulary import COLOURS, parse

ANGLES = np.array([0.0, 0.25, 0.5, 0.75]) * np.pi
PERIODS = np.linspace(0.15, 0.31, 33)
PATTERNS = ("stripes", "checks")


def measurable(prompts: list[str]) -> list[int]:
    """Which prompts ask for stripes or checks."""
    return [index for index, prompt in enumerate(prompts) if parse(prompt)[1] in PATTERNS]


def straightness(pictures: np.ndarray, prompts: list[str]) -> np.ndarray:
    """Share of the background's variance that the best clean pattern of its kind explains: float64 [n], at most 1.

    pictures: uint8 [n, H, W, 3], all of prompts with stripes or checks. Any of the four angles, any period and phase of
    the training scenes count as clean, so another picture of the prompt is as good as the reference. Objects are left
    out: pixels far from the line between the background's two colours. No pattern at all counts 0.
    """
    found = np.zeros(len(pictures))
    for kind in PATTERNS:
        chosen = [index for index, prompt in enumerate(prompts) if parse(prompt)[1] == kind]
        if not chosen:
            continue
        parts = [_mix(pictures[index], prompts[index]) for index in chosen]
        weight = np.stack([inside.ravel() for _, inside in parts]).astype(np.float32)
        mix = np.stack([mix.ravel() for mix, _ in parts]).astype(np.float32)
        many = np.maximum(weight.sum(1), 1)
        centred = (mix - ((mix * weight).sum(1) / many)[:, None]) * weight
        total = (centred**2).sum(1)
        # Correlation with each clean pattern over the background alone: patterns centred and scaled there.
        patterns, squares = _patterns(kind)
        spread = squares @ weight.T - (patterns @ weight.T) ** 2 / many
        shared = (patterns @ centred.T) ** 2 / np.maximum(spread, 1e-3)
        # Contrast of a tenth of the colours' distance is asked for, and a background at all.
        seen = (total > 0.01 * many) & (weight.sum(1) >= 200)
        found[chosen] = np.where(seen, shared.max(0) / np.maximum(total, 1e-9), 0.0)
    return found


def edge_width(pictures: np.ndarray, prompts: list[str]) -> np.ndarray:
    """Share of background pixels that are neither of the two colours, but between: float64 [n], in [0, 1]."""
    shares = []
    for picture, prompt in zip(pictures, prompts, strict=True):
        mix, inside = _mix(picture, prompt)
        shares.append(float(((mix > 0.25) & (mix < 0.75))[inside].mean()) if inside.any() else 1.0)
    return np.array(shares)


def _mix(picture: np.ndarray, prompt: str) -> tuple[np.ndarray, np.ndarray]:
    """Per pixel: place between the strong colour (0) and the pale one (1), and whether it is background at all."""
    colour = np.array(COLOURS[parse(prompt)[2]], np.float64)
    along = (255 - colour) * 0.62
    away = picture.astype(np.float64) - colour
    mix = away @ along / (along @ along)
    off = np.linalg.norm(away - mix[..., None] * along, axis=-1)
    return np.clip(mix, -0.25, 1.25), (off < 30) & (mix > -0.3) & (mix < 1.3)


@functools.cache
def _patterns(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Every clean pattern of a kind, averaged down from twice the size as scenes are, and squared: float32 [m, H * W]."""
    side = 2 * PICTURE_SIZE
    axis = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(axis, axis)
    made = []
    for angle in ANGLES if kind == "stripes" else ANGLES[:2]:
        cos, sin = np.cos(angle), np.sin(angle)
        for period in PERIODS:
            for phase in np.arange(0, 1, 1 / 12):
                u = np.floor(2 * ((cos * x + sin * y) / period + phase)) % 2
                if kind == "stripes":
                    made.append(_reduced(u))
                    continue
                for other in np.arange(0, 1 / 2, 1 / 12):  # half a period along both axes is the same pattern
                    made.append(_reduced((u + np.floor(2 * ((-sin * x + cos * y) / period + other))) % 2))
    flat = np.stack(made)
    return flat, flat**2


def _reduced(drawn: np.ndarray) -> np.ndarray:
    """Averaged down to the pictures' size: float32 [H * W]."""
    return drawn.astype(np.float32).reshape(PICTURE_SIZE, 2, PICTURE_SIZE, 2).mean((1, 3)).ravel()
