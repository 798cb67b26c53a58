"""What families with larger patches share: the coarse call, its checks, and what training needs.

A family's own file says where latent, grid and noise level are in a call, and how the call is rewritten.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ..coarse import patch_layers
from ..coarse.coarse_step import CoarseStep
from ..coarse.levels import RunLevel
from ..coarse.patch_layers import PatchLayers, unwrapped_layer
from ..coarse.scale_weights import ScaleWeights
from ..modules.context_parallel import check_inference
from ..modules.swap import Changes
from .encoder import Encoder
from .grid import Grid, pool_tokens
from .model import OF_ATTENTION, ModelFamily, needed
from .published import Published

T = TypeVar("T")


class Family(ModelFamily, ABC):
    """How a coarse call of one transformer is made from outside."""

    # 2. What larger patches need: the methods below, and by class of transformers the layers that they replace.
    PATCHES: ClassVar[Mapping[str, PatchLayers]] = {}
    CHANNELS: ClassVar[int] = 1  # the dimension of the latents along which conditions follow the noisy latent

    RESIDUALS: ClassVar[tuple[str, ...]] = ()  # arguments with ControlNet's residuals [B, N, D]
    ONLY: ClassVar[Mapping[str, tuple[Any, str]]] = {}  # the value that coarse calls know of an argument; why

    # 3. What training needs beside `training_call` and `example_call`.
    ENCODER: ClassVar[type[Encoder]]
    DEPTHS: ClassVar[tuple[str, ...]] = ("num_layers", "num_single_layers")  # config keys: numbers of blocks
    PUBLISHED: ClassVar[Mapping[str, Published]] = {}

    # What a run costs, for reports and estimates.
    JOINT: ClassVar[tuple[str, ...]] = ("encoder_hidden_states",)  # texts in one sequence with image tokens
    MULTIPLE: ClassVar[int] = 1  # what their lengths are padded to
    LINEAR: ClassVar[float] = 6.0  # 12·width² for a token in a block's linear layers
    # Further arguments: their shape by config keys, "text" or numbers.
    INPUTS: ClassVar[Mapping[str, tuple[str | int, ...]]] = {}

    in_channels: int  # of the latent that the transformer reads: noisy latent and clean conditions
    out_channels: int  # of the noisy latent

    def __init_subclass__(cls, **options: Any) -> None:
        # Its own alone: those that it inherits belong to the family that it derives from.
        patches = vars(cls).get("PATCHES", {})
        cls.MODELS = vars(cls).get("MODELS") or tuple(patches)
        for model, layers in patches.items():
            patch_layers.register(model, layers)
        super().__init_subclass__(**options)

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__(transformer)
        layers = patch_layers.layers_of(transformer)
        self.patch_size = layers.patch  # latent pixels along a side of a base patch
        self.replaced: tuple[str, ...] = (layers.embedding, layers.output)
        self.sign = layers.sign
        self._view: partial[Tensor] | None = None
        self._kept: tuple[nn.Module, Grid, dict[tuple, Any]] | None = None
        embedding, output = (unwrapped_layer(transformer, name) for name in self.replaced)
        convolved = hasattr(embedding, "in_channels")
        self.in_channels = (
            embedding.in_channels if convolved else self._per_pixel(embedding.in_features, "in_channels")
        )
        self.out_channels = self._per_pixel(output.out_features, "out_channels")

    def _per_pixel(self, features: int, name: str) -> int:
        pixels = self.patch_size**2
        if features % pixels:
            raise ValueError(
                f"transformer: {name} must be a multiple of {pixels} (packed {self.patch_size}x{self.patch_size} "
                f"latent pixels), got {features}"
            )
        return features // pixels

    def timestep(self, sigma: Tensor) -> Tensor:
        """The `timestep` of a call at noise level sigma [B], float32."""
        span = self.TIMESTEP - self.CLEAN
        scaled = sigma.float() if span == 1 else sigma.float() * span
        return scaled + self.CLEAN if self.CLEAN else scaled

    def coarse_timestep(self, arguments: dict[str, Any], step: CoarseStep) -> Tensor:
        """The `timestep` of the coarse latent, in the dtype of the call's own where that is a floating one."""
        own = needed(arguments, self.TIME)
        return self.timestep(step.timestep).to(own.dtype if own.is_floating_point() else torch.float32)

    def pooled(self, arguments: dict[str, Any], grid: Grid, scale: int) -> dict[str, Any]:
        """ControlNet's residuals, averaged over merged cells."""
        given = {name: arguments[name] for name in self.RESIDUALS if arguments.get(name) is not None}
        if given and self.ranks is not None:
            raise NotImplementedError(
                f"context parallelism: {next(iter(given))} is not supported with coarse patches"
            )
        return {
            name: {block: self.pool(sample, grid, scale) for block, sample in samples.items()}
            if isinstance(samples, dict)
            else [self.pool(sample, grid, scale) for sample in samples]
            for name, samples in given.items()
        }

    def pool(self, residual: Tensor, grid: Grid, scale: int) -> Tensor:
        """One of ControlNet's residuals, [B, N, D], averaged over merged cells."""
        return pool_tokens(residual, grid, scale)

    @abstractmethod
    def tokens(self, arguments: dict[str, Any], scale: int) -> int:
        """Image tokens of a sample when scale x scale cells are merged, clean reference tokens included."""

    def block_cost(self, arguments: dict[str, Any]) -> tuple[int, float]:
        """Text tokens in the self-attention of the blocks, and the multiplications of a token in a block

        apart from self-attention's products of queries, keys and values, over 2·width.
        """
        given = [arguments.get(name) for name in self.JOINT]
        counts = [
            value.shape[1] if isinstance(value, Tensor) else max(map(len, value))
            for value in given
            if value is not None
        ]
        return sum(-(-count // self.MULTIPLE) * self.MULTIPLE for count in counts), self.LINEAR * self.width

    @abstractmethod
    def grid(self, arguments: dict[str, Any]) -> Grid:
        """The base patch grid of a call; ValueError where there is none."""

    @abstractmethod
    def cells(self, arguments: dict[str, Any], grid: Grid) -> Tensor:
        """A view [B, F, h, w, C_in, p, p] of the latent:

        the first out_channels channels are the noisy latent, the others clean conditions.
        """

    @abstractmethod
    def signal_view(self, arguments: dict[str, Any]) -> Callable[[Tensor], Tensor]:
        """A function from a latent, as a sampler or a transformer call has it, to its cells

        [B, F', h, w, C_out, p, p]. Frames that are given, not generated, are left out: they stand still whatever
        the model does. It raises ValueError for a latent that does not lie on the call's grid. While calls need the
        same, it is the same object.
        """

    @abstractmethod
    def training_call(self, latents: Tensor, conditions: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a call, without noise yet, from a training batch.

        Args:
            latents: clean latents x0 as the model takes them, sides of whole patches.
            conditions: the call's other arguments by name; those that say where the tokens of an image lie may be left
                out. `condition_latents`, for models with further channels, are appended to the noisy latent.
        """

    def state(self, arguments: dict[str, Any]) -> Tensor:
        """The latents of a call's first sample, as `training_call` takes them."""
        return self.latents(arguments)[0]

    def example_call(self, frames: int, rows: int, columns: int, text: int, like: Tensor) -> dict[str, Any]:
        """Arguments of a call of one sample of so many cells and text tokens, empty, on the device of `like`."""
        config = self.transformer.config
        call: dict[str, Any] = {self.TIME: like.new_empty(1)}
        for name, shape in self.INPUTS.items():
            known = {"text": text, **config}
            sizes = [size if isinstance(size, int) else known[size] for size in shape]
            call[name] = [like.new_empty(sizes)] if name in self.ENTRIES else like.new_empty(1, *sizes)
        if getattr(config, "guidance_embeds", False):
            call["guidance"] = like.new_empty(1)
        return self.finished(call | self.example_latents(frames, rows, columns, like))

    @abstractmethod
    def example_latents(self, frames: int, rows: int, columns: int, like: Tensor) -> dict[str, Any]:
        """The latents of an example, and what says where they lie."""

    def finished(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """A call for training or an example, with the arguments that follow from the others."""
        return arguments

    @abstractmethod
    def _rewrite(
        self, arguments: dict[str, Any], weights: ScaleWeights, grid: Grid, step: CoarseStep
    ) -> tuple[dict[str, Any], dict[str, nn.Module]]:
        """The arguments of the coarse call that differ, and the modules that stand in for the model's own."""

    def attributes(self, weights: ScaleWeights) -> dict[str, Any]:
        """What a coarse call changes of the transformer beside its modules, by name."""
        return {}

    def kept(self, module: nn.Module, grid: Grid, key: tuple, make: Callable[[], T]) -> T:
        """What `make` gives: positions of merged cells, kept for the calls of one grid; module: whose positions they are."""
        if self._kept is None or self._kept[0] is not module or self._kept[1] != grid:
            self._kept = (module, grid, {})
        known = self._kept[2]
        if key not in known:
            with torch.inference_mode(False), torch.no_grad():  # may be read in any mode later
                known[key] = make()
        return known[key]

    def _kept_view(self, cells: Callable[..., Tensor], *settings: Any) -> Callable[[Tensor], Tensor]:
        """latents -> cells(*settings, latents); what it was before while the settings are equal."""
        if self._view is None or self._view.args != settings:
            self._view = partial(cells, *settings)
        return self._view

    def check(self, arguments: dict[str, Any], weights: ScaleWeights) -> None:
        """Raise NotImplementedError, by name, for what a coarse call would silently get wrong."""
        transformer = self.transformer
        if self.ranks is not None:
            check_inference(weights)
        for name in self.replaced:
            adapters = _active_adapters(transformer.get_submodule(name))
            if adapters:
                raise NotImplementedError(
                    f"a PEFT adapter ({', '.join(adapters)}) on {name}, which coarse patches "
                    "replace: fuse it before patching, or leave it off this layer"
                )
        self.refuse(arguments)
        if weights.patch_size != self.patch_size:
            raise ValueError(
                f"weights: made for patch size {weights.patch_size}, {self.NAME} has {self.patch_size}"
            )

    def refuse(self, arguments: dict[str, Any]) -> None:
        """NotImplementedError for arguments that merged tokens can't follow."""
        for name, (value, why) in self.ONLY.items():
            if arguments.get(name, value) != value:
                raise NotImplementedError(f"{name}={arguments[name]!r}: {why}")
        for name in OF_ATTENTION:
            if "attention_mask" in (arguments.get(name) or {}):
                raise NotImplementedError(
                    f"{name}['attention_mask']: it counts tokens of the base size, so it is not for coarse patches"
                )

    def check_ranks(self, grid: Grid, scale: int) -> None:
        """ValueError or NotImplementedError where several ranks can't share a coarse call's tokens."""
        if self.ranks is None:
            return
        if grid.references:
            raise NotImplementedError(
                "context parallelism: reference tokens (Kontext) are not supported with coarse patches"
            )
        self.ranks.check(grid.coarse_tokens(scale), scale)

    @contextmanager
    def coarse(
        self, arguments: dict[str, Any], weights: ScaleWeights, sigma: Tensor
    ) -> Iterator[dict[str, Any]]:
        """Inside, `transformer(**yielded)` is a coarse call at `weights.scale` with a fine-shaped output.

        arguments: of the call, by name (see `bind`); sigma: its `noise_level`, float32 in [0, 1].
        The modules stay swapped until the context ends: keep a backward with gradient checkpointing in it.
        """
        if getattr(self.transformer, "is_cache_enabled", False):
            raise NotImplementedError(
                f"{type(self.transformer._cache_config).__name__}: a cache holds tokens of one patch size; "
                "call transformer.disable_cache() to use coarse patches without ddit_ext.patch"
            )
        changes = Changes()
        try:
            yield self.enter_coarse(changes, arguments, weights, sigma)
        finally:
            changes.undo()

    def enter_coarse(
        self, changes: Changes, arguments: dict[str, Any], weights: ScaleWeights, sigma: Tensor | RunLevel
    ) -> dict[str, Any]:
        """As `coarse`: the rewritten arguments; the modules stay swapped until `changes.undo()`."""
        self.check(arguments, weights)
        grid = self.grid(arguments)
        self.check_ranks(grid, weights.scale)
        step = weights.prepare(self.cells(arguments, grid), sigma)
        rewritten, replacements = self._rewrite(arguments, weights, grid, step)
        self.low_rank.enter(changes, self.transformer, weights, lambda: weights.lora)
        changes.swap(self.transformer, replacements)
        for name, value in self.attributes(weights).items():
            changes.put(vars(self.transformer), name, value)
        return arguments | rewritten


def on_grid(cells: Tensor, grid: Grid, channels: int) -> Tensor:
    """Cells of a noisy latent, as they are; ValueError where they are not those of the call's grid."""
    expected = (grid.frames, grid.rows, grid.columns, channels)
    if tuple(cells.shape[1:5]) != expected:
        raise ValueError(f"cells of the latents must be [B, {expected}, p, p], got {tuple(cells.shape)}")
    return cells


def _active_adapters(module: nn.Module) -> list[str]:
    """The adapters that PEFT adds to what a layer gives; a layer's `active_adapters` may name some that it has not."""
    if getattr(module, "disable_adapters", True) or module.merged:  # no attribute: not PEFT's
        return []
    held = [getattr(module, each) for each in module.adapter_layer_names]
    scaling, variants = (getattr(module, each, {}) for each in ("scaling", "lora_variant"))  # DoRA is one
    return [
        name
        for name in module.active_adapters
        if any(name in layers for layers in held) and (scaling.get(name) != 0 or name in variants)
    ]
