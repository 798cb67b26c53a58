"""What a distillation run can be told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from ..strategies import checks

LOWEST = 0.02
"""Noise levels below it are not trained on, unless a range says so: no schedule has coarse steps there."""


@dataclass(frozen=True)
class DistillConfig:
    """Settings of :func:`ddit_ext.training.distill`; every one has a default that works on a small model.

    Attributes:
        steps: optimiser steps in all, counted over resumed runs.
        optimizer: "adamw", or "prodigy", which finds the learning rate itself (needs the prodigyopt package).
        lr: peak learning rate; None: 1e-3 for AdamW, 1.0 for Prodigy, a factor on what it finds.
        lr_embedding, lr_lora, lr_residual: the same for one part of the adapter; None: ``lr``. Not for Prodigy.
        weight_decay: on matrices only, never on biases, the patch-size vector or the knots.
        betas: of the optimiser.
        accumulate: batches per optimiser step, one after the other; one step then learns from accumulate times
            processes times the size of a batch.
        schedule: of the learning rate after the warm-up, "cosine" to ``final_lr``·lr or "constant".
        warmup: steps of linear warm-up.
        clip: largest norm of the gradient; 0 for no clipping.
        ema: decay of the average of the weights, which is what is saved; 0: the last weights are.
        share_teacher: train every scale in every step against one pass of the teacher, the larger part of a
            step's cost. Scales share no weights, so nothing is lost by it. False: one scale a step, in turn.
        scale_shares: one scale a step, drawn with these weights, {2: 3, 4: 1}; None: see ``share_teacher``.
        noise_range: noise levels σ per scale, {4: (0.7, 1.0)}; a scale that isn't named gets (0.02, 1.0).
        sigma_shift: k of the shift σ = k·u/(1 + (k-1)·u) of a uniform u, as FLUX's sampler has it: above 1
            there are more high noise levels. 1: uniform in σ.
        normalise: what the squared error of a sample is divided by: the mean square of the "teacher"'s
            velocity, the running mean error at this noise "level" and scale before the step (every level then weighs the
            same; the errors of a level's first step are divided by themselves), or "none".
        feature_weight: of the relative squared error of block outputs beside that of the velocity; 0: not looked at.
        feature_blocks: the blocks that are compared, counted from 0; empty: the one in the middle and the last.
        autocast: run the model under this dtype, "bfloat16" or "float16" (no loss scaling), or None.
        seed: of noise, noise levels and, with ``scale_shares``, scales. Each step draws from a generator of its own.
        checkpoint_every, log_every: in steps.
        keep_checkpoints: so many of the newest are kept.
    """

    steps: int = 1000
    optimizer: Literal["adamw", "prodigy"] = "adamw"
    lr: float | None = None
    lr_embedding: float | None = None
    lr_lora: float | None = None
    lr_residual: float | None = None
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    accumulate: int = 1
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = 50
    final_lr: float = 0.02
    clip: float = 1.0
    ema: float = 0.995
    share_teacher: bool = True
    scale_shares: Mapping[int, float] | None = None
    noise_range: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    sigma_shift: float = 1.0
    normalise: Literal["teacher", "level", "none"] = "teacher"
    feature_weight: float = 0.0
    feature_blocks: tuple[int, ...] = ()
    autocast: Literal["bfloat16", "float16"] | None = None
    seed: int = 0
    checkpoint_every: int = 500
    log_every: int = 20
    keep_checkpoints: int = 2

    def __post_init__(self):
        checks.one_of("optimizer", self.optimizer, ("adamw", "prodigy"))
        checks.one_of("schedule", self.schedule, ("cosine", "constant"))
        checks.one_of("normalise", self.normalise, ("teacher", "level", "none"))
        checks.one_of("autocast", self.autocast, (None, "bfloat16", "float16"))
        if self.optimizer == "prodigy":
            for name in ("lr_embedding", "lr_lora", "lr_residual"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} is not for prodigy, which has one learning rate for all parts: leave it out, "
                        f"got {getattr(self, name)}"
                    )
        for name in ("steps", "accumulate", "checkpoint_every", "log_every", "keep_checkpoints"):
            checks.whole(name, getattr(self, name))
        for name in ("lr", "lr_embedding", "lr_lora", "lr_residual", "sigma_shift"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive, got {value}")
        for name in ("weight_decay", "clip", "warmup", "final_lr", "feature_weight"):
            checks.number(name, getattr(self, name), 0.0, finite=True)
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {self.ema}")
        if self.scale_shares is not None and not (
            all(share >= 0 for share in self.scale_shares.values()) and sum(self.scale_shares.values()) > 0
        ):
            raise ValueError(f"scale_shares must be weights, one above 0, got {dict(self.scale_shares)}")
        for scale, (low, high) in self.noise_range.items():
            if not 0 <= low < high <= 1:
                raise ValueError(
                    f"noise_range[{scale}] must be (low, high) with 0 <= low < high <= 1, got {(low, high)}"
                )

    @property
    def peak_lr(self) -> float:
        """``lr``, or what the optimiser usually takes."""
        return self.lr if self.lr is not None else {"adamw": 1e-3, "prodigy": 1.0}[self.optimizer]

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        return getattr(torch, self.autocast) if self.autocast else None

    def range_of(self, scale: int) -> tuple[float, float]:
        """The noise levels that ``scale`` is trained on."""
        return tuple(self.noise_range.get(scale, (LOWEST, 1.0)))
