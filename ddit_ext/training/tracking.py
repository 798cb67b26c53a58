"""Where a run's numbers and pictures go besides ``log.jsonl``: TensorBoard and wandb, through accelerate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accelerate.utils import is_tensorboard_available, is_wandb_available

from .observer import Observer
from .settings import OutputSettings

if TYPE_CHECKING:
    from accelerate import Accelerator

AVAILABLE = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}


def chosen_trackers(settings: OutputSettings) -> list[str]:
    """The trackers to use. ModuleNotFoundError where one was asked for by name and is not installed."""
    if settings.trackers == "auto":
        return ["tensorboard"] if is_tensorboard_available() else []
    for name in settings.trackers:
        if not AVAILABLE[name]():
            raise ModuleNotFoundError(f"output.trackers: {name} is not installed: pip install {name}")
    return list(settings.trackers)


class Tracking(Observer):
    """Sends every line of the log to the trackers of ``accelerator``, its numbers' names after ``prefix``."""

    def __init__(self, accelerator: Accelerator, prefix: str = ""):
        self._accelerator = accelerator
        self._prefix = prefix

    def logged(self, line: dict[str, Any]) -> None:
        values = {name: line[name] for name in ("loss", "lr", "grad_norm")}
        for scale, entry in line["scales"].items():
            values[f"error/{scale}p"] = entry["error"]
            values |= {f"error_by_level/{scale}p_{level}": e for level, e in entry["levels"].items()}
        values = {self._prefix + name: value for name, value in values.items()}
        self._accelerator.log(values, step=line["step"])
