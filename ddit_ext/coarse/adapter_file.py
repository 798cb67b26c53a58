"""The adapter's two files (docs/design/adapter-format.md): written whole, read with suspicion."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .._files import read_json, replace_file, replace_text, version_of
from .._version import __version__
from .base_weights import check_fingerprint
from .errors import AdapterError
from .scale_spec import LARGEST, is_finite, spec_from_json
from .scale_weights import ScaleWeights

if TYPE_CHECKING:
    from .adapter import Adapter

FORMAT = "ddit_ext.adapter"
FORMAT_VERSION = 1
TENSORS, DESCRIPTION = "adapter.safetensors", "adapter.json"
STORED = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_FIELDS = {
    "format": str,
    "format_version": int,
    "ddit_ext": str,
    "base": dict,
    "scales": list,
    "lora_layers": dict,
    "training": dict,
    "tensors": dict,
}


def write(adapter: Adapter, folder: Path, dtype: torch.dtype | None) -> Path:
    tensors = {}
    for name, parameter in named_parameters(adapter).items():
        small = dtype is not None and parameter.ndim > 1 and not name.endswith("knots")
        kind = dtype if small else parameter.dtype
        if kind not in STORED:
            raise AdapterError(f"dtype must be one of {_stored()}, got {kind} for {name}")
        tensors[name] = parameter.detach().to("cpu", kind).contiguous()
    # From every size: one of rank 0 has none of the layers that another has.
    lora = {name: low for weights in adapter.sizes.values() for name, low in weights.lora.items()}
    description: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "ddit_ext": __version__,
        "base": adapter.base,
        "scales": [asdict(weights.spec) for weights in adapter.sizes.values()],
        "lora_layers": {name: [low.a.shape[1], low.b.shape[0]] for name, low in lora.items()},
        "training": adapter.training_record,
    }
    json.dumps(description, allow_nan=False)  # raises while the old files are still there
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"format": FORMAT, "format_version": str(FORMAT_VERSION)}
    replace_file(folder / TENSORS, lambda path: save_file(tensors, path, metadata))
    size = (folder / TENSORS).stat().st_size
    description["tensors"] = {"bytes": size, "sha256": _digest(folder / TENSORS)}
    replace_text(folder / DESCRIPTION, json.dumps(description, indent=1, allow_nan=False) + "\n")
    return folder


def read(cls: type[Adapter], path: Path, transformer: nn.Module | None) -> Adapter:
    if not path.exists():
        raise AdapterError(
            f"adapter: there is no file or folder {path}; names on the hub are not looked up: download it first "
            "(hf download NAME --local-dir FOLDER) and give the folder"
        )
    folder = path if path.is_dir() else path.parent
    if not path.is_dir() and path.name not in (TENSORS, DESCRIPTION):
        raise AdapterError(f"expected an adapter's folder or its {TENSORS}, got {path}")
    for name in (DESCRIPTION, TENSORS):
        if not (folder / name).is_file():
            raise AdapterError(f"expected {DESCRIPTION} and {TENSORS} in {folder}, {name} is missing")
    description = _read_description(folder / DESCRIPTION)
    if transformer is not None:
        check_fingerprint(description["base"], transformer)
    specs = [spec_from_json(entry) for entry in description["scales"]]
    scales = [spec.scale for spec in specs]
    if len(set(scales)) != len(scales):
        raise AdapterError(f"{folder / DESCRIPTION}: scales must be distinct, got {scales}")
    layers = {name: tuple(shape) for name, shape in description["lora_layers"].items()}
    tensors = _read_tensors(folder / TENSORS, description["tensors"])
    parts = (specs, layers, description["base"], description["training"])
    try:
        with torch.device("meta"):  # sizes that the tensors don't have would take memory
            expected = cls(*parts)
    # Products of sizes that overflow; names that torch keeps for itself.
    except (RuntimeError, KeyError) as error:
        raise AdapterError(f"{folder / DESCRIPTION}: no adapter can be as it says: {error}") from error
    _check_tensors(expected, tensors, folder / TENSORS)
    adapter = cls(*parts)
    with torch.no_grad():
        for name, parameter in named_parameters(adapter).items():
            parameter.copy_(tensors[name])
    return adapter.eval()


def named_tensors(weights: ScaleWeights) -> dict[str, nn.Parameter]:
    """Name in the file -> parameter: ``2.embed_weight``, ``2.lora.transformer_blocks.0.ff.net.2.a``, …"""
    named = {}
    for name, parameter in weights.named_parameters():
        if name.startswith("lora_modules."):
            name = "lora." + name.removeprefix("lora_modules.").replace("/", ".")
        named[f"{weights.scale}.{name}"] = parameter
    return named


def named_parameters(adapter: Adapter) -> dict[str, nn.Parameter]:
    """Those of all sizes."""
    sizes = adapter.sizes.values()
    return {name: parameter for weights in sizes for name, parameter in named_tensors(weights).items()}


def _read_description(path: Path) -> dict[str, Any]:
    description = read_json(path, str(path), AdapterError)
    version_of(description, FORMAT, FORMAT_VERSION, str(path), AdapterError)
    for name, kind in _FIELDS.items():
        if not isinstance(description.get(name), kind):
            raise AdapterError(
                f"{path}: {name} must be {kind.__name__}, got {type(description.get(name)).__name__}"
            )
    base = description["base"]
    if not isinstance(base.get("family"), str) or not all(
        isinstance(base.get(k), dict) for k in ("config", "weights")
    ):
        raise AdapterError(f"{path}: base must have family, config and weights, got {sorted(base)}")
    for name, values in base["weights"].items():
        if not isinstance(values, list) or not all(map(is_finite, values)):
            raise AdapterError(
                f"{path}: base.weights[{name!r}] must be a list of finite numbers, got {values!r}"
            )
    for name, shape in description["lora_layers"].items():
        if not name:
            raise AdapterError(f"{path}: lora_layers has a layer without a name")
        if not (
            isinstance(shape, list)
            and len(shape) == 2
            and all(isinstance(n, int) and 0 < n <= LARGEST for n in shape)
        ):
            raise AdapterError(
                f"{path}: lora_layers[{name!r}] must be [in, out] features, each 1 to {LARGEST}, got {shape!r}"
            )
    return description


def _read_tensors(path: Path, expected: dict[str, Any]) -> dict[str, Tensor]:
    size = path.stat().st_size
    if size != expected.get("bytes"):
        raise AdapterError(
            f"{path} is truncated or from another save: expected {expected.get('bytes')} bytes, got {size}"
        )
    digest = _digest(path)
    if digest != expected.get("sha256"):
        raise AdapterError(
            f"{path} is damaged or from another save: expected sha256 {expected.get('sha256')}, got {digest}"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise AdapterError(f"{path} is not a safetensors file: {error}") from error


def _check_tensors(adapter: Adapter, tensors: dict[str, Tensor], path: Path) -> None:
    named = named_parameters(adapter)
    missing, unexpected = sorted(named.keys() - tensors.keys()), sorted(tensors.keys() - named.keys())
    if missing or unexpected:
        raise AdapterError(f"{path}: lacks the tensors {missing[:5]} and has the unexpected {unexpected[:5]}")
    for name, parameter in named.items():
        tensor = tensors[name]
        if tensor.shape != parameter.shape:
            raise AdapterError(
                f"{path}: {name} must have shape {tuple(parameter.shape)}, got {tuple(tensor.shape)}"
            )
        if tensor.dtype not in STORED:
            raise AdapterError(f"{path}: {name} must be one of {_stored()}, got {tensor.dtype}")
        if not bool(torch.isfinite(tensor).all()):
            raise AdapterError(f"{path}: {name} holds values that are not finite")


def _stored() -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in STORED)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
