"""Small trained models: real pipelines for tests, demos and studies, without any download.

They were trained on scenes and clips composed from emoji (``scenes.py``, ``clips.py``) by the scripts in
``embedded_training/``. Their weights are a distribution of their own: ``pip install ./embedded`` in a checkout.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._quiet import quiet_libraries
from . import clips, scenes
from .weights import folder

STEPS = 28
"""Where prompt accuracy no longer grows with steps: what "scale 1" means in the figures (benchmarks/studies/embedded_base.py)."""

LARGE_SIDE = 128
"""Pixels along a side of what "flux-128" makes: 1024 image tokens, as many as FLUX has at 512x512."""

_STATISTICS_SEED = 2_000_000  # of the real ones that Fréchet distances are taken to


@dataclass(frozen=True)
class Judgement:
    """The classifier's view of n pictures or clips, those of a clip's frames averaged.

    Attributes:
        found: share of each prompt that its picture shows, float64 ``[n]``.
        features: float64 ``[n, 64]``.
    """

    found: np.ndarray
    features: np.ndarray


@dataclass(frozen=True)
class _Kind:
    """What an embedded model makes: the shape of one, and how real ones are drawn."""

    shape: tuple[int, ...]
    draw: Callable[[int, int], tuple[np.ndarray, list[Any]]]  # count, seed -> [count, *shape], what they show
    statistics: int  # of the real ones that Fréchet distances are taken to
    others: str | None = None  # the model that has all parts but the transformer and its adapter


_SCENE, _CLIP = (scenes.PICTURE_SIZE,) * 2 + (3,), (clips.FRAMES, *(clips.CLIP_SIZE,) * 2, 3)
_LARGE = (LARGE_SIDE, LARGE_SIDE, 3)
_KINDS = {
    "flux": _Kind(_SCENE, scenes.pictures, 1024),
    "flux-128": _Kind(_LARGE, functools.partial(scenes.pictures, side=LARGE_SIDE), 1024, others="flux"),
    "wan": _Kind(_CLIP, clips.clips, 256),
}


@dataclass(frozen=True)
class Embedded:
    """A trained pipeline with its adapter and the means to judge its pictures or clips.

    Attributes:
        pipeline: a diffusers pipeline, float32, on the CPU.
        adapter: the folder of its adapter, for ``ddit_ext.patch(pipeline, adapter)``.
    """

    pipeline: Any
    adapter: Path
    _folder: Path

    def reference(self, n: int, seed: int) -> tuple[np.ndarray, list[str]]:
        """Fresh real ones, and their prompts: uint8 ``[n, 64, 64, 3]``, of "flux-128" ``[n, 128, 128, 3]``, of "wan"
        ``[n, 9, 96, 96, 3]``.
        """
        if n < 0:
            raise ValueError(f"n must be at least 0, got {n}")
        drawn, described = self._kind.draw(n, seed)
        return drawn, [shown.prompt for shown in described]

    def score(self, pictures: Any, prompts: list[str]) -> dict[str, float]:
        """How well pictures show what their prompts ask for.

        Args:
            pictures: uint8 as :meth:`reference` gives them, or a list of PIL images of that size.
            prompts: n prompts in the grammar of the embedded model.

        Returns:
            ``accuracy``: share of the prompted objects and backgrounds that the classifier finds, in [0, 1];
            ``frechet``: Fréchet distance to real scenes in the classifier's features (nan for fewer than two pictures;
            biased upwards for few pictures, so compare equal n only).
        """
        from .classifier import frechet_distance

        judged = self.judge(pictures, prompts)
        distance = (
            frechet_distance(judged.features, self.real_features()) if len(prompts) > 1 else float("nan")
        )
        return {"accuracy": float(judged.found.mean()), "frechet": distance}

    def judge(self, pictures: Any, prompts: list[str]) -> Judgement:
        """What :meth:`score` averages, picture by picture."""
        from .classifier import found

        if not len(pictures):
            raise ValueError("pictures must hold at least one picture, got none")
        array = _as_uint8(pictures, self._kind.shape)
        if len(array) != len(prompts):
            raise ValueError(
                f"prompts must name one prompt a picture: {len(array)} pictures, {len(prompts)} prompts"
            )
        looked = _look(_parts(self._folder.name) / "classifier.safetensors", array)
        frames = len(looked.objects) // len(array)
        asked = [prompt for prompt in prompts for _ in range(frames)]
        shares = found(looked, asked).reshape(len(array), -1).mean(axis=1)
        return Judgement(shares, looked.features.reshape(len(array), frames, -1).mean(axis=1))

    def real_features(self) -> np.ndarray:
        """Features of the real ones that Fréchet distances are taken to: float64 ``[n, 64]``."""
        return _real_features(self._folder)

    @property
    def _kind(self) -> _Kind:
        return _KINDS[self._folder.name]


@quiet_libraries()
def load(name: str = "flux") -> Embedded:
    """Loads an embedded model.

    Args:
        name: ``"flux"`` (pictures of 64 px), ``"flux-128"`` (of 128 px; rougher, for studies of larger patches) or
            ``"wan"`` (clips).

    Raises:
        ValueError: there is no embedded model of that name.
        FileNotFoundError: its weights are not installed; the message names the command.
    """
    if name not in _KINDS:
        raise ValueError(f"name must be one of {sorted(_KINDS)}, got {name!r}")
    files = folder(name)
    from .pipeline import EmbeddedFluxPipeline, load_large_flux, load_wan

    if name == "flux":
        pipeline = EmbeddedFluxPipeline.from_pretrained(files)
    else:
        pipeline = load_wan(files) if name == "wan" else load_large_flux(files, _parts(name))
    pipeline.transformer.float()  # stored in bfloat16
    pipeline.set_progress_bar_config(disable=True)
    return Embedded(pipeline, files / "adapter", files)


def _parts(name: str) -> Path:
    """The folder with a model's parts apart from the transformer and its adapter, and with its classifier."""
    return folder(_KINDS[name].others or name)


def _as_uint8(pictures: Any, shape: tuple[int, ...]) -> np.ndarray:
    if not isinstance(pictures, np.ndarray):
        pictures = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    if pictures.dtype != np.uint8 or pictures.shape[1:] != shape:
        raise ValueError(
            f"pictures must be uint8 of shape [n, {', '.join(map(str, shape))}], "
            f"got {pictures.dtype} of {list(pictures.shape)}"
        )
    return pictures


@functools.cache
def _classifier(file: Path):
    from .classifier import SceneClassifier

    return SceneClassifier.load(file)


def _look(file: Path, array: np.ndarray):
    """The classifier's verdict on each picture, or on each frame of each clip; larger pictures are halved for it."""
    if array.shape[-2] == LARGE_SIDE:
        blocks = array.reshape(len(array), LARGE_SIDE // 2, 2, LARGE_SIDE // 2, 2, 3)
        array = blocks.mean((2, 4)).round().astype(np.uint8)
    return _classifier(file).look(array.reshape(-1, *array.shape[-3:]))


@functools.cache
def _real_features(folder: Path) -> np.ndarray:
    kind = _KINDS[folder.name]
    drawn, _ = kind.draw(kind.statistics, _STATISTICS_SEED)
    features = _look(_parts(folder.name) / "classifier.safetensors", drawn).features
    return features.reshape(kind.statistics, -1, features.shape[-1]).mean(axis=1)
