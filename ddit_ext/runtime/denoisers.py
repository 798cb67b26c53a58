"""The transformers of a pipeline, and the weights that each of them is given."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from ..coarse import Adapter
from ..coarse.base_weights import check_fingerprint, weight_samples
from ..coarse.patch_layers import unwrapped_layer
from ..families import WITHOUT_SUPPORT, Family, class_of, family_for, supported
from ..modules.compiled import unwrap
from .caches import CacheContexts
from .callers import DENOISERS

NAMES = DENOISERS[:2]
"""Those of families that are known here."""

TRAINING_FREE = (
    "ddit_ext: no adapter was given, so coarse steps run training-free on weights made from the model's own. "
    "They are an approximation, good at high noise and worse towards the end of a run; an adapter trained "
    "for this model makes them more exact"
)


@dataclass
class Part:
    """One transformer of a pipeline: `module` as the pipeline holds it, compiled or not."""

    name: str
    module: nn.Module
    family: Family
    adapter: Adapter | None = None
    caches: CacheContexts = field(init=False)
    made_from: dict[str, tuple] = field(default_factory=dict)  # by the replaced layers

    def __post_init__(self) -> None:
        self.caches = CacheContexts(self.family)

    def weights(self) -> dict[str, tuple]:
        """How the weights of the layers that larger patches replace are stored, and a sample of each; waits for the device."""
        transformer, found = self.family.transformer, {}
        for name, numbers in weight_samples(transformer, self.family.replaced).items():
            weight = unwrapped_layer(transformer, name).weight
            # NaN is no number to compare: it differs from itself.
            found[name] = (
                (type(weight), weight.dtype),
                [None if math.isnan(each) else each for each in numbers],
            )
        return found

    def check_weights(self) -> None:
        """NotImplementedError where the weights that larger patches were made from are others now; waits for the device."""
        now = self.weights()
        for name, (stored, numbers) in now.items():
            before = self.made_from.get(name, (None, None))
            if before[0] == stored and before[1] != numbers:
                raise NotImplementedError(
                    f"the weights of {name} have changed since patching, as fuse_lora and unfuse_lora change them; coarse "
                    "patches are made from what they were: unpatch, and patch again"
                )
        self.made_from = now  # cast ones are compared as they are from here on

    @property
    def compiled(self) -> bool:
        """Whether it was compiled as a whole: in CUDA graphs, what it gives lies where the next call's results will."""
        return hasattr(self.module, "_orig_mod") or self.module._compiled_call_impl is not None


def find_denoisers(pipe: Any) -> dict[str, nn.Module]:
    """The modules that denoise in any pipeline, each once, by component; TypeError for what is no pipeline with a sampler."""
    held = {name: module for name in DENOISERS if isinstance(module := getattr(pipe, name, None), nn.Module)}
    found = _each_once(held)
    if not found or isinstance(pipe, nn.Module):
        raise TypeError(
            f"pipe must be a diffusers pipeline with a transformer, got {type(pipe).__name__}: pass the pipeline itself, "
            "such as ddit_ext.embedded.load(...).pipeline"
        )
    if not hasattr(getattr(pipe, "scheduler", None), "step"):
        raise TypeError(f"pipe must have a scheduler; got {type(pipe).__name__} without")
    return found


def _each_once(held: dict[str, Any]) -> dict[str, Any]:
    """Without components that an earlier one is, too."""
    first = {id(module): name for name, module in reversed(held.items())}
    return {name: module for name, module in held.items() if first[id(module)] == name}


def known_family(module: nn.Module) -> Family | None:
    """The family that counts a denoiser's tokens, compiled or not; None where there is none for it."""
    try:
        family = family_for(unwrap(module))
    except (TypeError, ValueError):
        return None
    return family if isinstance(family, Family) else None


def find_parts(pipe: Any) -> list[Part]:
    """The transformers that denoise in `pipe`, of which `find_denoisers` knows. TypeError for one that is not supported,

    ValueError for a transformer's config, NotImplementedError for one that is parallel otherwise than over its tokens.
    """
    held = _each_once({name: getattr(pipe, name, None) for name in NAMES})
    models = {
        name: unwrap(module)
        for name, module in held.items()
        if module is not None or (name == NAMES[0] and held.get(NAMES[1]) is None)
    }
    for name, model in models.items():
        if class_of(type(model)) is None:
            found = "none" if model is None else f"a {type(model).__name__}"
            raise TypeError(
                f"pipe must be a diffusers pipeline whose {name} is of a supported family: {supported()}; "
                f"got {type(pipe).__name__} with {found}. {WITHOUT_SUPPORT}"
            )
    parts = [Part(name, held[name], family_for(model)) for name, model in models.items()]
    for part in parts:
        _ = part.family.ranks  # raises
    return parts


def give_weights(parts: Sequence[Part], adapter: Any, scales: Sequence[int]) -> None:
    """Put the weights of `scales` (above 1) into `parts`; none where there are no scales and no adapter.

    adapter: of one transformer, an Adapter or the path of what a trainer wrote. Of two, a mapping from the names of
    the components to such, or a folder with a subfolder for each. None: training-free.
    Raises TypeError, ValueError (AdapterError) as `patch` does.
    """
    if adapter is None:
        if not scales:
            return
        found = [Adapter.training_free(part.family.transformer, scales) for part in parts]
        warnings.warn(TRAINING_FREE, stacklevel=4)
    else:
        sources = _sources(parts, adapter)
        found = [_load(source, part) for part, source in zip(parts, sources, strict=True)]
    for weights in found:
        missing = [scale for scale in scales if scale not in weights.scales]
        if missing:
            raise ValueError(f"scales: the adapter has weights for {weights.scales}, not for {missing}")
    for part, weights in zip(parts, found, strict=True):
        part.adapter, part.made_from = weights, part.weights()
        part.family.low_rank.merge = weights.lora == "merged"


def _sources(parts: Sequence[Part], adapter: Any) -> list[Any]:
    """What belongs to each part."""
    names = [part.name for part in parts]
    if isinstance(adapter, Mapping):
        if sorted(adapter) != sorted(names):
            raise ValueError(f"adapter must name the pipeline's {names}, got {sorted(adapter)}")
        return [adapter[name] for name in names]
    if len(parts) == 1:
        return [adapter]
    if isinstance(adapter, str | PathLike):
        folders = [Path(adapter) / name for name in names]
        if all(folder.is_dir() for folder in folders):
            return folders
    raise ValueError(
        f"adapter: this pipeline has {names}, each with weights of its own: expected a mapping from these names, or "
        f"a folder with a subfolder for each, got {adapter if isinstance(adapter, str | PathLike) else type(adapter)}"
    )


def _load(adapter: Any, part: Part) -> Adapter:
    transformer = part.family.transformer
    if isinstance(adapter, str | PathLike):
        return Adapter.load(Path(adapter), transformer)
    if not isinstance(adapter, Adapter):
        raise TypeError(f"adapter must be a path, an Adapter or None, got {type(adapter).__name__}")
    check_fingerprint(adapter.base, transformer)
    return adapter
