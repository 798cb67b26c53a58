"""The small trained models that ship with ddit_ext: real pipelines for tests, demos and studies, without any download.

They were trained on scenes composed from emoji (``scenes.py``) by the scripts in ``embedded_training/``.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from . import scenes

STEPS = 28
"""Where prompt accuracy no longer grows with steps: what "fixed p" means in the figures (benchmarks/embedded_base.py)."""

_STATISTICS_COUNT, _STATISTICS_SEED = 1024, 2_000_000  # the real scenes that Fréchet distances are taken to


@dataclass(frozen=True)
class Judgement:
    """The classifier's view of n pictures.

    Attributes:
        found: share of each prompt that its picture shows, float64 ``[n]``.
        features: float64 ``[n, 64]``.
    """

    found: np.ndarray
    features: np.ndarray


@dataclass(frozen=True)
class Embedded:
    """A trained pipeline with its adapter and the means to judge its pictures.

    Attributes:
        pipeline: a diffusers pipeline, float32, on the CPU.
        adapter: the folder of its adapter, for ``ddit_ext.patch(pipeline, adapter)``.
    """

    pipeline: Any
    adapter: Path
    _folder: Path

    def reference(self, n: int, seed: int) -> tuple[np.ndarray, list[str]]:
        """Fresh real scenes: uint8 ``[n, 64, 64, 3]`` and their prompts."""
        if n < 0:
            raise ValueError(f"n must be at least 0, got {n}")
        drawn, described = scenes.pictures(n, seed)
        return drawn, [scene.prompt for scene in described]

    def score(self, pictures: Any, prompts: list[str]) -> dict[str, float]:
        """How well pictures show what their prompts ask for.

        Args:
            pictures: uint8 ``[n, 64, 64, 3]``, or a list of PIL images of that size.
            prompts: n prompts in the grammar of the embedded model.

        Returns:
            ``accuracy``: share of the prompted objects and backgrounds that the classifier finds, in [0, 1];
            ``frechet``: Fréchet distance to real scenes in the classifier's features (nan for fewer than two pictures;
            biased upwards for few pictures, so compare equal n only).
        """
        from .classifier import frechet_distance

        judged = self.judge(pictures, prompts)
        if not len(prompts):
            raise ValueError("pictures must hold at least one picture, got none")
        distance = (
            frechet_distance(judged.features, self.real_features()) if len(prompts) > 1 else float("nan")
        )
        return {"accuracy": float(judged.found.mean()), "frechet": distance}

    def judge(self, pictures: Any, prompts: list[str]) -> Judgement:
        """What :meth:`score` averages, picture by picture."""
        from .classifier import found

        array = _as_pictures(pictures)
        if len(array) != len(prompts):
            raise ValueError(
                f"prompts must name one prompt a picture: {len(array)} pictures, {len(prompts)} prompts"
            )
        verdict = _classifier(self._folder / "classifier.safetensors").look(array)
        return Judgement(found(verdict, prompts), verdict.features)

    def real_features(self) -> np.ndarray:
        """Features of the 1024 real scenes that Fréchet distances are taken to: float64 ``[1024, 64]``."""
        return _real_features(self._folder / "classifier.safetensors")


def load(name: str = "flux") -> Embedded:
    """Loads an embedded model.

    Args:
        name: ``"flux"``.

    Raises:
        ValueError: there is no embedded model of that name.
        FileNotFoundError: its weights are not in this installation.
    """
    if name != "flux":
        raise ValueError(f"name must be 'flux', got {name!r}")
    folder = Path(str(resources.files(__package__).joinpath("flux")))
    if not (folder / "model_index.json").exists():
        raise FileNotFoundError(
            f"the weights of the embedded model are not in this installation: {folder} is missing"
        )
    from .pipeline import EmbeddedFluxPipeline

    pipeline = EmbeddedFluxPipeline.from_pretrained(folder)
    pipeline.transformer.float()  # stored in bfloat16
    pipeline.set_progress_bar_config(disable=True)
    return Embedded(pipeline, folder / "adapter", folder)


def _as_pictures(pictures: Any) -> np.ndarray:
    if not isinstance(pictures, np.ndarray):
        pictures = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    side = scenes.PICTURE_SIZE
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1:] != (side, side, 3):
        raise ValueError(
            f"pictures must be uint8 of shape [n, {side}, {side}, 3], got {pictures.dtype} of {list(pictures.shape)}"
        )
    return pictures


@functools.cache
def _classifier(file: Path):
    from .classifier import SceneClassifier

    return SceneClassifier.load(file)


@functools.cache
def _real_features(file: Path) -> np.ndarray:
    drawn, _ = scenes.pictures(_STATISTICS_COUNT, _STATISTICS_SEED)
    return _classifier(file).look(drawn).features
