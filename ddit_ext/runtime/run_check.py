"""At a run's begin: what a preset was made for, compared with what is run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .._machine import device_name
from ..modules.compiled import unwrap
from ..presets import Preset
from ..presets.match import dtype_differs, plain_config
from ..schedulers import ForecastScheduler


class RunCheck:
    """Compares runs with a preset.

    pipeline: the name of its class; None: not compared.

    Attributes:
        target_speedup: what was asked for. full_steps: steps of the full run that it is against.
    """

    def __init__(self, preset: Preset, pipeline: str | None = None) -> None:
        self._preset, self._pipeline = preset, pipeline
        self.target_speedup = preset.target_speedup
        self.full_steps = round(preset.full_steps * preset.run_steps / preset.steps)

    def differences(
        self,
        transformer: nn.Module,
        scheduler: Any,
        total: int,
        grid: tuple[int, int, int] | None,
        batch: int,
    ) -> list[str]:
        """Texts that name what differs.

        total: steps of the run, 0 where that isn't known. grid: None where positions are none.
        """
        preset = self._preset
        texts = []
        if total and total != preset.run_steps:
            texts.append(
                f"the preset is for {preset.run_steps} steps (num_inference_steps={preset.steps}), this run has "
                f"{total}: its speed and its pictures are others"
            )
        if grid is not None and preset.grid is not None and tuple(grid) != preset.grid:
            height, width = preset.picture
            texts.append(
                f"the preset was calibrated at {_grid(preset.grid)} tokens ({width}x{height} pixels), this run has "
                f"{_grid(grid)}"
            )
        if batch != preset.batch:
            texts.append(
                f"the preset was calibrated with {preset.batch} samples a call, this run has {batch}"
            )
        if self._pipeline not in (None, preset.pipeline):
            texts.append(f"the preset was calibrated with {preset.pipeline}, this is {self._pipeline}")
        model = unwrap(transformer)
        device = device_name(_runs_on(model))
        if device != preset.device:
            texts.append(
                f"the preset was calibrated on {preset.device}, this run is on {device}: its speed may differ"
            )
        return [*texts, *self._sampler(scheduler), *dtype_differs(preset, model)]

    def _sampler(self, scheduler: Any) -> list[str]:
        own = scheduler.base if isinstance(scheduler, ForecastScheduler) else scheduler
        expected, name = self._preset.sampler, type(own).__name__
        if name != expected["class"]:
            return [f"the preset was calibrated with the sampler {expected['class']}, this run has {name}"]
        ours, theirs = plain_config(own), expected["config"]
        keys = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        if not keys:
            return []
        shown = ", ".join(f"{key}={ours.get(key)!r} instead of {theirs.get(key)!r}" for key in keys)
        return [f"the preset was calibrated with another setting of the sampler; this run has {shown}"]


def _runs_on(transformer: nn.Module) -> torch.device:
    """Where a transformer computes: with accelerate's offloading its weights lie elsewhere between calls."""
    hooks = (getattr(module, "_hf_hook", None) for module in transformer.modules())
    devices = (getattr(hook, "execution_device", None) for hook in hooks)
    device = next((device for device in devices if device is not None), None)
    return next(transformer.parameters()).device if device is None else torch.device(device)


def _grid(grid: tuple[int, int, int]) -> str:
    frames, rows, columns = grid
    return f"{rows}x{columns}" if frames == 1 else f"{frames}x{rows}x{columns}"
