"""Files of this library's own: written whole, read with suspicion."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ._version import __version__

LEFT_AFTER = 3600
"""Seconds without a write after which a partial file is one that a killed process left."""


def replace_file(path: Path, write_to: Callable[[str], Any], shared: bool = False) -> None:
    """Write beside ``path``, flush to disk, then take its place: readers see the old file or the new.

    What a killed process left beside it, the next one replaces. shared: several processes may write the file at once, on
    several machines; what a killed one left in the folder goes after an hour.
    """
    temporary = path.with_name(f".{path.name}.partial")
    if shared:
        _remove_left(path.parent)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        write_to(str(temporary))
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # safetensors makes private files; an adapter is an ordinary one
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _remove_left(folder: Path) -> None:
    """Remove old partial files of any name: nobody may write that one again."""
    for left in folder.glob(f".*.{'[0-9a-f]' * 8}.partial"):
        with suppress(OSError):  # another process may be first, another user's stay
            if time.time() - left.stat().st_mtime > LEFT_AFTER:
                left.unlink()


def replace_text(path: Path, text: str) -> None:
    """:func:`replace_file` with a text."""
    replace_file(path, lambda partial: Path(partial).write_text(text, encoding="utf-8"))


def read_json(path: Path, origin: str, error: type[ValueError]) -> Any:
    """What a JSON file holds; ``error``, in the name of ``origin``, where it can't be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as reason:
        raise error(f"{origin} is not readable JSON: {reason}") from reason


def version_of(data: Any, name: str, newest: int, origin: str, error: type[ValueError]) -> int:
    """The version of data in the format ``name``; ``error`` for another format, or for a version above ``newest``."""
    if not isinstance(data, dict) or data.get("format") != name:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise error(f"{origin}: expected format {name!r}, got {found!r}")
    version = data.get("format_version")
    if type(version) is not int or not 1 <= version <= newest:
        raise error(
            f"{origin}: expected format_version 1 to {newest}, which ddit_ext {__version__} reads, got {version!r}, "
            f"written by ddit_ext {data.get('ddit_ext', '?')}"
        )
    return version
