"""From a file's bytes to pixels of the wanted size."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import islice
from pathlib import PurePath

import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence
from torch import Tensor

from .records import DataError, Record
from .sizes import Size, nearest

VIDEOS = (".mp4", ".webm", ".mov", ".mkv")


def read_pixels(record: Record, sizes: Sequence[Size], frames: int = 1) -> Tensor:
    """The record as float32 [3, frames, height, width] in [-1, 1], of the size nearest in aspect ratio: scaled to cover
    it, cropped at the centre; of a clip, its first frames.

    Raises:
        DataError: bytes that are no picture, a truncated file, a clip that is too short.
        ModuleNotFoundError: a video file without imageio and its ffmpeg plugin.
    """
    data = record.read()
    if PurePath(record.name).suffix.lower() in VIDEOS:
        pictures = _video(data, record, frames)
    else:
        try:
            with Image.open(io.BytesIO(data)) as file:
                sequence = ImageSequence.Iterator(file)
                upright = map(ImageOps.exif_transpose, islice(sequence, frames))
                pictures = [_rgb(frame) for frame in upright]
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            raise DataError(f"no readable picture: {error}") from error
    if len(pictures) < frames:
        raise DataError(f"{len(pictures)} frames, {frames} are needed")
    height, width = nearest(sizes, pictures[0].height, pictures[0].width)
    fitted = [ImageOps.fit(p, (width, height), Image.Resampling.LANCZOS) for p in pictures]
    stacked = torch.from_numpy(np.stack([np.asarray(picture) for picture in fitted]))
    return stacked.permute(3, 0, 1, 2).float() / 127.5 - 1


def _rgb(frame: Image.Image) -> Image.Image:
    if frame.mode.startswith("I;16"):  # PIL would clip these grey levels at 255
        frame = Image.fromarray((np.asarray(frame) >> 8).astype(np.uint8))
    return frame.convert("RGB")


def _video(data: bytes, record: Record, frames: int) -> list[Image.Image]:
    try:
        import imageio.v3 as imageio
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{record.name}: video files need imageio with ffmpeg: pip install "imageio[ffmpeg]"'
        ) from error
    try:
        found = imageio.imiter(data, extension=PurePath(record.name).suffix)
        return [Image.fromarray(frame) for frame in islice(found, frames)]
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"no readable video: {error}") from error
