"""The base model of a training file, loaded no further than needed."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import nn

from ..families import Family, class_of, supported
from .config import LOWEST
from .pair import HIGH, LOW, has_pair
from .settings import ModelSettings

EMBEDDED = "embedded:"


@dataclass
class Base:
    """The transformers of a model by their names in its pipeline, and the pipeline, loaded when first asked for.

    One transformer is on the device, of two each when it is its turn. ``boundary``: of two, the noise level from
    which on the first one is called. ``release`` lets go of the text encoders, which are the larger part of the
    pipeline's memory.
    """

    transformers: dict[str, nn.Module]
    load: Callable[[dict[str, nn.Module]], Any]
    device: torch.device
    boundary: float | None = None
    _pipe: Any = None

    def pipeline(self) -> Any:
        """The whole pipeline on the device."""
        if self._pipe is None:
            self._pipe = self.load(self.transformers).to(self.device)
            self._pipe.set_progress_bar_config(disable=True)
        return self._pipe

    def release(self, keep_vae: bool) -> None:
        """Forget the text encoders, and the VAE unless it is kept; take two transformers off the device."""
        if self._pipe is not None:
            held = [n for n in self._pipe.components if n.startswith(("text_encoder", "image_encoder"))]
            self._pipe.register_modules(**dict.fromkeys(held))
            if not keep_vae:
                self._pipe = None
        if len(self.transformers) > 1:
            for transformer in self.transformers.values():
                transformer.to("cpu")
        self._clear()

    def drop(self, name: str) -> None:
        """Forget a transformer that is trained."""
        del self.transformers[name]
        self._clear()

    def _clear(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def load_base(settings: ModelSettings, device: torch.device) -> Base:
    """The base model; its transformer is on ``device``, two of them are on the CPU.

    Raises:
        ValueError: no such model, or one whose transformer is of no family with larger patches.
    """
    dtype = getattr(torch, settings.dtype)
    if settings.path.startswith(EMBEDDED):
        from .. import embedded

        pipe = embedded.load(settings.path.removeprefix(EMBEDDED)).pipeline.to(device)
        if dtype != torch.float32:  # as it comes
            pipe.to(dtype)
        return Base({HIGH: pipe.transformer}, lambda transformers: pipe, device)
    where = {"revision": settings.revision}
    try:
        index = diffusers.DiffusionPipeline.load_config(settings.path, **where)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model.path: {settings.path} is no diffusers model that can be read: {str(error).splitlines()[0]} "
            "Give a folder with a model_index.json, or the name of a model on the hub that this machine can reach or "
            "has in its cache (hf download NAME)"
        ) from error
    classes = {HIGH: _class(settings, index, HIGH)}
    boundary = None
    if has_pair(index):
        classes[LOW] = _class(settings, index, LOW)
        boundary = index.get("boundary_ratio")
        if not isinstance(boundary, float) or not LOWEST < boundary < 1:
            raise ValueError(
                f"model.path: {settings.path} has two transformers, but boundary_ratio of its pipeline, the noise "
                f"level between them, is {boundary!r}; expected a number between {LOWEST} and 1"
            )
    where |= {"variant": settings.variant, "torch_dtype": dtype}
    transformers = {
        name: cls.from_pretrained(settings.path, subfolder=name, **where) for name, cls in classes.items()
    }
    if boundary is None:
        transformers[HIGH].to(device)

    def load(transformers: dict[str, nn.Module]) -> Any:
        return diffusers.DiffusionPipeline.from_pretrained(settings.path, **transformers, **where)

    return Base(transformers, load, device, boundary)


def _class(settings: ModelSettings, index: dict[str, Any], name: str) -> Any:
    library, found = index.get(name) or (None, None)
    cls = getattr(diffusers, found or "", None)
    if library != "diffusers" or cls is None:
        raise ValueError(f"model.path: {settings.path} has no {name} that diffusers knows, got {found}")
    family = class_of(cls)
    if family is None or not issubclass(family, Family):
        raise ValueError(
            f"model.path: expected a model of the families {supported(Family)}; {name} of {settings.path} is a {found}"
        )
    return cls
