"""Pictures and clips with their captions, as they lie in a folder or in tar shards; nothing is decoded here."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
CLIPS = (".gif", ".webp", ".mp4", ".webm", ".mov", ".mkv")


class DataError(ValueError):
    """The training data are not what was expected; the text names the file."""


@dataclass(frozen=True)
class Record:
    """One picture or clip: the ``name`` that errors give it, its ``caption`` ("" where there is none), its size in
    bytes, and how to read them.
    """

    name: str
    caption: str
    size: int
    read: Callable[[], bytes] = field(repr=False)


@dataclass(frozen=True)
class Broken:
    """A file that can't be used, and why."""

    name: str
    reason: str


def read_records(path: str | Path) -> tuple[list[Record], list[Broken]]:
    """The records of a folder of pictures, or of tar shards, in a fixed order; and what is broken already here.

    Args:
        path: a folder; a .tar file; or a pattern of them ("shards/*.tar"). A folder that holds metadata.jsonl has
            its captions there, a line {"file_name": ..., "text": ...} each. Without one, every picture in it and
            below is taken, its caption from the .txt file of the same name. In a shard, which is not compressed, files
            of one name belong together: the picture, and .txt or .json ("text" or "caption") with the caption.

    Raises:
        DataError: there is nothing, or metadata.jsonl is not as above (the line is named).
    """
    path = Path(path)
    if path.is_dir():
        shards = sorted(path.glob("*.tar"))
        found = _from_shards(shards) if shards else _from_folder(path)
    elif path.suffix == ".tar" or "*" in path.name:
        found = _from_shards([path] if path.is_file() else sorted(path.parent.glob(path.name)))
    else:
        raise DataError(f"data.path must be a folder, a .tar file or a pattern of them, got {path}")
    records = [record for record in found if isinstance(record, Record)]
    broken = [record for record in found if isinstance(record, Broken)]
    if not records:
        more = f"; {broken[0].name}: {broken[0].reason}" if broken else ""
        raise DataError(f"data.path: there are no pictures in {path}{more}")
    return records, broken


def _from_folder(folder: Path) -> list[Record | Broken]:
    metadata = folder / "metadata.jsonl"
    if metadata.is_file():
        return [
            _record(name, folder / name, caption)
            if (folder / name).is_file()
            else Broken(name, "no such file")
            for name, caption in _metadata(metadata)
        ]
    wanted = {*PICTURES, *CLIPS}
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in wanted)
    return [_record(str(file.relative_to(folder)), file, _caption_beside(file)) for file in files]


def _metadata(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            name, caption = entry["file_name"], _caption_in(entry)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f'{path}, line {number}: expected {{"file_name": ..., "text": ...}}, got {line[:80]!r}'
            ) from error
        if not isinstance(name, str):
            raise DataError(f"{path}, line {number}: file_name must be a text, got {line[:80]!r}")
        yield name, caption


def _record(name: str, file: Path, caption: str) -> Record:
    return Record(name, caption, file.stat().st_size, file.read_bytes)


def _caption_in(entry: Any) -> str:
    caption = entry.get("text", entry.get("caption"))
    if not isinstance(caption, str | None):
        raise TypeError(f"text must be a text, got {caption!r}")
    return caption or ""


def _caption_beside(file: Path) -> str:
    text = file.with_suffix(".txt")
    return text.read_text(encoding="utf-8", errors="replace").strip() if text.is_file() else ""


def _from_shards(shards: list[Path]) -> list[Record | Broken]:
    found: list[Record | Broken] = []
    for shard in shards:
        samples: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            with tarfile.open(shard, "r:") as archive:  # records are read from where they lie
                for member in archive:
                    if member.isfile():
                        folder, slash, base = member.name.rpartition("/")
                        key, _, extension = base.partition(".")
                        parts = samples.setdefault(folder + slash + key, {})
                        parts[f".{extension.lower()}"] = (member.offset_data, member.size)
        except (tarfile.TarError, OSError, EOFError) as error:
            reason = f"the archive, which must not be compressed, can't be read to its end: {error}"
            found.append(Broken(shard.name, reason))
        for key, parts in samples.items():
            extension = next((end for end in parts if end in (*PICTURES, *CLIPS)), None)
            if extension is not None:
                found.append(_in_shard(shard, key, parts, extension))
    return found


def _in_shard(shard: Path, key: str, parts: dict[str, tuple[int, int]], extension: str) -> Record | Broken:
    name = f"{shard.name}/{key}{extension}"
    try:
        caption = ""
        if ".txt" in parts:
            caption = _slice(shard, *parts[".txt"]).decode("utf-8", errors="replace").strip()
        elif ".json" in parts:
            caption = _caption_in(json.loads(_slice(shard, *parts[".json"])))
    except (ValueError, TypeError, AttributeError) as error:
        return Broken(name, f"its caption can't be read: {error}")
    offset, size = parts[extension]
    return Record(name, caption, size, partial(_slice, shard, offset, size))


def _slice(path: Path, offset: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)
