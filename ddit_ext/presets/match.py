"""Whether a preset was made for this pipeline, this adapter and this run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from ..coarse import Adapter
from ..coarse.adapter_file import named_tensors
from ..coarse.base_weights import check_fingerprint, fingerprint
from ..families import Family, class_of
from ..modules.compiled import unwrap
from .preset import Preset, PresetError

NO_ADAPTER = "training-free"


def adapter_digest(adapter: Adapter | None) -> str:
    """What tells one adapter's weights from another's; "training-free" without an adapter."""
    if adapter is None:
        return NO_ADAPTER
    digest = hashlib.sha256()
    for scale, weights in sorted(adapter.sizes.items(), key=lambda item: int(item[0])):
        for name, tensor in sorted(named_tensors(weights).items()):
            digest.update(f"{scale} {name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def plain_config(part: Any) -> dict[str, Any]:
    """The settings of a sampler or a model as JSON has them, without diffusers' own notes."""
    plain = json.loads(json.dumps(dict(getattr(part, "config", {})), default=str))
    return {name: value for name, value in sorted(plain.items()) if not name.startswith("_")}


def identity(
    parts: Mapping[str, nn.Module], weights: Mapping[str, Adapter] | None
) -> tuple[dict[str, Any], str]:
    """What a preset knows model and adapter by: `base` and `adapter` of a Preset.

    A pipeline with two transformers has a fingerprint by name, and the digests in that order, joined by "+".
    """
    bases = {name: _fingerprint(transformer) for name, transformer in parts.items()}
    digests = [adapter_digest(weights[name] if weights else None) for name in parts]
    return (bases if len(bases) > 1 else next(iter(bases.values()))), "+".join(digests)


def _has_patches(transformer: nn.Module) -> bool:
    """Whether it is of a family with larger patches, whose weights a fingerprint samples."""
    family = class_of(unwrap(transformer))
    return family is not None and issubclass(family, Family)


def _fingerprint(transformer: nn.Module) -> dict[str, Any]:
    """That of a family with larger patches; of another one its class and plain settings."""
    if _has_patches(transformer):
        return fingerprint(transformer)
    model = unwrap(transformer)
    return {"family": type(model).__name__, "config": plain_config(model), "weights": {}}


def check_parts(
    preset: Preset, parts: Mapping[str, nn.Module], weights: Mapping[str, Adapter] | None
) -> list[str]:
    """:func:`check_patch` for each transformer of a pipeline, by name."""
    digests = preset.adapter.split("+")
    if len(digests) != len(parts):
        raise PresetError(
            f"preset was made for a pipeline with {len(digests)} transformer(s), this one has {sorted(parts)}"
        )
    texts: list[str] = []
    for (name, transformer), digest in zip(parts.items(), digests, strict=True):
        base = preset.base[name] if len(parts) > 1 else preset.base
        own = replace(preset, base=base, adapter=digest)
        texts += check_patch(own, transformer, weights[name] if weights else None)
    return list(dict.fromkeys(texts))


def check_patch(preset: Preset, transformer: nn.Module, adapter: Adapter | None) -> list[str]:
    """At patch(): what differs and is worth a warning.

    adapter: as the user gave it, None for none. Raises PresetError for another model or another adapter.
    """
    if _has_patches(transformer):
        try:
            check_fingerprint(dict(preset.base), transformer)
        except ValueError as error:
            text = str(error).replace("adapter was made", "preset was made")
            raise PresetError(text) from error
    elif _fingerprint(transformer) != preset.base:
        raise PresetError(
            f"preset was made for a {preset.base['family']} with another configuration, or another class: this is a "
            f"{type(unwrap(transformer)).__name__}"
        )
    if preset.strategy.coarse:  # else no adapter is used
        found = adapter_digest(adapter)
        if found != preset.adapter:
            raise PresetError(
                f"preset was made with {_adapter_name(preset.adapter)}, patch() got {_adapter_name(found)}: "
                "give the same, or calibrate again"
            )
    return dtype_differs(preset, transformer)


def dtype_differs(preset: Preset, transformer: nn.Module) -> list[str]:
    """A text where a transformer's dtype is not the preset's."""
    dtype = str(unwrap(transformer).dtype).removeprefix("torch.")
    if dtype == preset.dtype:
        return []
    return [f"the preset was calibrated in {preset.dtype}, the transformer is in {dtype}"]


def _adapter_name(digest: str) -> str:
    return "no adapter" if digest == NO_ADAPTER else f"the adapter {digest[:12]}"
