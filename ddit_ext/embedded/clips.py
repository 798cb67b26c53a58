"""Clips composed at random: scenes whose objects drift, spin, bounce or grow over a background that stands still."""

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

ONE, TWO = (0.34, 0.5), (0.26, 0.36)
"""Sizes of a lone object and of each of two: there must be room to move."""

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
    """What a clip shows: the scene's background and objects, and each object's way."""

    scene: Scene
    tracks: tuple[Track, ...]

    @property
    def motions(self) -> tuple[str, ...]:
        return tuple(track.motion for track in self.tracks)

    @property
    def prompt(self) -> str:
        return describe(self.scene.objects, self.scene.pattern, self.scene.colour, self.motions)

    def frame(self, index: int) -> Scene:
        """The picture at one frame."""
        return replace(
            self.scene,
            centres=tuple((float(t.centres[index, 0]), float(t.centres[index, 1])) for t in self.tracks),
            sizes=tuple(float(track.sizes[index]) for track in self.tracks),
            turns=tuple(float(track.turns[index]) for track in self.tracks),
        )


def random_clip(rng: np.random.Generator) -> Clip:
    """Draws a clip; its objects stay inside the picture and never lie on top of each other."""
    scene = random_scene(rng)
    range_of_sizes = ONE if len(scene.objects) == 1 else TWO
    while True:  # by rejection: a few tries on average
        tracks = tuple(_track(rng, str(rng.choice(MOTIONS)), range_of_sizes) for _ in scene.objects)
        if len(tracks) == 1 or _apart(*tracks):
            return Clip(scene, tracks)


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
    shape = (count, FRAMES, CLIP_SIZE, CLIP_SIZE, 3)
    drawn = np.empty(shape, np.uint8)
    for index, clip in enumerate(described):
        drawn[index] = render_clip(clip)
    return drawn, described


def _track(rng: np.random.Generator, motion: str, sizes: tuple[float, float]) -> Track:
    """A way of one object, inside the picture."""
    size = float(rng.uniform(*sizes))
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


def _apart(first: Track, second: Track) -> bool:
    """Whether two objects' squares touch at most at their edges, in every frame."""
    gaps = np.abs(first.centres - second.centres).max(axis=1)
    return bool((gaps >= 0.92 * (first.sizes + second.sizes) / 2).all())
