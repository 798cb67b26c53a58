"""Models that were distilled to a few steps: each of them is needed, so there is nothing to gain."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ..modules.compiled import unwrap

FACTS = ("is_distilled", "use_meanflow")
"""Config keys of a pipeline (FLUX.2 klein) or a transformer (HunyuanVideo 1.5, HunyuanImage) that say it."""

NAMES = re.compile(
    r"schnell|turbo|lightning|hyper-(sd|flux)|(?<![a-z])lcm(?![a-z])|klein-\d|(?<!\d)[1-8][-_ ]?steps?(?![a-z])"
    r"|(?<!de)(?<!de[-_])(?<!cfg)(?<!cfg[-_])distill",
    re.IGNORECASE,
)
"""What the names of such models, and of LoRAs that make them, have in common. Guidance alone may be distilled, too."""


def few_steps(pipe: Any, denoisers: Mapping[str, nn.Module]) -> str | None:
    """Why a pipeline has nothing to gain, where its model was distilled to a few steps; None for others.

    A config that knows decides; else the names of the model and of its LoRAs do.
    """
    models = [unwrap(module) for module in denoisers.values()]
    configs = [config for each in (pipe, *models) if (config := getattr(each, "config", None)) is not None]
    said = [config[fact] for config in configs for fact in FACTS if fact in config]
    names = [_short(str(config.get("_name_or_path") or "")) for config in configs] if not said else []
    loras = [name for model in models for name in getattr(model, "peft_config", ())]
    found = type(pipe).__name__ if any(said) else _first(names) or _first(loras)
    if found is None:
        return None
    return (
        f"{found} was distilled to a few steps, each of which it needs: forecasts, skipped steps and "
        "larger patches have nothing to gain there; use the base model, with 20 to 50 steps"
    )


def _short(path: str) -> str:
    """The model's own name, of one on the hub, in a folder or in the hub's cache."""
    parts = [
        part for part in re.split(r"[/\\]", path) if part and not re.fullmatch(r"transformer(_2)?", part)
    ]
    return next((part for part in parts if part.startswith("models--")), parts[-1] if parts else "")


def _first(names: Iterable[str]) -> str | None:
    return next((name for name in names if NAMES.search(name)), None)
