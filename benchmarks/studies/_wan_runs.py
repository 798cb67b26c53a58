"""The embedded Wan's denoising loop with a size for every step, as _coarse_runs.py has FLUX's; and which model has which."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from _coarse_runs import Bench, Plan, signal_of
from _runs import batches, decode
from torch import Tensor

from ddit_ext.coarse import Adapter
from ddit_ext.embedded import clips
from ddit_ext.embedded.pipeline import WAN_DEFAULTS


class WanBench(Bench):
    """Clips: latents ``[B, C, F, H, W]``, two calls a velocity, and the pipeline's own UniPC.

    A plan names every step.
    """

    draw = staticmethod(lambda count, seed, side: clips.clips(count, seed))

    def draw_inputs(self, seed: int) -> None:
        inputs = batches(self.pipe, self.prompts, len(self.prompts), seed)[0].inputs
        self.noise = inputs["latents"]
        self.texts = [inputs["prompt_embeds"], inputs["negative_prompt_embeds"]]
        self.guidance = WAN_DEFAULTS["guidance_scale"]

    def sampler(self, steps: int) -> Any:
        """The pipeline's own, at the start of a run."""
        own = self.pipe.scheduler
        made = type(own).from_config(own.config)
        made.set_timesteps(steps)
        return made

    def levels(self, steps: int) -> np.ndarray:
        return self.sampler(steps).sigmas.double().numpy().copy()

    def calls(self, latents: Tensor, sigma: float) -> list[dict[str, Any]]:
        timestep = torch.full((len(latents),), int(1000 * sigma))  # whole numbers, as its sampler has them
        call = {"hidden_states": latents, "timestep": timestep, "return_dict": False}
        guided = self.texts if self.guidance > 1 else self.texts[:1]
        return [call | {"encoder_hidden_states": text} for text in guided]

    def joined(self, outputs: list[Tensor]) -> Tensor:
        if len(outputs) == 1:
            return outputs[0]
        asked, empty = outputs
        return empty + self.guidance * (asked - empty)

    def guide(self, guidance: float) -> None:
        self.guidance = guidance

    def unpack(self, tokens: Tensor) -> Tensor:
        """A channel a frame: ``[B, C, F, H, W]`` -> ``[B, C F, H, W]``."""
        return tokens.flatten(1, 2)

    def pack(self, latents: Tensor) -> Tensor:
        return latents.unflatten(1, self.noise.shape[1:3])

    def run(self, plan: Plan, source: Adapter | str = "oracle", sigmas: np.ndarray | None = None) -> Tensor:
        levels = self.sigmas if sigmas is None else sigmas
        if len(plan.calls) != len(levels) - 1:
            raise ValueError(
                f"plan must call at each of {len(levels) - 1} steps, got {len(plan.calls)} calls"
            )
        sampler, latents = self.sampler(len(levels) - 1), self.noise
        for step, scale in plan.calls.items():
            output = self.velocity(latents, float(levels[step]), scale, source)
            latents = sampler.step(output, sampler.timesteps[step], latents, return_dict=False)[0]
        return latents

    def pictures(self, latents: Tensor) -> np.ndarray:
        """uint8 ``[n, F, side, side, 3]``."""
        return decode(self.pipe, latents)

    @torch.no_grad()
    def clean(self, pictures: np.ndarray) -> Tensor:
        config = self.pipe.vae.config
        mean, deviation = (
            torch.tensor(row)[:, None, None, None] for row in (config.latents_mean, config.latents_std)
        )
        mode = self.pipe.vae.encode(signal_of(pictures)).latent_dist.mode()
        return self.unpack((mode - mean) / deviation)

    def found(self, pictures: np.ndarray) -> float:
        return float(self.model.judge(pictures, self.prompts).found.mean())


BENCHES: dict[str, type[Bench]] = {"flux": Bench, "flux-128": Bench, "wan": WanBench}
SIDES = {"flux": 64, "flux-128": 128, "wan": clips.CLIP_SIZE}
"""Pixels a side, unless --side says otherwise."""
