"""Scenes composed at random: one or two glyphs of random place, size and turn over a coloured background."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .vocabulary import COLOUR_NAMES, COLOURS, GLYPH_SIZE, OBJECT_NAMES, PATTERN_NAMES, describe
from .weights import root

PICTURE_SIZE = 64
_SUPERSAMPLING = 2  # drawn this much larger, then averaged down, so that edges are smooth


@dataclass(frozen=True)
class Scene:
    """What a picture shows. Lengths are fractions of the picture's side, angles are in radians."""

    objects: tuple[str, ...]
    centres: tuple[tuple[float, float], ...]
    sizes: tuple[float, ...]
    turns: tuple[float, ...]
    pattern: str
    colour: str
    pattern_period: float
    pattern_angle: float
    pattern_phase: tuple[float, float]

    @property
    def prompt(self) -> str:
        return describe(self.objects, self.pattern, self.colour)


def random_scene(rng: np.random.Generator) -> Scene:
    """Draws a scene; two objects never lie on top of each other."""
    count = int(rng.integers(1, 3))
    objects = tuple(OBJECT_NAMES[i] for i in rng.choice(len(OBJECT_NAMES), size=count, replace=False))
    if count == 1:
        sizes = (float(rng.uniform(0.45, 0.85)),)
        margin = sizes[0] / 2
        centres = ((float(rng.uniform(margin, 1 - margin)), float(rng.uniform(margin, 1 - margin))),)
    else:
        sizes = tuple(float(size) for size in rng.uniform(0.38, 0.5, size=2))
        centres = _apart(rng, sizes)
    return Scene(
        objects=objects,
        centres=centres,
        sizes=sizes,
        turns=tuple(float(turn) for turn in rng.uniform(-0.5, 0.5, size=count)),
        pattern=str(rng.choice(PATTERN_NAMES)),
        colour=str(rng.choice(COLOUR_NAMES)),
        pattern_period=float(rng.uniform(0.16, 0.3)),
        pattern_angle=float(rng.choice([0.0, 0.25, 0.5, 0.75]) * math.pi),
        pattern_phase=(float(rng.uniform()), float(rng.uniform())),
    )


def _apart(rng: np.random.Generator, sizes: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
    """Two centres whose squares touch at most at their edges, by rejection (a few tries on average)."""
    while True:
        centres = tuple(
            (float(rng.uniform(size / 2, 1 - size / 2)), float(rng.uniform(size / 2, 1 - size / 2)))
            for size in sizes
        )
        gap = max(abs(centres[0][axis] - centres[1][axis]) for axis in (0, 1))
        if gap >= 0.92 * (sizes[0] + sizes[1]) / 2:
            return centres


def render(scene: Scene, side: int = PICTURE_SIZE) -> np.ndarray:
    """Draws a scene, ``side`` pixels high and wide.

    Returns:
        uint8 ``[side, side, 3]``, sRGB.
    """
    canvas = Image.fromarray(_background(scene, side * _SUPERSAMPLING))
    for name, centre, size, turn in zip(scene.objects, scene.centres, scene.sizes, scene.turns, strict=True):
        glyph = _placed(name, centre, size, turn, canvas.width)
        canvas.paste(glyph, (0, 0), glyph)
    return np.asarray(canvas.reduce(_SUPERSAMPLING))


def pictures(count: int, seed: int, side: int = PICTURE_SIZE) -> tuple[np.ndarray, list[Scene]]:
    """Fresh scenes.

    Returns:
        uint8 ``[count, side, side, 3]`` and the scenes that they show.
    """
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng) for _ in range(count)]
    drawn = np.array([render(scene, side) for scene in scenes], np.uint8)
    return drawn.reshape(count, side, side, 3), scenes


@functools.cache
def _glyphs() -> dict[str, Image.Image]:
    sprite = Image.open(root() / "assets" / "glyphs.png").convert("RGBA")
    width, height = GLYPH_SIZE
    columns = {
        name: sprite.crop((i * width, 0, (i + 1) * width, height)) for i, name in enumerate(OBJECT_NAMES)
    }
    # Cropped to their ink, so that "size" means the size one sees.
    return {name: glyph.crop(glyph.getbbox()) for name, glyph in columns.items()}


def _placed(name: str, centre: tuple[float, float], size: float, turn: float, canvas: int) -> Image.Image:
    """The glyph on a transparent square of ``canvas`` pixels."""
    glyph = _glyphs()[name]
    scale = max(glyph.size) / (size * canvas)  # glyph pixels per canvas pixel
    cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
    x, y = centre[0] * canvas, centre[1] * canvas
    # PIL wants the map from canvas to glyph coordinates.
    matrix = (
        cos, sin, glyph.width / 2 - cos * x - sin * y,
        -sin, cos, glyph.height / 2 + sin * x - cos * y,
    )  # fmt: skip
    return glyph.transform((canvas, canvas), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)


@functools.cache
def _axes(canvas: int) -> tuple[np.ndarray, np.ndarray]:
    axis, shape = (np.arange(canvas, dtype=np.float32) + 0.5) / canvas, (canvas, canvas)
    return np.broadcast_to(axis[None, :], shape), np.broadcast_to(axis[:, None], shape)


def _background(scene: Scene, canvas: int) -> np.ndarray:
    colour = np.array(COLOURS[scene.colour], np.float32)
    pale = colour + (255 - colour) * 0.62
    x, y = _axes(canvas)
    cos, sin = math.cos(scene.pattern_angle), math.sin(scene.pattern_angle)
    u = (cos * x + sin * y) / scene.pattern_period + scene.pattern_phase[0]
    v = (-sin * x + cos * y) / scene.pattern_period + scene.pattern_phase[1]
    match scene.pattern:
        case "plain":
            mix = np.zeros_like(x)
        case "stripes":
            mix = np.floor(2 * u) % 2
        case "checks":
            mix = (np.floor(2 * u) + np.floor(2 * v)) % 2
        case "dots":
            mix = ((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.09).astype(np.float32)
        case "gradient":
            ramp = cos * (x - 0.5) + sin * (y - 0.5)
            mix = (ramp - ramp.min()) / (ramp.max() - ramp.min())
        case other:
            raise ValueError(f"pattern must be one of {PATTERN_NAMES}, got {other!r}")
    return np.uint8(np.rint(colour + (pale - colour) * mix[..., None]))
