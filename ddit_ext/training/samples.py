"""Pictures of the same prompts and seeds by the base and with the adapter, while it trains."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .._files import replace_file
from ..calibration.pictures import as_uint8, first_frames
from ..families.encoder import Encoder
from ..runtime.patch import patch
from .data.generate import call_of
from .observer import Observer
from .settings import TrainSettings

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .trainer import Trainer


def coarse_first(scales: tuple[int, ...], steps: int) -> list[int]:
    """A schedule that spends equal parts of a run at each size, the coarsest first and the base's own last."""
    sizes = [*sorted(scales, reverse=True), 1]
    return [sizes[step * len(sizes) // steps] for step in range(steps)]


class Samples(Observer):
    """Draws ``sample_prompts`` every ``sample_every`` steps into ``samples/``: a row a prompt, base beside adapter.

    The run's own random generators are not used. Every process draws (a sharded base needs all of them), the main
    one writes.
    """

    def __init__(
        self,
        encoder: Encoder,
        prompts: list[dict[str, Tensor]],
        settings: TrainSettings,
        accelerator: Accelerator,
    ):
        self._encoder = encoder
        self._prompts = prompts
        self._settings = settings
        self._accelerator = accelerator
        self._base: list[np.ndarray] | None = None

    def stepped(self, done: int, trainer: Trainer) -> None:
        output = self._settings.output
        if not output.sample_every or done % output.sample_every:
            return
        if self._base is None:
            self._base = self._draw()
        schedule = coarse_first(self._settings.adapter.scales, output.sample_steps)
        scales = (1, *sorted(self._settings.adapter.scales))
        pipe = self._encoder.pipe
        with trainer.evaluating(), patch(pipe, trainer.adapter, scales=scales, schedule=schedule):
            drawn = self._draw()
        if self._accelerator.is_main_process:
            rows = [np.concatenate(pair, axis=1) for pair in zip(self._base, drawn, strict=True)]
            sheet = np.concatenate(rows, axis=0)
            path = Path(output.folder) / "samples" / f"step-{done:08d}.png"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_file(path, lambda to: Image.fromarray(sheet).save(to, "png"))
            except OSError as error:  # pictures are no reason to end a run
                warnings.warn(f"sample {path} could not be written: {error}", stacklevel=2)
            for tracker in self._accelerator.trackers:
                layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({"base and adapter": sheet[None]}, step=done, **layout)

    @torch.no_grad()
    def _draw(self) -> list[np.ndarray]:
        """uint8 [H, W, 3] for every prompt; of a clip, its middle frame."""
        data, steps = self._settings.data, self._settings.output.sample_steps
        drawn = []
        for number, prompt in enumerate(self._prompts):
            call = prompt | call_of(self._encoder, data, steps, number)
            drawn += first_frames(as_uint8(self._encoder.pipe(**call, output_type="np")))
        return drawn
