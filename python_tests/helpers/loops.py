"""A denoising loop of a user's own over a tiny FLUX pipeline."""

from contextlib import nullcontext

import torch
from flux_pipelines import TEXT


class Loop:
    """A user's own denoising loop around the transformer."""

    def __init__(self, pipe, rows=6, columns=4, batch=1):
        self.pipe = pipe
        generator = torch.Generator().manual_seed(0)
        self.latents = torch.randn(batch, rows * columns, 16, generator=generator)
        self.arguments = dict(
            encoder_hidden_states=torch.randn(batch, TEXT, 32, generator=generator),
            pooled_projections=torch.randn(batch, 32, generator=generator),
            img_ids=torch.cartesian_prod(
                torch.zeros(1), torch.arange(1.0 * rows), torch.arange(1.0 * columns)
            ),
            txt_ids=torch.zeros(TEXT, 3),
            return_dict=False,
        )

    @torch.no_grad()
    def call(self, sigma):
        timestep = torch.full((len(self.latents),), sigma)
        return self.pipe.transformer(hidden_states=self.latents, timestep=timestep, **self.arguments)[0]

    def by_hand(self, sigmas, calls=1, handle=None):
        """Euler steps without any sampler; with a handle it says that they are a run."""
        with nullcontext() if handle is None else handle.run():
            for sigma, following in zip(sigmas, sigmas[1:], strict=False):
                for _ in range(calls):
                    velocity = self.call(sigma)
                self.latents = self.latents + (following - sigma) * velocity
