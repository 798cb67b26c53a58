"""What coarse calls of all model families share: binding, checks, swapping, low-rank additions.

A family (`flux.py`, `wan.py`) says where latent, grid and noise level are in a call, and how the call is rewritten.
"""

from __future__ import annotations

import inspect
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..modules.blocks import Own
from ..modules.context_parallel import Ranks, check_inference, ranks_of
from ..modules.low_rank import LowRankLayers
from ..modules.swap import swapped
from .grid import Grid

if TYPE_CHECKING:
    from ..coarse.coarse_step import CoarseStep
    from ..coarse.scale_weights import ScaleWeights


class Family(ABC):
    """How a coarse call of one transformer is made from outside.

    It keeps a weak reference to the transformer, so that a hook on the transformer may own a family.
    Raises TypeError for a transformer of another class.
    """

    FAMILY: ClassVar[str]  # as users call it
    MODELS: ClassVar[tuple[type[nn.Module], ...]]
    REPLACED: ClassVar[tuple[str, str]]  # the patch embedding and the output projection
    BLOCKS: ClassVar[tuple[str, ...]]  # lists of blocks that a model may have, that of the first block first
    CHANNELS: ClassVar[int]  # the dimension of hidden_states along which conditions follow the noisy latent
    TIMESTEP: ClassVar[float]  # what a call's timestep is at noise level 1
    SHARED: ClassVar[frozenset[str]]  # modules where diffusers' context parallelism splits or gathers tokens

    patch_size: int  # latent pixels along a side of a base patch
    in_channels: int  # of the latent that the transformer reads: noisy latent and clean conditions
    out_channels: int  # of the noisy latent

    def __init__(self, transformer: nn.Module) -> None:
        if not isinstance(transformer, self.MODELS):
            known = " or ".join(model.__name__ for model in self.MODELS)
            raise TypeError(f"transformer must be a {known}, got {type(transformer).__name__}")
        self._transformer = weakref.ref(transformer)
        self._parameters = tuple(inspect.signature(type(transformer).forward).parameters)[1:]
        self._merged = {name: _adapter_state(transformer, name) for name in self.REPLACED}
        self.low_rank = LowRankLayers()
        self._ranks: tuple[Any, Ranks | None] = (None, None)
        self._view: partial[Tensor] | None = None

    @property
    def transformer(self) -> nn.Module:
        """The transformer this belongs to."""
        transformer = self._transformer()
        if transformer is None:
            raise RuntimeError(f"the transformer that this {type(self).__name__} was made for is gone")
        return transformer

    @property
    def width(self) -> int:
        """D: features of a token inside the transformer."""
        config = self.transformer.config
        return config.num_attention_heads * config.attention_head_dim

    @property
    def ranks(self) -> Ranks | None:
        """The ranks that share the transformer's tokens, None where there is no context parallelism.

        NotImplementedError for a transformer that is parallel in another way.
        """
        config = getattr(self.transformer, "_parallel_config", None)
        if config is not self._ranks[0]:
            self._ranks = (config, ranks_of(self.transformer, self.SHARED))
        return self._ranks[1]

    @property
    def own_tokens(self) -> Own:
        """A rank's part of the tokens that go into the first block, None where that does not part them."""
        ranks = self.ranks
        if ranks is None or f"{self.BLOCKS[0]}.0" not in self.SHARED:
            return None
        return partial(ranks.part, dim=1)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name, however they were passed; TypeError as Python itself raises it."""
        if not args:
            return dict(kwargs)
        if len(args) > len(self._parameters):
            raise TypeError(f"transformer takes at most {len(self._parameters)} arguments, got {len(args)}")
        named = dict(zip(self._parameters, args, strict=False))
        twice = named.keys() & kwargs.keys()
        if twice:
            raise TypeError(f"transformer got multiple values for argument {sorted(twice)[0]!r}")
        return named | kwargs

    def told(self, timestep: Tensor) -> float:
        """σ in [0, 1] as a call's `timestep` states it, the highest of the call; on a GPU this waits for it."""
        return float(timestep.detach().reshape(-1)[0]) / self.TIMESTEP

    def timestep(self, sigma: Tensor) -> Tensor:
        """The `timestep` of a call at noise level sigma [B], float32."""
        return sigma.float() * self.TIMESTEP

    def noise_level(self, arguments: dict[str, Any], level: float | None = None) -> Tensor:
        """[B] float32: the noise level of a call.

        level: σ as the sampler has it; None: as the call states it, which is rounded in bf16.
        """
        latents = needed(arguments, "hidden_states")
        if level is not None:
            return torch.full((latents.shape[0],), level, dtype=torch.float32, device=latents.device)
        timestep = needed(arguments, "timestep")
        return timestep.detach().float().reshape(-1).expand(latents.shape[0]) / self.TIMESTEP

    @abstractmethod
    def noisy(self, hidden_states: Tensor) -> Tensor:
        """The noisy latent among a call's `hidden_states`, without clean conditions: a view."""

    @abstractmethod
    def tokens(self, arguments: dict[str, Any], scale: int) -> int:
        """Image tokens of a sample when scale x scale cells are merged, clean reference tokens included."""

    @abstractmethod
    def block_cost(self, arguments: dict[str, Any]) -> tuple[int, float]:
        """Text tokens in the self-attention of the blocks, and the multiplications of a token in a block

        apart from self-attention's products of queries, keys and values, over 2·width.
        """

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
    def first_input(self, arguments: dict[str, Any]) -> Tensor:
        """What TeaCache compares from step to step: how a call enters the first block, [B, ...], at the base size.

        Made by the model's own layers before the call. ValueError where their weights are elsewhere until then.
        """

    @abstractmethod
    def training_call(self, latents: Tensor, conditions: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a call on clean latents x0, from a training batch."""

    @abstractmethod
    def _rewrite(
        self, arguments: dict[str, Any], weights: ScaleWeights, grid: Grid, step: CoarseStep
    ) -> tuple[dict[str, Any], dict[str, nn.Module]]:
        """The arguments of the coarse call that differ, and the modules that stand in for the model's own."""

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
        for name, before in self._merged.items():
            now = _adapter_state(transformer, name)
            if now == "active" or now != before:
                raise NotImplementedError(
                    f"a PEFT adapter ({_adapter_names(transformer, name)}) on {name}, which coarse patches "
                    "replace: fuse it before patching, or leave it off this layer"
                )
        if weights.patch_size != self.patch_size:
            raise ValueError(
                f"weights: made for patch size {weights.patch_size}, {self.FAMILY} has {self.patch_size}"
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
        self, arguments: dict[str, Any], weights: ScaleWeights, sigma: Tensor, *, caches_apart: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Inside, `transformer(**yielded)` is a coarse call at `weights.scale` with a fine-shaped output.

        arguments: of the call, by name (see `bind`); sigma: its `noise_level`, float32 in [0, 1].
        caches_apart: who calls keeps the states of diffusers' caches apart by size, as `patch` does.
        The modules stay swapped until the context ends: keep a backward with gradient checkpointing in it.
        """
        if not caches_apart and getattr(self.transformer, "is_cache_enabled", False):
            raise NotImplementedError(
                f"{type(self.transformer._cache_config).__name__}: a cache holds tokens of one patch size; "
                "call transformer.disable_cache() to use coarse patches without ddit_ext.patch"
            )
        self.check(arguments, weights)
        grid = self.grid(arguments)
        self.check_ranks(grid, weights.scale)
        step = weights.prepare(self.cells(arguments, grid), sigma)
        changes, replacements = self._rewrite(arguments, weights, grid, step)
        replacements |= self.low_rank.of(self.transformer, weights)
        with swapped(self.transformer, replacements):
            yield arguments | changes


def needed(arguments: dict[str, Any], name: str) -> Tensor:
    """A tensor among a call's arguments; TypeError by name where it is missing."""
    value = arguments.get(name)
    if not isinstance(value, Tensor):
        raise TypeError(f"transformer: {name} must be a tensor, got {type(value).__name__}")
    return value


def on_grid(cells: Tensor, grid: Grid, channels: int) -> Tensor:
    """Cells of a noisy latent, as they are; ValueError where they are not those of the call's grid."""
    expected = (grid.frames, grid.rows, grid.columns, channels)
    if tuple(cells.shape[1:5]) != expected:
        raise ValueError(f"cells of the latents must be [B, {expected}, p, p], got {tuple(cells.shape)}")
    return cells


def check_here(layer: nn.Module, tensor: Tensor) -> None:
    """ValueError where an offloaded layer's weights do not lie where `tensor` does, and no hook of its own moves them."""
    devices = {parameter.device for parameter in layer.parameters()}
    if devices != {tensor.device} and not any(map(_is_moved, layer.modules())):
        raise ValueError(
            f"the first block's input can't be told before a call: the weights it is made with are on "
            f"{', '.join(map(str, devices))}, the latent on {tensor.device} (offloading)"
        )


def _is_moved(module: nn.Module) -> bool:
    """Whether a hook of accelerate or diffusers brings the module's own weights to where it is called."""
    registry = vars(module).get("_diffusers_hook")
    return hasattr(module, "_hf_hook") or "group_offloading" in getattr(registry, "hooks", {})


def _adapter_state(transformer: nn.Module, name: str) -> str:
    """What PEFT does to the module at `name`: "none", "active" or "merged"."""
    module = transformer.get_submodule(name)
    if not hasattr(module, "base_layer"):
        return "none"
    if getattr(module, "merged", False):
        return "merged"
    off = getattr(module, "disable_adapters", False) or not getattr(module, "active_adapters", True)
    return "none" if off else "active"


def _adapter_names(transformer: nn.Module, name: str) -> str:
    return ", ".join(getattr(transformer.get_submodule(name), "active_adapters", None) or ["unnamed"])
