"""The base model of a training file, loaded no further than needed."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import nn

from .settings import ModelSettings

EMBEDDED = "embedded:"


@dataclass
class Base:
    """A transformer, and the pipeline around it, loaded when first asked for.

    ``release`` lets go of the text encoders, which are the larger part of its memory.
    """

    transformer: nn.Module
    load: Callable[[nn.Module], Any]
    device: torch.device
    _pipe: Any = None

    def pipeline(self) -> Any:
        """The whole pipeline on the device."""
        if self._pipe is None:
            self._pipe = self.load(self.transformer).to(self.device)
            self._pipe.set_progress_bar_config(disable=True)
        return self._pipe

    def release(self, keep_vae: bool) -> None:
        """Forget the text encoders, and the VAE unless it is kept."""
        if self._pipe is None:
            return
        names = [name for name in self._pipe.components if name.startswith(("text_encoder", "image_encoder"))]
        self._pipe.register_modules(**dict.fromkeys(names))
        if not keep_vae:
            self._pipe = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def load_base(settings: ModelSettings, device: torch.device) -> Base:
    """The base model with its transformer on ``device``.

    Raises:
        ValueError: no such model, or one without a FLUX or Wan transformer; the text says which.
    """
    dtype = getattr(torch, settings.dtype)
    if settings.path.startswith(EMBEDDED):
        from .. import embedded

        pipe = embedded.load(settings.path.removeprefix(EMBEDDED)).pipeline.to(device)
        if dtype != torch.float32:  # as it comes
            pipe.to(dtype)
        return Base(pipe.transformer, lambda transformer: pipe, device)
    where = {"revision": settings.revision}
    try:
        index = diffusers.DiffusionPipeline.load_config(settings.path, **where)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model.path: {settings.path} is no diffusers model that can be read: {str(error).splitlines()[0]}"
        ) from error
    library, name = index.get("transformer") or (None, None)
    cls = getattr(diffusers, name or "", None)
    if library != "diffusers" or cls is None:
        raise ValueError(f"model.path: {settings.path} has no transformer that diffusers knows, got {name}")
    if (index.get("transformer_2") or [None])[0] is not None:
        raise ValueError(f"model.path: {settings.path} has two transformers; the trainer takes one")
    where |= {"variant": settings.variant, "torch_dtype": dtype}
    transformer = cls.from_pretrained(settings.path, subfolder="transformer", **where).to(device)

    def load(transformer: nn.Module) -> Any:
        return diffusers.DiffusionPipeline.from_pretrained(settings.path, transformer=transformer, **where)

    return Base(transformer, load, device)
