"""Clips composed at random: one object that drifts, spins, bounces or grows over a background that stands still."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from .scenes import Scene, random_scene, render
from .vocabulary import MOTIONS, describe

FRAMES = 9
"""Two steps of a video autoencoder that takes four frames to one, and the first frame."""

CLIP_SIZE = 96
"""Pixels a side: 12 x 12 tokens a latent frame, behind an autoencoder that takes 4 x 4 pixels to one."""

SIZES = (0.42, 0.62)
"""Sides of an object, as shares of the picture's: large enough for several tokens, with room to move."""

_TIME = np.linspace(0.0, 1.0, FRAMES)


@dataclass(frozen=True)
class Track:
    """An object's way through a clip, one entry a frame, in the units of :class:`Scene`."""

    motion: str
    centres: np.ndarray  # [FRAMES, 2]
    sizes: np.ndarray  # [FRAMES]
    turns: np.ndarray  # [FRAMES]


@dataclass(frozen=True)
class Clip:
    """What a clip shows: the scene's background and object, and the object's way."""

    scene: Scene
    track: Track

    @property
    def prompt(self) -> str:
        scene = self.scene
        return describe(scene.objects, scene.pattern, scene.colour, (self.track.motion,))

    def frame(self, index: int) -> Scene:
        """The picture at one frame."""
        x, y = self.track.centres[index]
        return replace(
            self.scene,
            centres=((float(x), float(y)),),
            sizes=(float(self.track.sizes[index]),),
            turns=(float(self.track.turns[index]),),
        )


def random_clip(rng: np.random.Generator) -> Clip:
    """Draws a clip; its object stays inside the picture."""
    scene = random_scene(rng)
    return Clip(replace(scene, objects=scene.objects[:1]), _track(rng, str(rng.choice(MOTIONS))))


def render_clip(clip: Clip) -> np.ndarray:
    """Draws a clip.

    Returns:
        uint8 ``[9, 96, 96, 3]``, sRGB.
    """
    return np.stack([render(clip.frame(index), CLIP_SIZE) for index in range(FRAMES)])


def clips(count: int, seed: int) -> tuple[np.ndarray, list[Clip]]:
    """Fresh clips.

    Returns:
        uint8 ``[count, 9, 96, 96, 3]`` and the clips that they show.
    """
    rng = np.random.default_rng(seed)
    described = [random_clip(rng) for _ in range(count)]
    drawn = np.array([render_clip(clip) for clip in described], np.uint8)
    return drawn.reshape(count, FRAMES, CLIP_SIZE, CLIP_SIZE, 3), described


def _track(rng: np.random.Generator, motion: str) -> Track:
    """A way inside the picture."""
    size = float(rng.uniform(*SIZES))
    turn = float(rng.uniform(-0.5, 0.5))
    centres = np.broadcast_to(rng.uniform(size / 2, 1 - size / 2, 2), (FRAMES, 2))
    lengths, turns = np.full(FRAMES, size), np.full(FRAMES, turn)
    match motion:
        case "drifting":
            start, end = _far_apart(rng, size / 2)
            centres = start + _TIME[:, None] * (end - start)
        case "spinning":
            turns = turn + _TIME * float(rng.choice([-1, 1]) * rng.uniform(0.75, 1.5)) * math.pi
        case "bouncing":
            # Up from the floor and back, three quarters of an arc of |sin|: it meets the floor once at most.
            ground = 1 - size / 2 - float(rng.uniform(0, 0.1))
            height = float(rng.uniform(0.6, 1.0)) * (ground - size / 2)
            arcs = height * np.abs(np.sin(math.pi * (0.75 * _TIME + float(rng.uniform()))))
            centres = np.stack([centres[:, 0], ground - arcs], axis=1)
        case "growing":
            lengths = size * (1 - (1 - _TIME) * float(rng.uniform(0.4, 0.55)))
        case other:
            raise ValueError(f"motion must be one of {MOTIONS}, got {other!r}")
    return Track(motion, np.array(centres), lengths, turns)


def _far_apart(rng: np.random.Generator, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Two places inside the picture, a quarter of its side or more from each other, by rejection."""
    while True:
        start, end = rng.uniform(margin, 1 - margin, (2, 2))
        if np.linalg.norm(end - start) >= 0.25:
            return start, end
