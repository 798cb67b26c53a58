"""What patch_embed and patch_deembed should take on an H200, by bytes, products and launches: python -m gpu.estimates in benchmarks/.

Nothing is measured. A launch takes LAUNCH_S by itself, and then as long as its bytes or its products at the ceilings. So each figure is
the least of its kind: products of a few tiles don't reach the ceiling. bf16, batch 1, without LoRA, a coarse call's factor on the cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .floors import linear_flops
from .shapes import SCALES, SHAPES, Shape

LAUNCH_S = 2.5e-6  # with its end
BYTES_PER_S, FLOPS_PER_S = 4.3e12, 790e12
SIZE = torch.bfloat16.itemsize
LEAST_SHARE = 0.85  # of the rate at the floor, where that allows more than a launch


@dataclass(frozen=True)
class Estimate:
    """Seconds; `op` is "patch_embed" or "patch_deembed"."""

    op: str
    shape: Shape
    scale: int

    @property
    def cells(self) -> int:
        """Bytes, as in those below."""
        return SIZE * self.shape.tokens(1) * self.shape.features(1)

    @property
    def patches(self) -> int:
        return SIZE * self.shape.tokens(self.scale) * self.shape.features(self.scale)

    @property
    def tokens_and_weight(self) -> int:
        tokens, features, width = (
            self.shape.tokens(self.scale),
            self.shape.features(self.scale),
            self.shape.width,
        )
        bias = width if self.op == "patch_embed" else features
        return SIZE * (tokens * width + features * width + bias)

    @property
    def flops(self) -> int:
        return linear_flops(self.shape, 1, self.scale, lora=False)

    @property
    def floor(self) -> float:
        return max((self.cells + self.tokens_and_weight) / BYTES_PER_S, self.flops / FLOPS_PER_S)

    @property
    def goal(self) -> float:
        return max(self.floor + LAUNCH_S, self.floor / LEAST_SHARE)

    @property
    def library(self) -> float:
        """The product alone, on patches that lie ready."""
        return LAUNCH_S + max((self.patches + self.tokens_and_weight) / BYTES_PER_S, self.flops / FLOPS_PER_S)

    @property
    def moves(self) -> bool:
        """A cell alone is a patch: nothing moves, but for latents that are no packed tokens."""
        return self.scale > 1 or (self.op == "patch_embed" and not self.shape.packed)

    @property
    def launches(self) -> int:
        """The product, and the kernel that moves patches."""
        return 1 + self.moves

    @property
    def moved(self) -> int:
        """Bytes that are read and written: patches twice."""
        if not self.moves:
            return self.cells + self.tokens_and_weight
        return self.cells + 2 * self.patches + self.tokens_and_weight

    @property
    def now(self) -> float:
        return self.library + self.moves * (LAUNCH_S + (self.cells + self.patches) / BYTES_PER_S)

    @property
    def apart(self) -> float:
        """With the factor and its cast in a launch of their own. There are none at scale 1."""
        own = self.op == "patch_embed" and self.scale > 1
        return self.now + own * (LAUNCH_S + 2 * self.cells / BYTES_PER_S)


def rows() -> list[str]:
    """A line a shape and scale: microseconds, and in brackets launches and megabytes."""
    lines = [
        "| | scale | floor | goal | library's product | embed, factor apart | embed | de-embed | goal met |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for shape in SHAPES:
        for scale in SCALES:
            both = [Estimate(op, shape, scale) for op in ("patch_embed", "patch_deembed")]
            embed = both[0]
            met = [
                name for name, each in zip(("embed", "de-embed"), both, strict=True) if each.now <= each.goal
            ]
            figures = [f"{s * 1e6:.1f}" for s in (embed.floor, embed.goal, embed.library, embed.apart)]
            figures += [f"{e.now * 1e6:.1f} ({e.launches}, {e.moved / 1e6:.1f})" for e in both]
            said = "both" if len(met) == 2 else "".join(met) or "no"
            lines.append(f"| {shape.name} | {scale} | {' | '.join(figures)} | {said} |")
    return lines


if __name__ == "__main__":
    print("\n".join(rows()))
