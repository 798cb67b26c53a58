"""What diffusers hooked to a module: caches, offloading, casting, context parallelism."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

GROUP_OFFLOADING = "group_offloading"

MOVING = frozenset(
    {
        GROUP_OFFLOADING,
        "layer_execution_tracker",
        "lazy_prefetch_group_offloading",
        "layerwise_casting",
        "peft_autocast_disable",
    }
)
"""Names of hooks that bring or cast a module's weights and keep nothing of what it returns."""


def hooks_of(module: nn.Module) -> Mapping[str, Any]:
    """The hooks on the module itself, by name. Its registry stays when the last one is removed."""
    return getattr(vars(module).get("_diffusers_hook"), "hooks", {})
