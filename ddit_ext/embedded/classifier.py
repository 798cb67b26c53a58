"""A small convolutional classifier of scenes: which objects, which pattern and which colour a picture shows.

It scores prompts (is what was asked for in the picture?) and gives the features in which Fréchet distances are taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from .vocabulary import COLOUR_NAMES, OBJECT_NAMES, PATTERN_NAMES, parse

FEATURES = 64


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)
        self.norm = nn.GroupNorm(8, outputs)
        self.refine = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.reduce(x)
        return x + self.refine(nn.functional.silu(self.norm(x)))


@dataclass(frozen=True)
class Verdict:
    """What the classifier sees in n pictures."""

    objects: np.ndarray  # bool [n, objects]
    pattern: np.ndarray  # int [n]
    colour: np.ndarray  # int [n]
    features: np.ndarray  # float64 [n, FEATURES]


class SceneClassifier(nn.Module):
    """Pictures ``[n, 3, H, W]`` in [-1, 1] -> features ``[n, 64]`` and logits for objects, patterns, colours."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(_Block(3, 24), _Block(24, 48), _Block(48, 96), _Block(96, 128))
        self.features = nn.Linear(256, FEATURES)
        self.objects = nn.Linear(FEATURES, len(OBJECT_NAMES))
        self.pattern = nn.Linear(FEATURES, len(PATTERN_NAMES))
        self.colour = nn.Linear(FEATURES, len(COLOUR_NAMES))

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = self.blocks(pictures)
        pooled = torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)
        features = self.features(nn.functional.silu(pooled))
        active = nn.functional.silu(features)
        return {
            "features": features,
            "objects": self.objects(active),
            "pattern": self.pattern(active),
            "colour": self.colour(active),
        }

    @torch.no_grad()
    def look(self, pictures: np.ndarray, batch: int = 128) -> Verdict:
        """Classifies uint8 pictures ``[n, H, W, 3]`` of the size that it was trained on."""
        parts = []
        for start in range(0, len(pictures), batch):
            signal = torch.tensor(pictures[start : start + batch])
            parts.append(self(signal.permute(0, 3, 1, 2).float() / 127.5 - 1))
        whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return Verdict(
            objects=(whole["objects"] > 0).numpy(),
            pattern=whole["pattern"].argmax(1).numpy(),
            colour=whole["colour"].argmax(1).numpy(),
            features=whole["features"].double().numpy(),
        )

    def save(self, file: Path) -> None:
        save_file(self.state_dict(), file)

    @classmethod
    def load(cls, file: Path) -> SceneClassifier:
        model = cls()
        model.load_state_dict(load_file(file))
        return model.requires_grad_(False).eval()


def found(verdict: Verdict, prompts: list[str]) -> np.ndarray:
    """What share of each prompt its picture shows: every object counts one, the background (pattern and colour) one.

    Returns:
        float64 ``[n]`` in [0, 1].
    """
    shares = []
    for i, prompt in enumerate(prompts):
        objects, pattern, colour = parse(prompt)
        hits = [bool(verdict.objects[i, OBJECT_NAMES.index(name)]) for name in objects]
        background = (
            PATTERN_NAMES[verdict.pattern[i]] == pattern and COLOUR_NAMES[verdict.colour[i]] == colour
        )
        shares.append((sum(hits) + background) / (len(hits) + 1))
    return np.array(shares)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features ``[n, d]`` (Heusel et al. 2017, eq. 6)."""
    mean = a.mean(0) - b.mean(0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # trace sqrt(A B) = sum of sqrt of the eigenvalues of sqrt(A) B sqrt(A), which is symmetric.
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov_b @ root), 0, None)).sum()
    return float(mean @ mean + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)
