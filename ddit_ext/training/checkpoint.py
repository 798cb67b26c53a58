"""The state of a training run in one safetensors file a checkpoint: a kill at any time leaves it whole or absent.

Everything a step depends on is in it (adapter, its average, optimiser, random generators, running means,
step), so a resumed run continues bit for bit on the CPU. The description is JSON in the file's metadata, with a
checksum of the tensors; nothing is pickled.
"""

from __future__ import annotations

import json
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .._files import replace_file
from ..coarse.adapter import Adapter, AdapterError
from ..coarse.adapter_file import named_parameters
from ..coarse.base_weights import compare_fingerprints

FORMAT = "ddit_ext.distill"
FORMAT_VERSION = 2
FOLDER = "checkpoints"


class SaveFailed(OSError):
    """A file could not be written; the text names it. What was there before is as it was."""


@dataclass
class RunState:
    """What a checkpoint holds besides the number of steps; :func:`load_checkpoint` fills it in place."""

    adapter: Adapter
    average: dict[str, Tensor]  # by parameter name; empty without an average
    optimizer: torch.optim.Optimizer
    level_means: Tensor


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, newest first."""
    return sorted((folder / FOLDER).glob("step-*.safetensors"), reverse=True)


def save_checkpoint(folder: Path, state: RunState, step: int, keep: int = 1) -> Path:
    """Write the state after ``step`` finished steps; then keep ``keep``, this one and those before it.

    Raises:
        SaveFailed: the disk is full, or another error of the file system.
    """
    adapter, optimizer = state.adapter, state.optimizer
    tensors: dict[str, Tensor] = {"level_means": state.level_means, "random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    counters: dict[str, dict[str, float]] = {}
    for name, parameter in named_parameters(adapter).items():
        tensors[f"adapter.{name}"] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{key}.{name}"] = value
            else:
                counters.setdefault(name, {})[key] = value
    tensors |= {f"average.{name}": tensor for name, tensor in state.average.items()}
    contents = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "step": step,
        "base": adapter.base,
        "scales": [asdict(weights.spec) for weights in adapter.sizes.values()],
        "training": adapter.training_record,
        "optimizer": type(optimizer).__name__,
        "counters": counters,
        "groups": [_moved(group, optimizer.defaults) for group in optimizer.param_groups],
        "crc32": _checksum(contents),
    }
    path = folder / FOLDER / f"step-{step:08d}.safetensors"
    metadata = {"description": json.dumps(description)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda to: save_file(contents, to, metadata))
    except (OSError, SafetensorError) as error:
        raise SaveFailed(f"checkpoint {path} could not be written: {error}") from error
    found = checkpoints(folder)  # newer ones than this were damaged
    for old in found[found.index(path) + keep :]:
        old.unlink(missing_ok=True)
    return path


def resume(folder: Path, state: RunState) -> int:
    """Put the newest readable checkpoint into ``state``; returns its number of steps, 0 where there is none.

    A damaged one is named in a warning, and the one before it is taken: the run comes to the same end.

    Raises:
        AdapterError: one of another adapter or optimiser, or no checkpoint is readable. Nothing has been changed.
    """
    found = checkpoints(folder)
    damaged: list[CheckpointDamaged] = []
    for path in found:
        try:
            return load_checkpoint(path, state)
        except CheckpointDamaged as error:
            damaged.append(error)
            warnings.warn(f"{error}; trying the checkpoint before it", stacklevel=2)
    if damaged:
        raise damaged[0]
    return 0


class CheckpointDamaged(AdapterError):
    """A checkpoint that can't be read, or whose contents are not what was written."""


def load_checkpoint(path: Path, state: RunState) -> int:
    """Put the saved state into ``state`` and torch's generators; returns the number of finished steps.

    Raises:
        CheckpointDamaged: a damaged file.
        AdapterError: one of another adapter or optimiser. Nothing has been changed in either case.
    """
    adapter, optimizer = state.adapter, state.optimizer
    description, tensors = _read(path)
    scales = [asdict(weights.spec) for weights in adapter.sizes.values()]
    if description["scales"] != json.loads(json.dumps(scales)):
        raise AdapterError(
            f"{path} belongs to another adapter: expected {scales}, got {description['scales']}"
        )
    try:
        compare_fingerprints(description["base"], adapter.base)
    except AdapterError as error:
        raise AdapterError(f"{path} belongs to another adapter: {error}") from error
    if description["optimizer"] != type(optimizer).__name__:
        raise AdapterError(
            f"{path} belongs to another optimizer: expected {type(optimizer).__name__}, "
            f"got {description['optimizer']}"
        )
    parameters = named_parameters(adapter)
    wanted = {f"adapter.{name}" for name in parameters} | {"level_means", "random.cpu"}
    missing = sorted(wanted - tensors.keys())
    if missing:
        raise AdapterError(f"{path} lacks {missing[:5]}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"adapter.{name}"])
            if name in state.average:  # without one until now (ema 0) it starts from the weights
                state.average[name].copy_(tensors.get(f"average.{name}", tensors[f"adapter.{name}"]))
        state.level_means.copy_(tensors["level_means"])
    optimizer.state.clear()
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, key, parameter_name = name.split(".", 2)
            parameter = parameters[parameter_name]
            # AdamW counts on the CPU and keeps its moments with the parameter.
            optimizer.state[parameter][key] = tensor if key == "step" else tensor.to(parameter.device)
    for name, values in description["counters"].items():
        optimizer.state[parameters[name]].update(values)
    for group, values in zip(optimizer.param_groups, description["groups"], strict=False):
        group.update(values)
    adapter.training_record = description["training"]
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return description["step"]


def _moved(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, float]:
    """What an optimiser keeps in a group (Prodigy: its estimates); the settings come from the config."""
    ours = ("lr", "peak_lr", "weight_decay")
    return {
        key: value
        for key, value in group.items()
        if isinstance(value, int | float) and key not in ours and value != defaults.get(key)
    }


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy(), total)
    return total


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {}).get("description", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointDamaged(f"{path} is not a readable checkpoint: {error}") from error
    found = (description.get("format"), description.get("format_version"))
    if found != (FORMAT, FORMAT_VERSION):
        raise AdapterError(
            f"{path}: expected format {FORMAT!r} version {FORMAT_VERSION}, got {found[0]!r} {found[1]!r}"
        )
    if _checksum(tensors) != description["crc32"]:
        raise CheckpointDamaged(f"{path} is damaged: its checksum is not the one that was written")
    return description, tensors
