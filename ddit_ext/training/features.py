"""Matching of what blocks put out: the student's image tokens against the means of the teacher's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..families.grid import Grid, pool_tokens

Seen = dict[int, Tensor]


class Features:
    """Some blocks of a transformer, counted from 0 through all its lists of blocks, and what they put out.

    Args:
        blocks: indices; empty for the block in the middle and the last one.

    Raises:
        ValueError: an index that the transformer has no block for.
    """

    def __init__(self, transformer: nn.Module, blocks: Sequence[int] = ()):
        every = [
            block
            for child in transformer.children()
            if isinstance(child, nn.ModuleList)
            for block in child.children()
        ]
        wrong = [index for index in blocks if not 0 <= index < len(every)]
        if wrong:
            raise ValueError(f"feature_blocks must be between 0 and {len(every) - 1}, got {wrong}")
        indices = blocks or (len(every) // 2, len(every) - 1)
        self._blocks = {index: every[index] for index in dict.fromkeys(indices)}

    @contextmanager
    def watch(self) -> Iterator[Seen]:
        """Inside, a call of the transformer leaves the tokens after each block in what is yielded."""
        seen: Seen = {}

        def keep(index: int, module: nn.Module, inputs: Any, output: Any) -> None:
            # FLUX: text and picture. Gradient checkpointing runs blocks again: only the first time counts.
            seen.setdefault(index, output[1] if isinstance(output, tuple) else output)

        handles = [block.register_forward_hook(partial(keep, index)) for index, block in self._blocks.items()]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()


def feature_error(student: Seen, teacher: Seen, grid: Grid, scale: int) -> Tensor:
    """Relative squared error of the student's tokens against means of scale x scale of the teacher's, [B] float32.

    The mean over the watched blocks of ‖student - mean(teacher)‖² / ‖mean(teacher)‖², a sample at a time. Clean
    reference tokens are left out.
    """
    errors = []
    for index, fine in teacher.items():
        wanted = pool_tokens(fine.float(), grid, scale)[:, : grid.coarse_tokens(scale)]
        given = student[index].float()[:, : wanted.shape[1]]
        power = wanted.square().flatten(1).mean(1).clamp(min=1e-12)
        errors.append((given - wanted).square().flatten(1).mean(1) / power)
    return torch.stack(errors).mean(0)
