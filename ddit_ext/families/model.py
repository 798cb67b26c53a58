"""What is known of every supported model: its class by name, how a call is read, and its blocks.

That is enough for TeaCache, which leaves blocks out and adds their residual again. Families with larger patches add to
it in `base.py`. No class of diffusers is imported, so a family never raises the version that is needed.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..modules.blocks import Own, entering
from ..modules.context_parallel import Ranks, ranks_of
from ..modules.diffusers_hooks import GROUP_OFFLOADING, hooks_of
from ..modules.low_rank import LowRankLayers
from ..modules.offloaded import waits_on_disk
from ..modules.swap import swapped

CALL = frozenset({"return_dict"})
OF_ATTENTION = ("joint_attention_kwargs", "attention_kwargs")
ROWS = frozenset(
    {
        "hidden_states",
        "encoder_hidden_states",
        "encoder_hidden_states_mask",
        "pooled_projections",
        "timestep",
        "guidance",
    }
)


WITHOUT_SUPPORT = (
    "Fewer model calls need no support of a family: pipe.scheduler = "
    "ddit_ext.ForecastScheduler.from_scheduler(pipe.scheduler, speedup=2)"
)

_FAMILIES: dict[str, type[ModelFamily]] = {}
"""By the name of a transformer class; filled where a family is defined."""


class _Entered(Exception):
    """Ends a forward in front of the first block."""

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = tokens


class _Door(nn.Module):
    """Stands in the first block of a call that goes no further."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise _Entered(entering(args, kwargs).detach())


class ModelFamily:
    """One transformer, seen from outside. It keeps a weak reference, so that a hook on the transformer may own it.

    Raises TypeError for a transformer of another class.
    """

    NAME: ClassVar[str]  # as users call it
    MODELS: ClassVar[tuple[str, ...]] = ()  # names of transformer classes; their subclasses belong to it, too

    # 1. What TeaCache's residuals need.
    BLOCKS: ClassVar[tuple[str, ...]]  # lists of blocks that a model may have, that of the first block first
    NORM: ClassVar[str] = "norm_out"  # what a model calls once, on the output of its last block
    LATENTS: ClassVar[str] = "hidden_states"  # the argument that is denoised
    TIME: ClassVar[str] = "timestep"  # the argument that says the noise level
    TIMESTEP: ClassVar[float] = 1.0  # that argument at noise level 1
    CLEAN: ClassVar[float] = 0.0  # and at noise level 0
    PARALLEL: ClassVar[frozenset[str] | None] = None  # where ranks split or gather tokens; None: unknown

    # How batch="split" takes some samples of a call: rows of tensors (or of each in a list), or all of it.
    ROWS: ClassVar[frozenset[str]] = ROWS
    ENTRIES: ClassVar[frozenset[str]] = frozenset()  # lists of one entry a sample
    WHOLE: ClassVar[frozenset[str]] = CALL

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for model in cls.MODELS:
            _FAMILIES[model] = cls

    def __init__(self, transformer: nn.Module) -> None:
        if class_of(transformer) is not type(self):
            known = " or ".join(self.MODELS)
            raise TypeError(f"transformer must be a {known}, got {type(transformer).__name__}")
        self._transformer = weakref.ref(transformer)
        self._parameters = tuple(inspect.signature(type(transformer).forward).parameters)[1:]
        self.low_rank = LowRankLayers()
        self._ranks: tuple[Any, Ranks | None] = (None, None)

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
            self._ranks = (config, ranks_of(self.transformer, self.PARALLEL))
        return self._ranks[1]

    @property
    def own_tokens(self) -> Own:
        """A rank's part of the tokens that go into the first block, None where that does not part them."""
        ranks = self.ranks
        if ranks is None or self.PARALLEL is None or f"{self.BLOCKS[0]}.0" not in self.PARALLEL:
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

    def seen(self, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
        """Latents and timestep of a call; None where it has none, which the transformer itself complains of.

        Of lists that `latents` refuses, which a transformer may well take, the first tensor: a run raises then.
        """
        try:
            latents: Any = self.latents(arguments)
        except TypeError:
            latents = arguments.get(self.LATENTS)
            while isinstance(latents, list | tuple) and latents:
                latents = latents[0]
        timestep = arguments.get(self.TIME)
        both = isinstance(latents, Tensor) and isinstance(timestep, Tensor)
        return (latents, timestep) if both else None

    def latents(self, arguments: Mapping[str, Any]) -> Tensor:
        """What is denoised in a call, [B, ...], with the clean conditions that stand beside it.

        TypeError where there is none; a list of one tensor a sample must have one shape.
        """
        given = arguments.get(self.LATENTS)
        if self.LATENTS not in self.ENTRIES:
            return needed(arguments, self.LATENTS)
        shapes = [getattr(entry, "shape", None) for entry in given] if isinstance(given, list | tuple) else []
        if not shapes or shapes[0] is None or any(shape != shapes[0] for shape in shapes):
            raise TypeError(
                f"transformer: {self.LATENTS} must be a list of one latent a sample, all of one shape: pictures of "
                "several sizes in a batch, or several a sample (omni mode), are not for a patch that changes calls"
            )
        return torch.stack(list(given))

    def with_latents(self, arguments: Mapping[str, Any], latents: Tensor) -> dict[str, Any]:
        """The same call with other latents."""
        entries = list(latents.unbind(0)) if self.LATENTS in self.ENTRIES else latents
        return dict(arguments) | {self.LATENTS: entries}

    def told(self, timestep: Tensor) -> float:
        """σ in [0, 1] as a call's timestep states it, the highest of the call; on a GPU this waits for it."""
        timestep = timestep.detach()  # where tokens have one each, given frames are clean
        return self.sigma_of(float(timestep.amax() if self.TIMESTEP > self.CLEAN else timestep.amin()))

    def sigma_of(self, timestep: Any) -> Any:
        """σ of a number or tensor on the scale of a call's timestep."""
        return (timestep - self.CLEAN) / (self.TIMESTEP - self.CLEAN)

    def one_level(self, arguments: Mapping[str, Any]) -> bool:
        """Whether all that a call denoises is at one noise level; False where tokens have a timestep each."""
        return needed(arguments, self.TIME).ndim < 2

    def noise_level(self, arguments: Mapping[str, Any], level: float | None = None) -> Tensor:
        """[B] float32: the noise level of a call.

        level: σ as the sampler has it; None: as the call states it, which is rounded in bf16.
        """
        latents = self.latents(arguments)
        if level is not None:
            return torch.full((latents.shape[0],), level, dtype=torch.float32, device=latents.device)
        timestep = needed(arguments, self.TIME)
        return self.sigma_of(timestep.detach().float().reshape(-1).expand(latents.shape[0]))

    def first_input(self, arguments: Mapping[str, Any]) -> Tensor:
        """What TeaCache compares from step to step: how a call enters the first block, [B, ...], at scale 1.

        The model's own forward is run up to there, with LoRAs at their full strength: an older diffusers would leave
        them scaled down where a forward is ended early. ValueError where its weights are elsewhere until a call.
        """
        transformer = self.transformer
        embedders = (module for name, module in transformer.named_children() if name not in self.BLOCKS)
        check_here(
            transformer,
            next(module for module in embedders if next(module.parameters(), None) is not None),
            self.latents(arguments),
        )
        arguments = {name: _unscaled(name, value) for name, value in arguments.items()}
        with swapped(transformer, {f"{self.BLOCKS[0]}.0": _Door()}):
            try:
                transformer.forward(**arguments)
            except _Entered as entered:
                return entered.tokens
        raise ValueError(f"{type(transformer).__name__} did not call {self.BLOCKS[0]}[0]")

    def noisy(self, latents: Tensor) -> Tensor:
        """The noisy latent among a call's `latents`, without clean conditions: a view."""
        return latents


def _unscaled(name: str, value: Any) -> Any:
    """An argument of a call, without the LoRAs' scale where it is what attention is told."""
    if name not in OF_ATTENTION or not isinstance(value, Mapping):
        return value
    return {key: item for key, item in value.items() if key != "scale"}


def check_here(transformer: nn.Module, layer: nn.Module, tensor: Tensor) -> None:
    """ValueError where an offloaded layer's weights do not lie where `tensor` does, and no hook of its own moves them.

    A model that is offloaded as a whole is brought there, as the call would do next.
    """
    offload = vars(transformer).get("_hf_hook")
    if type(offload).__name__ == "CpuOffload":
        offload.pre_forward(transformer)
    devices = {parameter.device for parameter in layer.parameters()}
    if waits_on_disk(transformer, layer):
        where = "disk until then (group offloading by blocks)"
    elif devices != {tensor.device} and not any(map(_is_moved, layer.modules())):
        where = f"{', '.join(map(str, devices))}, the latent on {tensor.device} (offloading)"
    else:
        return
    raise ValueError(
        f"the first block's input can't be told before a call: the weights it is made with are on {where}"
    )


def _is_moved(module: nn.Module) -> bool:
    """Whether a hook of accelerate or diffusers brings the module's own weights to where it is called."""
    return hasattr(module, "_hf_hook") or GROUP_OFFLOADING in hooks_of(module)


def needed(arguments: Mapping[str, Any], name: str) -> Tensor:
    """A tensor among a call's arguments; TypeError by name where it is missing."""
    value = arguments.get(name)
    if not isinstance(value, Tensor):
        raise TypeError(f"transformer: {name} must be a tensor, got {type(value).__name__}")
    return value


def class_of(transformer: nn.Module | type) -> type[ModelFamily] | None:
    """The family of a transformer or of a class of transformers, by its name or that of one of its bases."""
    cls = transformer if isinstance(transformer, type) else type(transformer)
    return next((_FAMILIES[base.__name__] for base in cls.__mro__ if base.__name__ in _FAMILIES), None)


def known(kind: type[ModelFamily]) -> list[type[Any]]:
    """The families of a `kind`, each once."""
    return [family for family in dict.fromkeys(_FAMILIES.values()) if issubclass(family, kind)]


def supported(kind: type[ModelFamily] = ModelFamily) -> str:
    """The families of a `kind` and their transformer classes, as an error says them."""
    named: dict[str, list[str]] = {}
    for model, family in _FAMILIES.items():
        if issubclass(family, kind):
            named.setdefault(family.NAME, []).append(model)
    return "; ".join(f"{name} ({', '.join(models)})" for name, models in named.items())


def family_for(transformer: nn.Module) -> Any:
    """What the transformer's family knows of it; TypeError for a class that no family has."""
    family = class_of(transformer)
    if family is None:
        raise TypeError(
            f"transformer must be of a supported family: {supported()}; got {type(transformer).__name__}. "
            f"{WITHOUT_SUPPORT}"
        )
    return family(transformer)
