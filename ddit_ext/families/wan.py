"""A coarse call of a Wan transformer, made from outside.

Space is merged, frames are not: patches of 1x2x2 latent pixels become 1x4x4 and 1x8x8. For one call other modules
stand in `patch_embedding`, `rope` and `proj_out` and around the layers that have a low-rank addition; the timestep is
that of the coarse latent, and conditions on the latent's grid are averaged. The forward of diffusers runs as it is,
and unpatchifies the full fine shape.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from diffusers import WanAnimateTransformer3DModel, WanTransformer3DModel, WanVACETransformer3DModel
from torch import Tensor, nn

from .. import cells as cell_views
from ..modules.context_parallel import Ranks
from .base import Family, check_here, needed, on_grid
from .grid import Grid, pool_latents

if TYPE_CHECKING:
    from ..coarse.coarse_step import CoarseStep
    from ..coarse.scale_weights import ScaleWeights

PATCH = 2
"""Latent pixels along a side of a base patch, in space; one frame in time."""

CONDITIONS = ("control_hidden_states", "pose_hidden_states")
"""Clean latents [B, C, F, H, W] that VACE and Animate embed by layers of their own."""


class CoarseEmbedding(nn.Module):
    """Stands in `patch_embedding`: tokens of merged cells, laid out as a convolution's [B, D, F, h', w']."""

    def __init__(self, step: CoarseStep, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.step = step
        self.shape = shape

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.step.tokens().transpose(1, 2).unflatten(2, self.shape)


class CoarsePositions(nn.Module):
    """Stands in `rope`: the rotary tables of merged cells."""

    def __init__(self, cos: Tensor, sin: Tensor, ranks: Ranks | None) -> None:
        super().__init__()
        self.cos, self.sin = (cos, sin) if ranks is None else (ranks.part(cos, 1), ranks.part(sin, 1))

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        return self.cos, self.sin


class CoarseProjection(nn.Module):
    """Stands in `proj_out`: tokens of merged cells to base tokens [B, N, p*p*C_out], the channel fastest."""

    def __init__(self, step: CoarseStep, ranks: Ranks | None) -> None:
        super().__init__()
        self.step = step
        self.ranks = ranks

    def forward(self, tokens: Tensor) -> Tensor:
        if self.ranks is not None:
            tokens = self.ranks.whole(tokens, 1)
        velocity = self.step.velocity(tokens)
        return velocity.permute(0, 1, 2, 3, 5, 6, 4).flatten(4).flatten(1, 3).to(tokens.dtype)


class WanFamily(Family):
    """What is particular to Wan (2.1, 2.2, VACE, Animate). Raises ValueError for patches other than 1x2x2."""

    FAMILY = "Wan"
    MODELS = (WanTransformer3DModel, WanVACETransformer3DModel, WanAnimateTransformer3DModel)
    REPLACED = ("patch_embedding", "proj_out")
    BLOCKS = ("blocks", "vace_blocks")
    CHANNELS = 1
    SHARED = frozenset({"", "rope", "blocks.0", "proj_out"})
    TIMESTEP = 1000.0

    patch_size = PATCH

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__(transformer)
        config = transformer.config
        if tuple(config.patch_size) != (1, PATCH, PATCH):
            raise ValueError(
                f"transformer: patch_size must be (1, {PATCH}, {PATCH}), got {tuple(config.patch_size)}"
            )
        self.in_channels = transformer.patch_embedding.in_channels
        self.out_channels = transformer.proj_out.out_features // PATCH**2
        self._tables: tuple[nn.Module, Grid, dict[tuple, tuple[Tensor, Tensor]]] | None = None

    def told(self, timestep: Tensor) -> float:
        """As `Family.told`; where each token has a timestep, given frames are at 0."""
        return float(timestep.detach().amax()) / self.TIMESTEP

    def noise_level(self, arguments: dict[str, Any], level: float | None = None) -> Tensor:
        """As `Family.noise_level`; [B, F] where each token has a timestep (`expand_timesteps`).

        Frames that are told the call's highest timestep are the ones that the sampler denoises. ValueError for a
        timestep of another shape, NotImplementedError for timesteps that differ within a frame.
        """
        timestep = needed(arguments, "timestep")
        if timestep.ndim < 2:
            return super().noise_level(arguments, level)
        grid = self.grid(arguments)
        if timestep.ndim != 2 or timestep.shape[1] != grid.tokens:
            raise ValueError(
                f"timestep must have shape [B] or [B, {grid.tokens}], one a token, got {tuple(timestep.shape)}"
            )
        frames = timestep.detach().float().unflatten(1, (grid.frames, -1))
        highest = frames.amax(2)
        if bool((frames.amin(2) != highest).any()):
            raise NotImplementedError(
                "timesteps that differ within a frame: coarse patches need one a frame, as Wan's pipelines have it"
            )
        stated = highest / self.TIMESTEP
        return stated if level is None else torch.where(highest == highest.amax(), level, stated)

    def noisy(self, hidden_states: Tensor) -> Tensor:
        """The latent [B, C_out, F, H, W]."""
        return hidden_states[:, : self.out_channels]

    def tokens(self, arguments: dict[str, Any], scale: int) -> int:
        """Image tokens of a sample."""
        if scale > 1:
            return self.grid(arguments).coarse_tokens(scale)
        frames, height, width = needed(arguments, "hidden_states").shape[2:]
        return frames * (height // PATCH) * (width // PATCH)

    def block_cost(self, arguments: dict[str, Any]) -> tuple[int, float]:
        """Text and image embeddings stand apart: 6·width² for both attentions' layers, 2·width·ffn_dim for the

        feed-forward ones, 2·width a text token for cross-attention.
        """
        names = ("encoder_hidden_states", "encoder_hidden_states_image")
        text = sum(arguments[name].shape[1] for name in names if isinstance(arguments.get(name), Tensor))
        return 0, 3.0 * self.width + self.transformer.config.ffn_dim + text

    def grid(self, arguments: dict[str, Any]) -> Grid:
        """The grid of `hidden_states` [B, C, F, H, W]; ValueError for odd sides."""
        latents = needed(arguments, "hidden_states")
        if latents.ndim != 5:
            raise ValueError(f"hidden_states must have shape [B, C, F, H, W], got {tuple(latents.shape)}")
        frames, height, width = latents.shape[2:]
        if height % PATCH or width % PATCH:
            raise ValueError(
                f"hidden_states: height and width must be multiples of {PATCH} for coarse patches, "
                f"got {height} x {width}"
            )
        return Grid(frames, height // PATCH, width // PATCH)

    def cells(self, arguments: dict[str, Any], grid: Grid) -> Tensor:
        """A view [B, F, h, w, C_in, p, p] of `hidden_states`."""
        return cell_views.from_latents(needed(arguments, "hidden_states"), PATCH)

    def signal_view(self, arguments: dict[str, Any]) -> Callable[[Tensor], Tensor]:
        """As `Family.signal_view`, for latents [B, C_out, F, H, W].

        With a timestep a token, frames at a lower one than others are given.
        """
        grid = self.grid(arguments)
        generated: tuple[int, ...] | None = None
        if needed(arguments, "timestep").ndim == 2:
            levels = self.noise_level(arguments).amax(0).tolist()
            generated = tuple(frame for frame, level in enumerate(levels) if level == max(levels))
        return self._kept_view(_signal_cells, grid, generated, self.out_channels)

    def first_input(self, arguments: dict[str, Any]) -> Tensor:
        """[B, 6·D]: what modulates the blocks, without the tokens.

        It stands for the modulated input, as TeaCache has it for Wan: it depends on the noise level alone. With a
        timestep a token, that of the frames that the sampler denoises.
        """
        embedder = self.transformer.condition_embedder
        timestep, text = needed(arguments, "timestep"), needed(arguments, "encoder_hidden_states")
        check_here(embedder, text)
        return embedder(timestep.amax(1) if timestep.ndim == 2 else timestep, text)[1]

    def training_call(self, latents: Tensor, conditions: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a call, without noise yet, from a training batch.

        Args:
            latents: clean latents x0 [B, C_out, F, H, W] with even sides.
            conditions: the call's other arguments by name. `condition_latents` [B, K, F, H, W], for
                image-to-video models, is appended to the noisy latent.
        """
        if latents.ndim != 5 or latents.shape[3] % PATCH or latents.shape[4] % PATCH:
            raise ValueError(
                f"latents must have shape [B, C, F, H, W], even sides, got {tuple(latents.shape)}"
            )
        return dict(conditions) | {"hidden_states": latents}

    def _rewrite(
        self, arguments: dict[str, Any], weights: ScaleWeights, grid: Grid, step: CoarseStep
    ) -> tuple[dict[str, Any], dict[str, nn.Module]]:
        scale = weights.scale
        shape = grid.coarse(scale)
        timestep = self.timestep(step.timestep)
        if timestep.ndim == 2:
            timestep = timestep.repeat_interleave(shape[1] * shape[2], dim=1)
        changes: dict[str, Any] = {"timestep": timestep}
        for name in CONDITIONS:
            if arguments.get(name) is not None:
                changes[name] = pool_latents(arguments[name], grid, scale, PATCH)
        replacements: dict[str, nn.Module] = {
            "patch_embedding": CoarseEmbedding(step, shape),
            "rope": CoarsePositions(*self._rotary(arguments["hidden_states"], grid, weights), self.ranks),
            "proj_out": CoarseProjection(step, self.ranks),
        }
        return changes, replacements

    def _rotary(self, latents: Tensor, grid: Grid, weights: ScaleWeights) -> tuple[Tensor, Tensor]:
        """Cosines and sines [1, N_s, 1, head width] of the merged cells, kept for the calls of one grid."""
        rope = self.transformer.rope
        if self._tables is None or self._tables[0] is not rope or self._tables[1] != grid:
            self._tables = (rope, grid, {})
        known = self._tables[2]
        key = (weights.scale, weights.positions, latents.device)
        if key not in known:
            known[key] = rotary_tables(
                rope, latents, grid, weights.scale, weights.positions, whole=self.ranks is not None
            )
        return known[key]


@torch.no_grad()
def rotary_tables(
    rope: nn.Module, latents: Tensor, grid: Grid, scale: int, positions: str, whole: bool = False
) -> tuple[Tensor, Tensor]:
    """The model's own rotary tables, at the places of merged cells: cosines and sines [1, N_s, 1, head width].

    "centre" lies on a cell for odd scales and halfway between two for even ones. The rotation halfway between two
    is the direction of their sum, since neighbours are at most one radian apart: the model's frequencies need not be
    known. "grid": as if the coarse grid were a smaller picture. ValueError beyond the model's table.
    whole: call past the hook of context parallelism, which leaves only a rank's part.
    """
    table_of = partial(type(rope).forward, rope) if whole else rope
    frames, rows, columns = grid.coarse(scale)
    if positions == "grid":
        return table_of(_of_size(latents, frames, rows, columns))
    longest = max(rows, columns) * scale
    if longest > rope.max_seq_len:
        raise ValueError(
            f"hidden_states: {longest} cells along a side are more than the model's {rope.max_seq_len} positions"
        )
    middle = [(scale - 1) // 2, scale // 2]
    cos, sin = (
        table.float()
        .view(frames, rows, scale, columns, scale, -1)[:, :, middle][:, :, :, :, middle]
        .sum((2, 4))
        .view(1, frames * rows * columns, 1, -1)
        for table in table_of(_of_size(latents, frames, rows * scale, columns * scale))
    )
    length = torch.hypot(cos, sin)
    return cos / length, sin / length


def _of_size(latents: Tensor, frames: int, rows: int, columns: int) -> Tensor:
    """A latent of so many cells that takes no memory: `rope` reads its shape alone."""
    return latents.new_empty(()).expand(1, 1, frames, rows * PATCH, columns * PATCH)


def _signal_cells(grid: Grid, frames: tuple[int, ...] | None, channels: int, latents: Tensor) -> Tensor:
    cells = on_grid(cell_views.from_latents(latents, PATCH), grid, channels)
    return cells if frames is None or len(frames) == grid.frames else cells[:, list(frames)]
