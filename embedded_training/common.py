"""What the training scripts share: atomic checkpoints without pickle, averages of weights, grown adapters."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


@dataclass
class Progress:
    step: int = 0
    seconds: float = 0.0


def _flatten(state: dict) -> dict[str, torch.Tensor]:
    """An optimizer's per-parameter tensors under names such as ``"17.exp_avg"``."""
    return {
        f"{index}.{name}": torch.as_tensor(value).detach().clone()
        for index, slots in state["state"].items()
        for name, value in slots.items()
    }


def save_state(
    folder: Path,
    modules: dict[str, torch.nn.Module],
    optimizers: tuple[torch.optim.Optimizer, ...],
    progress: Progress,
) -> None:
    """Writes a checkpoint beside the old one and then takes its place: a kill at any moment leaves a whole one."""
    fresh, old = folder.with_suffix(".new"), folder.with_suffix(".old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name, module in modules.items():
        save_file(
            {k: v.detach().clone() for k, v in module.state_dict().items()}, fresh / f"{name}.safetensors"
        )
    for i, optimizer in enumerate(optimizers):
        save_file(_flatten(optimizer.state_dict()), fresh / f"optimizer{i}.safetensors")
    (fresh / "progress.json").write_text(json.dumps(asdict(progress)))
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def load_state(
    folder: Path, modules: dict[str, torch.nn.Module], optimizers: tuple[torch.optim.Optimizer, ...]
) -> Progress | None:
    """Reads what :func:`save_state` wrote; None where there is nothing to go on from."""
    if not folder.exists() and folder.with_suffix(".old").exists():  # killed between the two renames
        os.replace(folder.with_suffix(".old"), folder)
    if not folder.exists():
        return None
    for name, module in modules.items():
        module.load_state_dict(load_file(folder / f"{name}.safetensors"))
    for i, optimizer in enumerate(optimizers):
        slots: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in load_file(folder / f"optimizer{i}.safetensors").items():
            index, name = key.split(".", 1)
            slots.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return Progress(**json.loads((folder / "progress.json").read_text()))


class AveragedModules:
    """Exponential moving averages of several modules' weights, kept as plain modules."""

    def __init__(self, averages: dict[str, torch.nn.Module], decay: float) -> None:
        self.averages = averages
        self.decay = decay
        for average in averages.values():
            average.requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, modules: dict[str, torch.nn.Module], step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))  # a short memory while the weights still move fast
        for name, average in self.averages.items():
            torch._foreach_lerp_(list(average.parameters()), list(modules[name].parameters()), 1 - decay)


@torch.no_grad()
def grow(adapter: torch.nn.Module, smaller: torch.nn.Module) -> None:
    """Copies ``smaller`` into the leading rows and columns of a new adapter, which then computes the same.

    What a larger rank or perceptron adds has an output of zeros in a new adapter, so it does nothing yet.
    """
    own = dict(adapter.named_parameters())
    for name, tensor in smaller.named_parameters():
        own[name][tuple(slice(size) for size in tensor.shape)] = tensor
