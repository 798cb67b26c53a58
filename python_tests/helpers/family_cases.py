"""The families whose larger patches are tested alike. A new family is one entry here.

The pipelines are those of `flow_families`: tiny, random, from diffusers' own classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from flow_families import FAMILIES, Family
from torch import Tensor, nn

from ddit_ext.families import family_for

BY_NAME = {family.name: family for family in FAMILIES}
PATCHED = ["FLUX.1", "FLUX.2", "Qwen-Image", "Z-Image", "HunyuanVideo 1.5", "Stable Diffusion 3", "Wan 2.1"]
"""What `flow_families` calls those that have larger patches."""


@dataclass
class Captured:
    """A transformer with the arguments of one of a pipeline's calls, and its family's view of it."""

    transformer: nn.Module
    arguments: dict[str, Any]

    def __post_init__(self) -> None:
        self.family = family_for(self.transformer)

    def call(self, **changes: Any) -> Tensor:
        """[B, ...], whatever the model returns."""
        with torch.no_grad():
            output = self.transformer(**(self.arguments | changes | {"return_dict": False}))[0]
        return output if isinstance(output, Tensor) else torch.stack(list(output))

    def small(self, latents: Tensor, sigma: Tensor) -> Tensor:
        """The base's own output on other latents, as a picture or clip, at another noise level."""
        conditions = {
            name: value
            for name, value in self.arguments.items()
            if name in self.family.ENCODER.PROMPT.values()
        }
        whole = ("image_embeds", "guidance")
        conditions |= {name: self.arguments[name] for name in whole if self.arguments.get(name) is not None}
        call = self.family.training_call(latents, conditions)
        extra = call.pop("condition_latents", None)
        if extra is not None:
            call = self.family.with_latents(call, torch.cat([self.family.latents(call), extra], 1))
        with torch.no_grad():
            call[self.family.TIME] = self.family.timestep(sigma)
            output = self.transformer(**call, return_dict=False)[0]
        return output if isinstance(output, Tensor) else torch.stack(list(output))


def captured(case: Family, batch: int = 2, step: int = 2, **size: Any) -> Captured:
    """The first call of a step of a run of four."""
    pipe = case.build()
    calls: list[dict[str, Any]] = []
    known = family_for(pipe.transformer)

    def keep(module: nn.Module, args: tuple, kwargs: dict) -> None:
        calls.append(known.bind(args, kwargs))

    handle = pipe.transformer.register_forward_pre_hook(keep, with_kwargs=True)
    case.run(pipe, batch, steps=4, **size)
    handle.remove()
    return Captured(pipe.transformer, calls[step * len(calls) // 4])


def pixels(cells: Tensor) -> Tensor:
    """Cells [B, F, h, w, C, p, p] as pixels [B, C, F, H, W]."""
    return cells.permute(0, 4, 1, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)
