"""The optimiser of a run and its learning rate over the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .config import DistillConfig


def make_optimizer(parameters: Mapping[str, nn.Parameter], config: DistillConfig) -> torch.optim.Optimizer:
    """AdamW or Prodigy over the adapter's named parameters.

    Raises:
        ModuleNotFoundError: Prodigy without the prodigyopt package.
    """
    groups = _groups(parameters, config)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.peak_lr, betas=config.betas)
    try:
        from prodigyopt import Prodigy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'optimizer "prodigy" needs the prodigyopt package: pip install prodigyopt'
        ) from error
    return Prodigy(
        groups, lr=config.peak_lr, betas=config.betas, use_bias_correction=True, safeguard_warmup=True
    )


def set_lr(optimizer: torch.optim.Optimizer, config: DistillConfig, step: int) -> float:
    """Give every group its learning rate at ``step``; returns that of ``lr``."""
    factor = min(1.0, (step + 1) / max(config.warmup, 1))
    if config.schedule == "cosine" and step >= config.warmup:
        through = (step - config.warmup) / max(config.steps - config.warmup, 1)
        factor = config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * through))
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    return config.peak_lr * factor


def _groups(parameters: Mapping[str, nn.Parameter], config: DistillConfig) -> list[dict[str, Any]]:
    """A learning rate per part of the adapter, weight decay on matrices only."""
    peaks = {"lora": config.lr_lora, "refinement": config.lr_residual}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        peak = peaks.get(name.split(".")[1], config.lr_embedding)
        matrix = name.endswith(("weight", ".a", ".b"))
        key = (config.peak_lr if peak is None else peak, config.weight_decay if matrix else 0.0)
        groups.setdefault(key, []).append(parameter)
    return [{"params": p, "peak_lr": peak, "weight_decay": decay} for (peak, decay), p in groups.items()]
