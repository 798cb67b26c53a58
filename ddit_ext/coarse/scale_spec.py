"""What is fixed about one patch size: its shape and its choices."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

from .errors import AdapterError

Start = Literal["noise_matched", "pi_resize", "blended"]
Positions = Literal["centre", "grid"]

LARGEST = 2**30
"""The bound on every size of an adapter, in C++ as well."""


@dataclass(frozen=True)
class ScaleSpec:
    """The shape and the fixed choices of one patch size; what a file must say to build it again."""

    scale: int  # s: how many base patches a side are merged
    patch_size: int  # p: side of a base patch in latent pixels
    width: int  # D: features of a token
    in_channels: int  # C_in: noisy latent and clean conditions
    out_channels: int  # C_out: the noisy latent alone
    start: Start = "noise_matched"
    positions: Positions = "centre"  # of a token: the middle of its cells (s·i + (s-1)/2); "grid": 0, 1, 2, …
    detail_residual: bool = True  # False: no g(σ)·(z - up(low))
    detail_variance: float | None = None  # H; None: estimated from each latent
    rank: int = 0  # of the feed-forward LoRA; 0: none
    lora_scale: float = 1.0
    refinement_hidden: int = 0  # 0: the residual is the analytic one
    refinement_knots: int = 16
    refinement_tokens: bool = False  # whether its perceptron reads the tokens from the blocks

    def __post_init__(self):
        positive = dict.fromkeys(("patch_size", "width", "in_channels", "out_channels"), 1)
        least = {"scale": 2, **positive, "rank": 0, "refinement_hidden": 0, "refinement_knots": 2}
        for name, low in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= LARGEST:
                raise AdapterError(f"{name} must be an integer of {low} to {LARGEST}, got {value!r}")
        if not is_finite(self.lora_scale):
            raise AdapterError(f"lora_scale must be a finite number, got {self.lora_scale!r}")
        if self.detail_variance is not None and not (
            is_finite(self.detail_variance) and self.detail_variance >= 0
        ):
            raise AdapterError(
                f"detail_variance must be None or a number that is not negative, got {self.detail_variance!r}"
            )
        for name in ("detail_residual", "refinement_tokens"):
            if not isinstance(getattr(self, name), bool):
                raise AdapterError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.start not in get_args(Start):
            raise AdapterError(f"start must be one of {', '.join(get_args(Start))}, got {self.start!r}")
        if self.positions not in ("centre", "grid"):
            raise AdapterError(f'positions must be "centre" or "grid", got {self.positions!r}')
        if self.in_channels < self.out_channels:
            raise AdapterError(
                f"in_channels must be at least out_channels, got {self.in_channels}, {self.out_channels}"
            )


def spec_from_json(entry: Any) -> ScaleSpec:
    """A :class:`ScaleSpec` from the adapter file's entry; AdapterError names what is missing or unknown."""
    if not isinstance(entry, dict):
        raise AdapterError(f"a scale's entry must be an object, got {type(entry).__name__}")
    known = ScaleSpec.__dataclass_fields__
    unknown = sorted(set(entry) - set(known))
    missing = sorted({"scale", "patch_size", "width", "in_channels", "out_channels"} - set(entry))
    if unknown or missing:
        raise AdapterError(f"a scale's entry has unknown fields {unknown} and lacks {missing}")
    return ScaleSpec(**entry)


def is_finite(value: Any) -> bool:
    """Whether a value is a number that a float can hold: JSON's integers may be larger."""
    return isinstance(value, Real) and abs(value) <= sys.float_info.max
