"""Pictures of a pipeline's output as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

SHOWN = 4
"""So many samples are kept as pictures, for a page."""


def as_uint8(output: Any, whole: bool = False) -> np.ndarray:
    """uint8 [n, …, H, W, 3] of a pipeline's output with output_type="np": values in [0, 1] under images or frames.

    NaN is black; with `whole` a ValueError.
    """
    values = next(
        (getattr(output, name) for name in ("images", "frames") if getattr(output, name, None) is not None),
        None,
    )
    if values is None:
        raise TypeError(
            f"pipe must return images or frames, as diffusers pipelines do; got {type(output).__name__}"
        )
    array = np.asarray(values)
    if whole and not np.isfinite(array).all():
        raise ValueError(
            "pipe: the full run's pictures hold NaN, so nothing can be compared with them; float16 may be too narrow for "
            "the model or its VAE: load it in bfloat16 or float32"
        )
    return np.uint8(np.rint(np.nan_to_num(array) * 255).clip(0, 255))


def first_frames(pictures: np.ndarray) -> list[np.ndarray]:
    """One picture uint8 [H, W, 3] a sample: itself, or the middle frame of a video."""
    return [sample if sample.ndim == 3 else sample[len(sample) // 2] for sample in pictures]


def prompts_of(call: Mapping[str, Any], count: int) -> list[str]:
    """The text that each of the `count` samples of a call shows; "" where the call has none."""
    prompt = call.get("prompt") or ""
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    each = max(1, count // len(prompts))  # several samples a prompt stand together
    return [prompts[min(number // each, len(prompts) - 1)] for number in range(count)]
