"""Latents and text embeddings on disk: computed once, in safetensors shards, and read from there ever after.

A cache lies in a folder named by a digest of what it depends on (docs/train.md). Each shard is written whole or not at
all, and is made independently of the others: a run that was cut short goes on with the missing ones, and several
processes make one each.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from ..._files import replace_file
from ..checkpoint import SaveFailed
from ..processes import Processes
from .order import Order
from .records import Broken, DataError

FORMAT_VERSION = 3
EMPTY = "empty.safetensors"
OPEN_FILES = 64  # shards that are kept open; systems allow a process some hundred
Maker = Callable[[int], "Shard"]


@dataclass
class Shard:
    """Some samples, by the name of their picture size: ``tensors`` with rows of ``latents`` (and ``noise_level``);
    ``row`` says which row of the text arguments belongs to each.
    """

    tensors: dict[str, dict[str, Tensor]]
    broken: list[Broken]

    @property
    def rows(self) -> dict[str, int]:
        return {size: len(tensors["row"]) for size, tensors in self.tensors.items()}


def cache_key(parts: dict[str, Any]) -> str:
    """A digest of what a cache depends on."""
    text = json.dumps({"version": FORMAT_VERSION} | parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def build(
    folder: Path, count: int, make: Maker, empty: Callable[[], dict[str, Tensor]], processes: Processes
) -> None:
    """Make those of the ``count`` shards in ``folder`` that are missing or damaged; this process every n-th.

    Raises:
        SaveFailed: a shard could not be written; those before it are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if processes.main and _header(folder / EMPTY) is None:
        _write(folder / EMPTY, empty(), {})
    own = range(processes.rank, count, processes.count)
    missing = [number for number in own if _header(_shard(folder, number)) is None]
    for number in tqdm(missing, desc="cache", unit="shard", disable=not processes.main or not missing):
        shard = make(number)
        note = {"rows": shard.rows, "broken": [asdict(broken) for broken in shard.broken]}
        flat = {
            f"{size}/{n}": tensor for size, tensors in shard.tensors.items() for n, tensor in tensors.items()
        }
        _write(_shard(folder, number), flat, note)
    processes.wait()


def complete(folder: Path, count: int) -> bool:
    """Whether all shards are there and readable."""
    paths = [folder / EMPTY, *(_shard(folder, number) for number in range(count))]
    return all(_header(path) is not None for path in paths)


class CachedData:
    """The samples of a cache, in an order that depends on the seed alone.

    Args:
        folder: of the cache, complete.
        count: its number of shards.
        batch: samples a batch.
        together: batches that have one size among them: those of a step, in all processes.
        empty_share: of the samples, the text is replaced by that of the empty caption.
        extra: further arguments of the call for a batch of so many.

    Attributes:
        broken: files that could not be used.
        sizes: how many samples there are of each picture size.
        together: samples of a step.

    Raises:
        DataError: no sample is left.
    """

    def __init__(
        self,
        folder: Path,
        count: int,
        batch: int,
        *,
        together: int = 1,
        empty_share: float = 0.0,
        seed: int = 0,
        extra: Callable[[int], dict[str, Tensor]] = lambda count: {},
    ):
        self._paths = [_shard(folder, number) for number in range(count)]
        headers = [_header(path) or {"rows": {}, "broken": []} for path in self._paths]
        self.broken = [Broken(**entry) for header in headers for entry in header["broken"]]
        self._places: dict[str, list[tuple[int, int]]] = {}
        for number, header in enumerate(headers):
            for size, rows in header["rows"].items():
                self._places.setdefault(size, []).extend((number, row) for row in range(rows))
        self.sizes = {size: len(self._places[size]) for size in sorted(self._places)}
        if not self.sizes:
            first = f", {self.broken[0].name}: {self.broken[0].reason}" if self.broken else ""
            raise DataError(f"data: no sample can be used; {len(self.broken)} are broken{first}")
        self._batch, self._empty_share, self._seed, self._extra = batch, empty_share, seed, extra
        with safe_open(folder / EMPTY, framework="pt") as file:
            self._empty = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self._open: dict[int, Any] = {}
        self.together = batch * together
        self._order = Order(list(self.sizes.values()), self.together, seed)

    def __len__(self) -> int:
        return sum(self.sizes.values())

    def __call__(self, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Batch ``number``: latents and the call's other arguments. Every pass over a size has its own order."""
        samples = [self._sample(number * self._batch + index) for index in range(self._batch)]
        stacked = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
        if "img_ids" in stacked:  # the same for all samples: FLUX takes it without a batch
            stacked["img_ids"] = stacked["img_ids"][0]
        latents = stacked.pop("latents")
        return latents.float(), stacked | self._extra(self._batch)

    def _sample(self, index: int) -> dict[str, Tensor]:
        which, place = self._order(index)
        size = list(self.sizes)[which]
        number, row = self._places[size][place]
        if number not in self._open:
            if len(self._open) == OPEN_FILES:
                del self._open[next(iter(self._open))]  # the one that was opened first
            self._open[number] = safe_open(self._paths[number], framework="pt")
        file = self._open[number]
        sample, text_row = {}, int(file.get_slice(f"{size}/row")[row])
        for path in file.keys():  # noqa: SIM118
            of, _, name = path.rpartition("/")
            if of == size and name != "row":
                at = row if name in ("latents", "noise_level") else text_row
                sample[name] = file.get_slice(path)[at]
        draw = torch.Generator().manual_seed((self._seed * 1_000_003 + index) * 2 + 1)
        if float(torch.rand((), generator=draw)) < self._empty_share:
            sample |= {name: tensor[0] for name, tensor in self._empty.items()}
        return sample


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.safetensors"


def _write(path: Path, tensors: dict[str, Tensor], note: dict[str, Any]) -> None:
    contents = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    try:
        replace_file(path, lambda to: save_file(contents, to, {"note": json.dumps(note)}), shared=True)
    except (OSError, SafetensorError) as error:
        raise SaveFailed(f"cache {path} could not be written: {error}") from error


def _header(path: Path) -> dict[str, Any] | None:
    """What a shard says about itself; None where there is none, or none that is whole."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {})["note"])
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        warnings.warn(f"cache {path} is damaged and is made again: {error}", stacklevel=3)
        path.unlink(missing_ok=True)  # another run may have been first
        return None


def join(parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of the same names, one after the other along their first dimension."""
    parts = list(parts)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}
