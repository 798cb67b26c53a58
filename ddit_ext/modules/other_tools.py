"""Whose forward a transformer has: other accelerators put one of their own on the instance."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn

HARMLESS = ("accelerate", "diffusers", "peft", "torch", "transformers")
"""Packages whose wrappers call the model's blocks as the model has them."""

CACHES = ("cache_dit", "para_attn", "nunchaku", "teacache")
"""Packages that keep tokens of one patch size from call to call, without a word about it to others."""


def other_forward(model: nn.Module) -> str | None:
    """Module and name of a forward that another tool, or the user, has put on `model`; None without one."""
    for name in ("forward", "_old_forward"):  # accelerate keeps there what it found
        forward = vars(model).get(name)
        while isinstance(forward, functools.partial):
            forward = forward.func
        function = getattr(forward, "__func__", forward)
        # Not __module__ and __wrapped__: functools.wraps sets them to the wrapped function's.
        maker: Any = getattr(function, "__globals__", {}).get("__name__")
        if maker is not None and maker.partition(".")[0] not in HARMLESS:
            return f"{maker}.{function.__code__.co_name}"
    return None


def check_caches(model: nn.Module) -> None:
    """NotImplementedError where a cache of CACHES would meet tokens of another patch size."""
    maker = other_forward(model)
    if maker is not None and maker.partition(".")[0] in CACHES:
        raise NotImplementedError(
            f"coarse patches with {maker.partition('.')[0]}: its forward ({maker}) keeps tokens of one patch size; take it "
            "off the transformer, or use a strategy of full-size steps"
        )
