"""The state of a training run in one safetensors file, replaced as a whole: a kill at any time leaves the old
or the new.

Everything a step depends on is in it (adapter, its average, optimiser, random generators, running means,
step), so a resumed run continues bit for bit on the CPU. The description is JSON in the file's metadata;
nothing is pickled.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..multiscale.adapter import Adapter, AdapterError
from ..multiscale.adapter_file import named_tensors, replace_file

FORMAT = "ddit_ext.distill"
FORMAT_VERSION = 1
FILE = "checkpoint.safetensors"


def named_parameters(adapter: Adapter) -> dict[str, torch.nn.Parameter]:
    """The adapter's parameters under their names in its file."""
    named = {}
    for weights in adapter.sizes.values():
        named |= dict(zip(named_tensors(weights), weights.parameters(), strict=True))
    return named


def save_checkpoint(
    folder: Path,
    adapter: Adapter,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    level_means: Tensor,
    step: int,
) -> None:
    """Write the state after ``step`` finished steps."""
    tensors: dict[str, Tensor] = {"level_means": level_means, "random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    for name, parameter in named_parameters(adapter).items():
        tensors[f"adapter.{name}"] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "step": step,
        "base": adapter.base,
        "scales": [asdict(weights.spec) for weights in adapter.sizes.values()],
        "training": adapter.training_record,
    }
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"description": json.dumps(description)}
    contents = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    replace_file(folder / FILE, lambda path: save_file(contents, path, metadata))


def load_checkpoint(
    folder: Path,
    adapter: Adapter,
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    level_means: Tensor,
) -> int:
    """Put the saved state into the arguments and torch's generators; returns the number of finished steps.

    Raises:
        AdapterError: a damaged file, or one of another adapter. Nothing has been changed then.
    """
    path = folder / FILE
    description, tensors = _read(path)
    scales = [asdict(weights.spec) for weights in adapter.sizes.values()]
    if description["scales"] != json.loads(json.dumps(scales)) or description["base"] != adapter.base:
        raise AdapterError(
            f"{path} belongs to another adapter: expected {scales} for {adapter.base['config']}, "
            f"got {description['scales']} for {description['base']['config']}"
        )
    parameters = named_parameters(adapter)
    wanted = {f"adapter.{name}" for name in parameters} | {f"average.{name}" for name in average}
    missing = sorted((wanted | {"level_means", "random.cpu"}) - tensors.keys())
    if missing:
        raise AdapterError(f"{path} lacks {missing[:5]}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"adapter.{name}"])
            if name in average:
                average[name].copy_(tensors[f"average.{name}"])
        level_means.copy_(tensors["level_means"])
    optimizer.state.clear()
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, key, parameter_name = name.split(".", 2)
            parameter = parameters[parameter_name]
            # AdamW counts on the CPU and keeps its moments with the parameter.
            state = tensor if key == "step" else tensor.to(parameter.device)
            optimizer.state[parameter][key] = state
    adapter.training_record = description["training"]
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    return description["step"]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {}).get("description", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise AdapterError(f"{path} is not a readable checkpoint: {error}") from error
    found = (description.get("format"), description.get("format_version"))
    if found != (FORMAT, FORMAT_VERSION):
        raise AdapterError(
            f"{path}: expected format {FORMAT!r} version {FORMAT_VERSION}, got {found[0]!r} {found[1]!r}"
        )
    return description, tensors
