"""Whether a preset was made for this pipeline, this adapter and this run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from .._machine import device_name
from ..coarse import Adapter
from ..coarse.adapter_file import named_tensors
from ..coarse.base_weights import check_fingerprint, fingerprint
from ..coarse.patch_layers import unwrap
from ..schedulers import ForecastScheduler
from .preset import Preset, PresetError

TRAINING_FREE = "training-free"


def adapter_digest(adapter: Adapter | None) -> str:
    """What tells one adapter's weights from another's; "training-free" without an adapter."""
    if adapter is None:
        return TRAINING_FREE
    digest = hashlib.sha256()
    for scale, weights in sorted(adapter.sizes.items(), key=lambda item: int(item[0])):
        for name, tensor in sorted(named_tensors(weights).items()):
            digest.update(f"{scale} {name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def plain_config(scheduler: Any) -> dict[str, Any]:
    """A sampler's settings as JSON has them, without diffusers' own notes."""
    config = dict(getattr(scheduler, "config", {}))
    plain = json.loads(json.dumps(config, default=str))
    return {name: value for name, value in sorted(plain.items()) if not name.startswith("_")}


def identity(
    parts: Mapping[str, nn.Module], weights: Mapping[str, Adapter] | None
) -> tuple[dict[str, Any], str]:
    """What a preset knows model and adapter by: `base` and `adapter` of a Preset.

    Of a pipeline with two transformers a fingerprint by name, and the digests in that order, joined by "+".
    """
    bases = {name: fingerprint(transformer) for name, transformer in parts.items()}
    digests = [adapter_digest(weights[name] if weights else None) for name in parts]
    return (bases if len(bases) > 1 else next(iter(bases.values()))), "+".join(digests)


def check_parts(
    preset: Preset, parts: Mapping[str, nn.Module], weights: Mapping[str, Adapter] | None
) -> list[str]:
    """:func:`check_patch` for each transformer of a pipeline, by name."""
    digests = preset.adapter.split("+")
    if len(digests) != len(parts):
        raise PresetError(
            f"preset was made for a pipeline with {len(digests)} transformer(s), this one has {sorted(parts)}"
        )
    texts: list[str] = []
    for (name, transformer), digest in zip(parts.items(), digests, strict=True):
        base = preset.base[name] if len(parts) > 1 else preset.base
        own = replace(preset, base=base, adapter=digest)
        texts += check_patch(own, transformer, weights[name] if weights else None)
    return list(dict.fromkeys(texts))


def check_patch(preset: Preset, transformer: nn.Module, adapter: Adapter | None) -> list[str]:
    """At patch(): what differs and is worth a warning.

    adapter: as the user gave it, None for none. Raises PresetError for another model or another adapter.
    """
    try:
        check_fingerprint(dict(preset.base), transformer)
    except ValueError as error:
        text = str(error).replace("adapter was made", "preset was made")
        raise PresetError(text) from error
    if preset.choice.may_be_coarse:  # else no adapter is used
        found = adapter_digest(adapter)
        if found != preset.adapter:
            raise PresetError(
                f"preset was made with {_adapter_name(preset.adapter)}, patch() got {_adapter_name(found)}: "
                "give the same, or calibrate again"
            )
    return _dtype_differs(preset, transformer)


class RunCheck:
    """At a run's begin: compares what the preset was made for with what is run."""

    def __init__(self, preset: Preset, pipeline: str | None = None) -> None:
        """pipeline: the name of its class; None: not compared."""
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
        """Texts that name what differs. total: steps of the run, 0 where that isn't known. grid: None where
        positions are none."""
        preset = self._preset
        texts = []
        if total and total != preset.run_steps:
            texts.append(
                f"the preset is for {preset.run_steps} steps (num_inference_steps={preset.steps}), this run has "
                f"{total}: its speed and its pictures are others"
            )
        if grid is not None and tuple(grid) != preset.grid:
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
        device = device_name(_runs_on(unwrap(transformer)))
        if device != preset.device:
            texts.append(
                f"the preset was calibrated on {preset.device}, this run is on {device}: its speed may differ"
            )
        texts += self._sampler(scheduler)
        return texts + _dtype_differs(preset, transformer)

    def _sampler(self, scheduler: Any) -> list[str]:
        expected = self._preset.sampler
        scheduler = scheduler.base if isinstance(scheduler, ForecastScheduler) else scheduler
        name = type(scheduler).__name__
        if name != expected["class"]:
            return [f"the preset was calibrated with the sampler {expected['class']}, this run has {name}"]
        ours, theirs = plain_config(scheduler), expected["config"]
        keys = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
        if not keys:
            return []
        shown = ", ".join(f"{key}={ours.get(key)!r} instead of {theirs.get(key)!r}" for key in keys)
        return [f"the preset was calibrated with another setting of the sampler; this run has {shown}"]


def _dtype_differs(preset: Preset, transformer: nn.Module) -> list[str]:
    dtype = str(unwrap(transformer).dtype).removeprefix("torch.")
    if dtype == preset.dtype:
        return []
    return [f"the preset was calibrated in {preset.dtype}, the transformer is in {dtype}"]


def _runs_on(transformer: nn.Module) -> torch.device:
    """Where a transformer computes: with accelerate's offloading its weights lie elsewhere between calls."""
    hooks = (getattr(module, "_hf_hook", None) for module in transformer.modules())
    devices = (getattr(hook, "execution_device", None) for hook in hooks)
    device = next((device for device in devices if device is not None), None)
    return next(transformer.parameters()).device if device is None else torch.device(device)


def _adapter_name(digest: str) -> str:
    return "no adapter" if digest == TRAINING_FREE else f"the adapter {digest[:12]}"


def _grid(grid: tuple[int, int, int]) -> str:
    frames, rows, columns = grid
    return f"{rows}x{columns}" if frames == 1 else f"{frames}x{rows}x{columns}"
