"""Reading a training file strictly: every key is known, every value has its type, every error names the key."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union

import yaml

from ..strategies.checks import nearest
from .settings import TrainSettings


class SettingsError(ValueError):
    """A training file, or a ``--set``, is not what was expected; the text names the key and what came."""


def read_settings(path: str | Path, overrides: Iterable[str] = ()) -> TrainSettings:
    """The settings in the YAML file ``path``, with ``overrides`` like "training.lr=1e-4" on top.

    Raises:
        SettingsError: no such file, no YAML, an unknown key, or a value that does not fit.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"config {path} cannot be read: {error}") from error
    tree = _load(text, f"config {path}")
    if not isinstance(tree, dict):
        raise SettingsError(f"config {path} must hold keys and values, got {_kind(tree)}")
    for override in overrides:
        _override(tree, override)
    return convert(tree, TrainSettings, "")


def convert(value: Any, kind: Any, key: str) -> Any:
    """``value`` of a file as ``kind``, an annotation of the settings; ``key`` is its dotted name."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        return _section(value, kind, key)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        rest = [argument for argument in arguments if argument is not type(None)]
        if len(rest) > 1:  # a word or a list: the value's own form decides
            lists = [argument for argument in rest if typing.get_origin(argument) is tuple]
            rest = lists if isinstance(value, list) else [one for one in rest if one not in lists]
        return convert(value, rest[0], key)
    if origin is Literal:
        if value not in arguments:
            known = ", ".join(str(argument) for argument in arguments)
            raise SettingsError(f"{key} must be one of {known}, got {value!r}{_nearest(value, arguments)}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise SettingsError(f"{key} must be a list, got {_kind(value)}")
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise SettingsError(f"{key} must be a list of {len(arguments)}, got {len(value)}: {value}")
        inner = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(convert(v, a, f"{key}[{i}]") for i, (v, a) in enumerate(zip(value, inner, strict=True)))
    if origin is Mapping:
        if not isinstance(value, dict):
            raise SettingsError(f"{key} must be a mapping, got {_kind(value)}")
        return {
            convert(k, arguments[0], key): convert(v, arguments[1], f"{key}.{k}") for k, v in value.items()
        }
    return _plain(value, kind, key)


def _section(value: Any, kind: type, key: str) -> Any:
    name = key or "the file"
    if not isinstance(value, dict):
        raise SettingsError(f"{name} must be a section of keys, got {_kind(value)}")
    known = {entry.name: entry for entry in fields(kind)}
    hints = typing.get_type_hints(kind)
    prefix = f"{key}." if key else ""
    for given in value:
        if given not in known:
            raise SettingsError(
                f"{prefix}{given} is not a key of {name}{_nearest(given, known) or f': it has {sorted(known)}'}"
            )
    for entry in known.values():
        if entry.default is MISSING and entry.default_factory is MISSING and entry.name not in value:
            raise SettingsError(
                f"{prefix}{entry.name} is missing; the files in examples/train/ have all that is needed"
            )
    inside = {given: convert(v, hints[given], f"{prefix}{given}") for given, v in value.items()}
    try:
        return kind(**inside)
    except SettingsError:
        raise
    except ValueError as error:
        raise SettingsError(f"{name}: {error}") from error


def _plain(value: Any, kind: type, key: str) -> Any:
    if kind is float and isinstance(value, str):  # YAML 1.1 takes 1e-4 for a word
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        name = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[kind]
        raise SettingsError(f"{key} must be {name}, got {_kind(value)}")
    return value


def _override(tree: dict[str, Any], text: str) -> None:
    key, separator, value = text.partition("=")
    parts = [int(part) if part.isdecimal() else part for part in key.strip().split(".")]  # 4: a scale
    if not separator or "" in parts:
        raise SettingsError(f"--set takes section.key=value, got {text!r}")
    branch = tree
    for part in parts[:-1]:
        branch = branch.setdefault(part, {})
        if not isinstance(branch, dict):
            raise SettingsError(f"--set {text}: {part} is not a section")
    branch[parts[-1]] = _load(value, f"--set {key}")


def _load(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise SettingsError(f"{where} is not YAML: {error}") from error


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key that is given twice, instead of taking the last."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, (list, dict)) or key in found:
            raise yaml.YAMLError(
                f"the key {key!r} is given twice or is no word, line {key_node.start_mark.line + 1}"
            )
        found[key] = loader.construct_object(value_node, deep=True)
    return found


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _nearest(given: Any, known: Iterable[Any]) -> str:
    near = nearest(given, known)
    return f"; did you mean {near!r}?" if near else ""


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"{value!r}"
