"""Samplers of diffusers that ForecastScheduler wraps, and a flow whose velocity is known, in the place of a model."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

_FLOW = dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
BASES = {
    "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "unipc": lambda: UniPCMultistepScheduler(**_FLOW),
    "unipc3": lambda: UniPCMultistepScheduler(solver_order=3, **_FLOW),
    "dpm": lambda: DPMSolverMultistepScheduler(**_FLOW),
    "deis": lambda: DEISMultistepScheduler(**_FLOW),
}


def velocity(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """A smooth field that bends along the way."""
    return torch.sin(3 * x) * (1 - sigma) + torch.cos(x + 2 * sigma)


def sample(
    dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (2, 3, 4), seed: int = 0
) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def run(scheduler: Any, x: torch.Tensor, steps: int = 28, callback: Any = None, **more: Any) -> torch.Tensor:
    """A pipeline's loop; callback(i, x) gives the sample to go on with."""
    scheduler.set_timesteps(steps, **more)
    for i, t in enumerate(scheduler.timesteps):
        v = velocity(x.float(), float(t) / 1000).to(x.dtype)
        x = scheduler.step(v, t, x, return_dict=False)[0]
        if callback is not None:
            x = callback(i, x)
    return x


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).square().mean().sqrt())
