"""A tiny random pipeline of a flow-matching family of diffusers, from its own classes, built in code without any hub.

Prompt embeddings are passed, so no text encoder is needed; latents come back, so most need no autoencoder. Each has
random weights and a few thousand parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

TEXT = 6  # tokens of a prompt
SIDE = 64  # pixels


@dataclass(frozen=True)
class Family:
    """One pipeline of a family.

    Attributes:
        name: as docs call it.
        pipeline: the class in diffusers.
        model: class and configuration of its transformer.
        arguments: batch size -> what the pipeline is called with, besides steps, generator and output type.
        branches: model calls a step.
        scheduler: configuration of its FlowMatchEulerDiscreteScheduler.
        parts: further parts of the pipeline, made anew for each.
        output: where the latents are in what the pipeline returns.
        batches: whether it takes several prompts.
        bfloat16: whether the pipeline itself runs in it after ``pipe.to``.
        heeds: whether it takes the latents that a callback returns.
        variants: img2img and inpaint pipelines of the family that take the same model and arguments.
        vae: for these.
    """

    name: str
    pipeline: str
    model: tuple[str, dict[str, Any]]
    arguments: Callable[[int], dict[str, Any]]
    branches: int = 1
    scheduler: dict[str, Any] = field(default_factory=dict)
    parts: Callable[[], dict[str, Any]] = dict
    output: str = "images"
    batches: bool = True
    bfloat16: bool = True
    heeds: bool = True
    variants: dict[str, str] = field(default_factory=dict)
    vae: Callable[[], Any] | None = None

    def takes(self, name: str) -> bool:
        """Whether the pipeline's call has an argument of this name."""
        return name in inspect.signature(getattr(diffusers, self.pipeline).__call__).parameters

    def variant(self, kind: str) -> Family:
        """The family's img2img or inpaint pipeline as a family of its own."""
        image = {"image": torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))}
        if kind == "inpaint":
            image["mask_image"] = (torch.arange(SIDE) > SIDE // 2).float().expand(1, 1, SIDE, SIDE)
        made = getattr(diffusers, self.variants[kind])
        known = inspect.signature(made.__call__).parameters

        def arguments(batch: int) -> dict[str, Any]:
            given = {name: value for name, value in self.arguments(batch).items() if name in known}
            return given | {name: torch.cat([value] * batch) for name, value in image.items()}

        return replace(
            self,
            pipeline=self.variants[kind],
            arguments=arguments,
            parts=lambda: {"vae": self.vae()},
            variants={},
        )

    def build(self, dtype: torch.dtype = torch.float32) -> Any:
        """The pipeline, the same at each call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            kind, config = self.model
            transformer = getattr(diffusers, kind)(**config).eval().requires_grad_(False)
            _randomize(transformer)
            parts = {"transformer": transformer, **self.parts()}
        made = getattr(diffusers, self.pipeline)
        wanted = inspect.signature(made.__init__).parameters.values()
        named = {
            each.name: parts.get(each.name)
            for each in wanted
            if each.name != "self" and each.default is each.empty
        }
        named |= parts | {"scheduler": FlowMatchEulerDiscreteScheduler(**self.scheduler)}
        pipe = made(**named)
        if dtype is not torch.float32:
            pipe.to(dtype)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def run(self, pipe: Any, batch: int = 1, steps: int = 8, **further: Any) -> torch.Tensor:
        """The latents of one call."""
        given = _to(self.arguments(batch), pipe.transformer.dtype)
        given |= {"num_inference_steps": steps, "output_type": "latent", **further}
        if "generator" not in further:
            given["generator"] = torch.Generator().manual_seed(3)
        with torch.no_grad():
            return getattr(pipe(**given), self.output)


def _randomize(model: torch.nn.Module) -> None:
    """Weights of which every output depends on every input: none stays zero, as some are made."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)


def _to(given: Any, dtype: torch.dtype) -> Any:
    if isinstance(given, torch.Tensor) and given.is_floating_point():
        return given.to(dtype)
    if isinstance(given, list):
        return [_to(each, dtype) for each in given]
    if isinstance(given, dict):
        return {name: _to(each, dtype) for name, each in given.items()}
    return given


def text(batch: int, *shape: int, seed: int = 1) -> torch.Tensor:
    """Random embeddings; a sample's do not depend on the batch's size."""
    generators = (torch.Generator().manual_seed(seed + 100 * index) for index in range(batch))
    return torch.stack([torch.randn(*shape, generator=generator) for generator in generators])


def mask(batch: int, tokens: int = TEXT, dtype: torch.dtype = torch.long) -> torch.Tensor:
    return torch.ones(batch, tokens, dtype=dtype)


def picture(**further: Any) -> dict[str, Any]:
    return {"height": SIDE, "width": SIDE, **further}


def clip(frames: int = 5, **further: Any) -> dict[str, Any]:
    return picture(num_frames=frames, **further)


def pair(batch: int, *shape: int, name: str = "prompt_embeds") -> dict[str, torch.Tensor]:
    """Embeddings of the prompt and of the negative one."""
    return {name: text(batch, *shape), f"negative_{name}": text(batch, *shape, seed=2)}


def masks(batch: int, name: str, dtype: torch.dtype = torch.long) -> dict[str, torch.Tensor]:
    return {name: mask(batch, dtype=dtype), f"negative_{name}": mask(batch, dtype=dtype)}
