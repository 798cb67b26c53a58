"""Draws the clips that an embedded Wan is trained on, and a sheet to look at them.

    python -m embedded_training.draw_clips --chunks 64 --sheet clips.png

9 frames of 96x96 pixels, 64 clips a chunk (16 MB), under --out as one uint8 array and a JSON list of prompts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from .data import draw_clips, load_or_draw


def sheet(drawn: np.ndarray) -> Image.Image:
    """One row a clip, one column a frame: uint8 ``[n, F, H, W, 3]`` side by side."""
    count, frames, height, width, _ = drawn.shape
    return Image.fromarray(drawn.transpose(0, 2, 1, 3, 4).reshape(count * height, frames * width, 3))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/embedded/clips"))
    parser.add_argument("--chunks", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sheet", type=Path, default=None, help="a picture of the first clips")
    parser.add_argument("--rows", type=int, default=16, help="of the sheet")
    arguments = parser.parse_args()
    drawn, prompts = load_or_draw(arguments.out, arguments.chunks, arguments.workers, draw_clips)
    print(f"{len(prompts)} clips of {drawn.shape[1]} frames in {arguments.out}")
    if arguments.sheet:
        sheet(np.asarray(drawn[: arguments.rows])).save(arguments.sheet)
        for prompt in prompts[: arguments.rows]:
            print(prompt)


if __name__ == "__main__":
    main()
