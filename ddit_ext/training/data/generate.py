"""The base as its own teacher of data: noisy latents of its runs, caught where they enter the transformer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...families import family_for
from ...families.encoder import Encoder
from ..settings import DataSettings


def is_told(transformer: nn.Module) -> bool:
    """Whether a model is guidance-distilled: it takes its guidance as an argument."""
    return bool(getattr(transformer.config, "guidance_embeds", False))


def guidance_of(transformer: nn.Module, settings: DataSettings) -> float | None:
    """The guidance of the base's own runs; None: the pipeline's default.

    ValueError where a guidance-distilled model would be told another one in training.
    """
    own = settings.generate.guidance_scale
    if not is_told(transformer):
        return own
    if own not in (None, settings.told):
        raise ValueError(
            f"guidance must be what the base's own runs are told, generate.guidance_scale {own}, got {settings.guidance}: "
            "leave one of them out"
        )
    return settings.told


def call_of(encoder: Encoder, settings: DataSettings, steps: int, seed: int) -> dict[str, Any]:
    """Arguments, beside the prompt, of a call of the encoder's pipeline that makes one sample as the data have them."""
    call: dict[str, Any] = {"height": settings.height, "width": settings.width, "num_inference_steps": steps}
    if encoder.FRAMES > 1:  # a model of clips, which would make one of its default length
        call["num_frames"] = settings.frames
    elif settings.frames > 1:
        raise ValueError(f"frames must be 1 for a model of pictures, got {settings.frames}")
    guidance = guidance_of(encoder.pipe.transformer, settings)
    if guidance is not None:
        call[encoder.GUIDANCE] = guidance
    call |= encoder.accepted({"max_sequence_length": settings.max_sequence_length})
    return call | {"generator": torch.Generator().manual_seed(seed)}


@torch.no_grad()
def run_states(encoder: Encoder, prompt: str, settings: DataSettings, seed: int) -> dict[str, Tensor]:
    """Run the encoder's pipeline once and keep ``generate.states`` of its states, one in each of so many equal stretches.

    Returns ``latents`` [n, ...], ``noise_level`` [n] and the text arguments, one row each. A step's first call has
    the prompt; a second one, for guidance, has the same latents.
    """
    generate, pipe = settings.generate, encoder.pipe
    chosen = _stretches(generate.steps, generate.states, seed)
    family = family_for(pipe.transformer)
    states: dict[int, tuple[Tensor, float]] = {}
    text: dict[str, Tensor] = {}

    def watch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        step = pipe.scheduler.step_index or 0  # None before the first
        if step not in chosen or step in states:
            return
        arguments = family.bind(args, kwargs)
        states[step] = (family.state(arguments).cpu(), float(pipe.scheduler.sigmas[step]))
        if not text:
            text.update(encoder.rows({name: arguments.get(name) for name in encoder.PROMPT.values()}))

    held = (pipe.transformer, getattr(pipe, "transformer_2", None))  # Wan 2.2 goes over to the second
    handles = [
        model.register_forward_pre_hook(watch, with_kwargs=True) for model in held if model is not None
    ]
    try:
        pipe(prompt=prompt, output_type="latent", **call_of(encoder, settings, generate.steps, seed))
    finally:
        for handle in handles:
            handle.remove()
    ordered = [states[step] for step in sorted(states)]
    latents = torch.stack([latents for latents, _ in ordered])
    return {"latents": latents, "noise_level": torch.tensor([level for _, level in ordered])} | text


def _stretches(steps: int, count: int, seed: int) -> set[int]:
    """One step in each of ``count`` equal stretches of ``steps``, at random."""
    generator = torch.Generator().manual_seed(seed)
    edges = [steps * index // count for index in range(count + 1)]
    return {
        int(torch.randint(low, high, (), generator=generator))
        for low, high in zip(edges, edges[1:], strict=False)
    }
