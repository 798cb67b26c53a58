"""The embedded FLUX's denoising loop with a size for every call: coarse calls real, training-free or perfect.

A plan names the calls. Between two calls the output is forecast along a line over σ, in closed form: one update a
call. With a call at every step that is the sampler's own Euler run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps
from torch import Tensor

from ddit_ext import embedded
from ddit_ext.coarse import Adapter
from ddit_ext.coarse.noise_match import detail_gain
from ddit_ext.embedded import scenes
from ddit_ext.embedded.pipeline import FLUX_DEFAULTS
from ddit_ext.families import family_for

STEPS = embedded.STEPS
BLIND_DRAWS = 4


@dataclass(frozen=True)
class Plan:
    """Which of the run's steps call the model, and how.

    Attributes:
        calls: step -> scale, ascending from step 0. Steps that are not named are forecast.
        slope: of the line, as a share of the last two outputs' slope.
        corrector: share of the last gap's error that the next call takes back.
        across: whether the slope is also taken between two calls of different scales.
        anchor: a full call before the last coarse one is joined by a coarse one; what it has beyond that is added to
            the coarse calls that follow. None: no. 0: as it is; up to 1: a share of its line over σ as well.
        exact: aim at the ODE's own sample in place of the run of STEPS Euler steps.
    """

    calls: Mapping[int, int]
    slope: float = 0.75
    corrector: float = 1.0
    across: bool = True
    exact: bool = False
    anchor: float | None = None

    @classmethod
    def sizes(cls, sizes: Sequence[int]) -> Plan:
        """One call a step."""
        return cls(dict(enumerate(sizes)))

    def anchors(self) -> dict[int, int]:
        """Full calls that a coarse one joins, with its scale: that of the next coarse call."""
        if self.anchor is None:
            return {}
        coarse = {step: size for step, size in self.calls.items() if size > 1}
        return {
            step: next(size for later, size in coarse.items() if later > step)
            for step, size in self.calls.items()
            if size == 1 and step < max(coarse, default=0)
        }

    def sizes_called(self) -> list[int]:
        """The scale of every call of the transformer, those beside full ones too."""
        return [*self.calls.values(), *self.anchors().values()]


def growing(calls: int, growth: float, start: int = 0, total: int = STEPS) -> list[int]:
    """Steps of ``calls`` calls from ``start`` on, whose gaps grow."""
    places: list[int] = []
    for k in range(calls):
        place = start + round((total - start) * (k / calls) ** growth)
        places.append(max(place, places[-1] + 1 if places else start))
    for k in range(calls - 1, -1, -1):
        places[k] = min(places[k], total - (calls - k))
    return places


class Bench:
    """Prompts and noise at one picture size, and runs on them.

    Attributes:
        sigmas: noise levels of the run, float64 ``[STEPS + 1]``, the last one 0.
        detail: H per scale of real scenes at this size.
    """

    draw = staticmethod(scenes.pictures)
    """count, seed, side -> real ones, uint8, and what they show."""

    def __init__(
        self, model: embedded.Embedded, side: int, prompts: list[str], seed: int, steps: int = STEPS
    ):
        self.model, self.side, self.prompts = model, side, prompts
        self.pipe = model.pipeline
        self.transformer = self.pipe.transformer
        self.family = family_for(self.transformer)
        self.draw_inputs(seed)
        self.sigmas = self.levels(steps)
        self.generator = torch.Generator().manual_seed(seed + 1)
        self.detail = self.details()

    def draw_inputs(self, seed: int) -> None:
        """The noise, and the arguments of the transformer's calls that stay the same."""
        self.rows = self.side // 4  # tokens a side: 2 pixels a latent pixel, 2 latent pixels a token
        text, pooled, text_ids = self.pipe.encode_prompt(
            self.prompts, None, max_sequence_length=FLUX_DEFAULTS["max_sequence_length"]
        )
        shape = (len(self.prompts), self.transformer.config.in_channels // 4, 2 * self.rows, 2 * self.rows)
        self.noise = self.pipe._pack_latents(
            torch.randn(shape, generator=torch.Generator().manual_seed(seed)), *shape
        )
        self.arguments = {
            "encoder_hidden_states": text,
            "pooled_projections": pooled,
            "guidance": torch.full((len(self.prompts),), FLUX_DEFAULTS["guidance_scale"]),
            "txt_ids": text_ids,
            "img_ids": self.pipe._prepare_latent_image_ids(1, self.rows, self.rows, "cpu", torch.float32),
        }

    def levels(self, steps: int) -> np.ndarray:
        """The sampler's noise levels for a run of so many steps."""
        scheduler = self.pipe.scheduler
        config = scheduler.config
        mu = calculate_shift(
            self.rows**2,
            config.base_image_seq_len,
            config.max_image_seq_len,
            config.base_shift,
            config.max_shift,
        )
        retrieve_timesteps(scheduler, steps, "cpu", sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        return scheduler.sigmas.double().numpy().copy()

    @torch.no_grad()
    def velocity(
        self, latents: Tensor, sigma: float, scale: int = 1, source: Adapter | str = "oracle"
    ) -> Tensor:
        """Packed velocity; ``source`` of a coarse one: an adapter, "oracle", or "blind" (see below)."""
        if scale == 1 or isinstance(source, str):
            full = self.joined([self.transformer(**call)[0] for call in self.calls(latents, sigma)])
            if source == "blind" and scale > 1:
                full = self.blind(latents, full, sigma, scale)
            return full if scale == 1 else self.oracle(latents, full, sigma, scale)
        level, outputs = torch.full((len(latents),), sigma), []
        for call in self.calls(latents, sigma):
            with self.family.coarse(call, source.weights(scale, latents), level) as coarse:
                outputs.append(self.transformer(**coarse)[0])
        return self.joined(outputs)

    def calls(self, latents: Tensor, sigma: float) -> list[dict[str, Any]]:
        """The arguments of the transformer's calls that make one velocity."""
        level = torch.full((len(latents),), sigma)
        return [self.arguments | {"hidden_states": latents, "timestep": level, "return_dict": False}]

    def joined(self, outputs: list[Tensor]) -> Tensor:
        """The velocity of the calls' outputs."""
        return outputs[0]

    def guide(self, guidance: float) -> None:
        """Another guidance than the pipeline's own from now on."""
        self.arguments["guidance"] = torch.full((len(self.prompts),), guidance)

    def oracle(self, latents: Tensor, full: Tensor, sigma: float, scale: int) -> Tensor:
        """The base's velocity ``full`` with its low band kept and its detail replaced by the analytic residual."""
        gain = detail_gain(torch.tensor([sigma]), self.detail[scale]).item()
        noisy, wanted = self.unpack(latents), self.unpack(full)
        return self.pack(spread(wanted, scale) + gain * (noisy - spread(noisy, scale)))

    @torch.no_grad()
    def blind(
        self, latents: Tensor, full: Tensor, sigma: float, scale: int, draws: int = BLIND_DRAWS
    ) -> Tensor:
        """The base's velocity, averaged over noise inside the coarse patches: what can be known from the low band alone.

        The noise of ``latents``, as ``full`` tells it, keeps its low band and gets other detail, ``draws`` times.
        """
        noisy, velocity = self.unpack(latents), self.unpack(full)
        clean, noise = noisy - sigma * velocity, noisy + (1 - sigma) * velocity
        total = torch.zeros_like(full)
        for _ in range(draws):
            fresh = torch.randn(noise.shape, generator=self.generator)
            fresh = spread(noise, scale) + fresh - spread(fresh, scale)
            other = self.pack((1 - sigma) * clean + sigma * fresh)
            total += self.velocity(other, sigma)
        return total / draws

    def unpack(self, tokens: Tensor) -> Tensor:
        """``[B, N, 4 C]`` -> ``[B, C, H, W]``."""
        cells = tokens.unflatten(1, (self.rows, self.rows)).unflatten(-1, (-1, 2, 2))
        return cells.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    def pack(self, latents: Tensor) -> Tensor:
        return self.pipe._pack_latents(latents, *latents.shape)

    def run(self, plan: Plan, source: Adapter | str = "oracle", sigmas: np.ndarray | None = None) -> Tensor:
        """Packed latents at the end of a run."""
        levels = self.sigmas if sigmas is None else sigmas
        places = [*plan.calls, len(levels) - 1]
        latents = self.noise.clone()
        anchors, beyond = plan.anchors(), []  # (noise level, what the full call has beyond the coarse one)
        before = None  # output, noise level, slope, first moment and scale of the last call
        for step, after in zip(places, places[1:], strict=False):
            scale, sigma, end = plan.calls[step], levels[step], levels[after]
            output = self.velocity(latents, float(sigma), scale, source)
            if step in anchors:
                coarse = self.velocity(latents, float(sigma), anchors[step], source)
                beyond = [*beyond[-1:], (sigma, output - coarse)]
            elif scale > 1 and beyond:
                output = output + beyond[-1][1]
                if len(beyond) > 1:
                    (first, one), (last, other) = beyond
                    output = output + plan.anchor * float((sigma - last) / (last - first)) * (other - one)
            widths = np.diff(levels[step : after + 1])
            moment = float((widths * (levels[step:after] - sigma)).sum())
            if plan.exact:
                moment = float((end - sigma) ** 2 / 2)
            slope = None
            if before is not None:
                last_output, last_sigma, last_slope, last_moment, last_scale = before
                if plan.across or scale == last_scale:
                    slope = (output - last_output) / (sigma - last_sigma)
                    missed = slope if last_slope is None else slope - plan.slope * last_slope
                    latents = latents + plan.corrector * last_moment * missed
            latents = latents + float(end - sigma) * output
            if slope is not None:
                latents = latents + plan.slope * moment * slope
            before = (output, sigma, slope, moment, scale)
        return latents

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> np.ndarray:
        """uint8 ``[n, side, side, 3]``."""
        config = self.pipe.vae.config
        planes = self.unpack(latents) / config.scaling_factor + config.shift_factor
        signal = torch.cat([self.pipe.vae.decode(part).sample for part in planes.split(8)]).clamp(-1, 1)
        return ((signal + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).numpy()

    @torch.no_grad()
    def clean(self, pictures: np.ndarray) -> Tensor:
        """Latents of pictures, as :meth:`unpack` has them."""
        config = self.pipe.vae.config
        mode = self.pipe.vae.encode(signal_of(pictures)).latent_dist.mode()
        return (mode - config.shift_factor) * config.scaling_factor

    def details(self, count: int = 32, seed: int = 5) -> dict[int, float]:
        """H of real ones, per scale: variance per high-band coefficient of their latents."""
        latents = self.clean(self.draw(count, seed, self.side)[0])
        above = {scale: (latents - spread(latents, scale)).square().mean() for scale in (2, 4)}
        return {scale: (energy / (1 - 1 / scale**2)).item() for scale, energy in above.items()}

    def found(self, pictures: np.ndarray) -> float:
        """The share of what the prompts ask for that pictures show."""
        return float(embedded.load("flux").judge(halved(pictures), self.prompts).found.mean())


def signal_of(pictures: np.ndarray) -> Tensor:
    """uint8 ``[n, ..., 3]`` -> ``[n, 3, ...]`` in [-1, 1]."""
    return torch.from_numpy(pictures).movedim(-1, 1).float() / 127.5 - 1


def spread(latents: Tensor, scale: int) -> Tensor:
    """The means over scale x scale pixels, at every pixel."""
    means = torch.nn.functional.avg_pool2d(latents, scale)
    return means.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def halved(pictures: np.ndarray) -> np.ndarray:
    """Pictures as the classifier takes them, ``[n, 64, 64, 3]``: larger ones averaged."""
    count, side = pictures.shape[:2]
    factor = side // scenes.PICTURE_SIZE
    blocks = pictures.reshape(count, scenes.PICTURE_SIZE, factor, scenes.PICTURE_SIZE, factor, 3)
    return blocks.mean((2, 4)).round().astype(np.uint8)
