"""From the settings to training data that can be read."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...coarse.base_weights import fingerprint
from ...families import encoder_for
from ..processes import Processes
from ..settings import DataSettings, ModelSettings
from .cache import CachedData, Shard, build, cache_key, complete, join
from .generate import guidance_of, is_told, run_states
from .pixels import read_pixels
from .records import Broken, DataError, Record, read_records
from .sizes import check_sizes, name_of


class Plan:
    """What a cache is made from: known before anything is encoded.

    Attributes:
        shards: how many the cache has.
        folder: where it lies, named by all that it depends on.
        about: for the adapter's card.
    """

    def __init__(self, settings: DataSettings, model: ModelSettings, *transformers: nn.Module):
        self.settings = settings
        self.records: list[Record] = []
        self.broken: list[Broken] = []
        key: dict[str, Any] = {
            "model": [
                model.path,
                model.revision,
                model.variant,
                model.dtype,
                *(fingerprint(transformer) for transformer in transformers),
            ],
            "size": [settings.sizes, settings.frames, settings.max_sequence_length],
            "shard_size": settings.shard_size,
        }
        if settings.source == "pictures":
            self.records, self.broken = read_records(settings.path or "")
            listed = "\n".join(f"{r.name}\t{r.size}\t{r.caption}" for r in self.records)
            key["records"] = hashlib.sha256(listed.encode()).hexdigest()
            self.shards = -(-len(self.records) // settings.shard_size)
            self.about = (
                f"{len(self.records)} captioned pictures of {', '.join(map(name_of, settings.sizes))}"
            )
        else:
            prompts = read_prompts(settings.prompts or "")
            self.runs = [  # every prompt comes in one size after the other
                (prompt, settings.sizes[(i + number) % len(settings.sizes)])
                for i in range(settings.generate.per_prompt)
                for number, prompt in enumerate(prompts)
            ]
            key["prompts"] = prompts
            guidance = guidance_of(transformers[0], settings)
            key["generate"] = asdict(settings.generate) | {"guidance_scale": guidance}
            self._per_shard = max(1, settings.shard_size // settings.generate.states)
            self.shards = -(-len(self.runs) // self._per_shard)
            self.about = (
                f"{len(self.runs)} runs of the base itself on {len(prompts)} prompts, "
                f"{settings.generate.states} of {settings.generate.steps} states each"
            )
        self.folder = Path(settings.cache) / cache_key(key)

    def complete(self) -> bool:
        """Whether everything is on disk already."""
        return complete(self.folder, self.shards)

    def prepare(self, pipe: Callable[[], Any], processes: Processes) -> None:
        """Make what is missing; ``pipe()`` gives the pipeline, and is called only if something is.

        Raises:
            SaveFailed: a shard could not be written.
            ValueError: a size that the model's VAE and patch size do not divide.
        """
        if self.complete():
            processes.wait()
            return
        encoder = encoder_for(pipe(), self.settings.max_sequence_length)
        check_sizes(self.settings.sizes, encoder.token_side)
        make = self._pictures if self.settings.source == "pictures" else self._states
        build(self.folder, self.shards, lambda i: make(encoder, i), lambda: encoder.text([""]), processes)

    def open(self, transformer: nn.Module, together: int = 1) -> CachedData:
        """The data, and the names of what is broken in them; DataError where nothing is left.

        Args:
            together: batches of a step, in all processes.
        """
        settings = self.settings
        data = CachedData(
            self.folder,
            self.shards,
            settings.batch,
            together=together,
            empty_share=settings.empty_share,
            seed=settings.seed,
            extra=lambda count: _guidance(transformer, settings.told, count),
        )
        data.broken = [*self.broken, *data.broken]
        return data

    def _pictures(self, encoder: Any, number: int) -> Shard:
        settings, size = self.settings, self.settings.shard_size
        parts: dict[str, list[dict[str, Tensor]]] = defaultdict(list)
        broken = []
        for record in self.records[number * size : (number + 1) * size]:
            try:
                pixels = read_pixels(record, settings.sizes, settings.frames)
            except (DataError, OSError) as error:
                broken.append(Broken(record.name, str(error)))
                continue
            like = parts[name_of(pixels.shape[-2:])]
            found = {"latents": encoder.latents(pixels[None])} | encoder.text([record.caption])
            like.append({name: tensor.cpu() for name, tensor in found.items()} | _row(len(like)))
        return Shard({like: join(rows) for like, rows in parts.items()}, broken)

    def _states(self, encoder: Any, number: int) -> Shard:
        parts: dict[str, list[dict[str, Tensor]]] = defaultdict(list)
        first = number * self._per_shard
        for index, (prompt, (height, width)) in enumerate(self.runs[first : first + self._per_shard]):
            seed = self.settings.generate.seed + first + index
            settings = replace(self.settings, height=height, width=width, buckets=())
            states = run_states(encoder, prompt, settings, seed)
            like = parts[name_of((height, width))]
            like.append(states | _row(len(like), len(states["latents"])))
        return Shard({like: join(rows) for like, rows in parts.items()}, [])


def _guidance(transformer: nn.Module, guidance: float, count: int) -> dict[str, Tensor]:
    """The guidance argument [count] of a guidance-distilled model; nothing for others."""
    return {"guidance": torch.full((count,), float(guidance))} if is_told(transformer) else {}


def _row(index: int, count: int = 1) -> dict[str, Tensor]:
    """Which row of the text arguments belongs to each of ``count`` latents."""
    return {"row": torch.full((count,), index)}


def read_prompts(path: str | Path, name: str = "data.prompts") -> list[str]:
    """One prompt a line, empty lines skipped; DataError, in the name of what was set, where there is none."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{name} must be a text file with one prompt a line, got {path}: {error} "
            "(a relative path begins at the current folder)"
        ) from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise DataError(f"{name}: {path} holds no prompt; expected one a line")
    return prompts


def report(data: CachedData) -> str:
    """A line for the user: how many samples of which sizes, and which files are broken."""
    counts = ", ".join(f"{count} of {size}" for size, count in data.sizes.items())
    said = [f"data: {len(data)} samples: {counts}" if len(data.sizes) > 1 else f"data: {len(data)} samples"]
    few = [size for size, count in data.sizes.items() if count < data.together]
    if few:
        said.append(
            f"a step learns from {data.together} samples of one size: those of {', '.join(few)} come up more than once "
            "in it, though as often in all as the others"
        )
    if data.broken:
        named = "; ".join(f"{one.name}: {one.reason}" for one in data.broken[:10])
        more = f"; and {len(data.broken) - 10} more" if len(data.broken) > 10 else ""
        said.append(f"{len(data.broken)} files are broken and left out: {named}{more}")
    return "; ".join(said)
