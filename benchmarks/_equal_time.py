"""Methods compared at equal measured time: with a line of other methods, and with each other. Paired by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from _quality import ALIKE, bootstrap


@dataclass(frozen=True)
class Samples:
    """What one method gave for each prompt: PSNR in dB, at most ALIKE, and the speed of its batch. Both float64 [n]."""

    psnr: np.ndarray
    speed: np.ndarray

    @classmethod
    def of(cls, psnr: Sequence[float], speed: Sequence[float], batch: int) -> Samples:
        """psnr: one a prompt; speed: one a batch of `batch` prompts, the last of which may be smaller."""
        return cls(np.minimum(psnr, ALIKE), np.repeat(speed, batch)[: len(psnr)])

    def at(self, prompts: np.ndarray) -> tuple[float, float]:
        """Median speed and mean PSNR of these prompts."""
        return float(np.median(self.speed[prompts])), float(self.psnr[prompts].mean())


def above_line(method: Samples, line: Sequence[Samples]) -> dict[str, float] | None:
    """dB by which the method is closer than the line at the method's speed, with its 95 % interval.

    Between the line's methods PSNR is interpolated over the logarithm of the speed. None where the method is slower or
    faster than all of the line's.
    """
    every = np.arange(len(method.psnr))
    speeds = [each.at(every)[0] for each in line]
    if not min(speeds) <= method.at(every)[0] <= max(speeds):
        return None

    def difference(prompts: np.ndarray) -> float:
        speed, closeness = method.at(prompts)
        points = sorted(each.at(prompts) for each in line)
        return closeness - float(
            np.interp(np.log(speed), *zip(*((np.log(s), c) for s, c in points), strict=True))
        )

    low, high = bootstrap(difference, len(every))
    return {"mean": difference(every), "low": low, "high": high}


def rivals(method: Samples, others: Mapping[str, Samples], reach: float = 0.75) -> list[str]:
    """The names of the others that may beat the method: closer by more than the 95 % interval of the paired difference,
    and at least `reach` times as fast, so that a few times more on the clock have to tell which is the faster.
    """
    every = np.arange(len(method.psnr))
    found = []
    for name, other in others.items():
        gain = other.psnr - method.psnr
        low, _ = bootstrap(lambda prompts, g=gain: float(g[prompts].mean()), len(every))
        if low > 0 and other.at(every)[0] >= reach * method.at(every)[0]:
            found.append(name)
    return found
