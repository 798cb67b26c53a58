"""From the settings to training data that can be read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...multiscale.base_weights import fingerprint
from ..processes import Processes
from ..settings import DataSettings, ModelSettings
from .cache import CachedData, Shard, build, cache_key, complete, join
from .encoders import encoder_for, told_guidance
from .generate import run_states
from .pixels import read_pixels
from .records import Broken, DataError, Record, read_records


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
            "size": [settings.height, settings.width, settings.frames, settings.max_sequence_length],
            "shard_size": settings.shard_size,
        }
        if settings.source == "pictures":
            self.records, self.broken = read_records(settings.path or "")
            listed = "\n".join(f"{r.name}\t{r.size}\t{r.caption}" for r in self.records)
            key["records"] = hashlib.sha256(listed.encode()).hexdigest()
            self.shards = -(-len(self.records) // settings.shard_size)
            self.about = f"{len(self.records)} captioned pictures of {settings.height}x{settings.width}"
        else:
            prompts = read_prompts(settings.prompts or "")
            self.runs = [(prompt, i) for i in range(settings.generate.per_prompt) for prompt in prompts]
            key["prompts"] = prompts
            key["generate"] = asdict(settings.generate)
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
        """
        if self.complete():
            processes.wait()
            return
        encoder = encoder_for(pipe(), self.settings.max_sequence_length)
        make = self._pictures if self.settings.source == "pictures" else self._states
        build(self.folder, self.shards, lambda i: make(encoder, i), lambda: encoder.text([""]), processes)

    def open(self, transformer: nn.Module) -> CachedData:
        """The data, and the names of what is broken in them; DataError where nothing is left."""
        settings = self.settings
        data = CachedData(
            self.folder,
            self.shards,
            settings.batch,
            empty_share=settings.empty_share,
            seed=settings.seed,
            extra=lambda count: told_guidance(transformer, settings.guidance, count),
        )
        data.broken = [*self.broken, *data.broken]
        return data

    def _pictures(self, encoder: Any, number: int) -> Shard:
        settings, size = self.settings, self.settings.shard_size
        rows, broken = [], []
        for record in self.records[number * size : (number + 1) * size]:
            try:
                pixels = read_pixels(record, settings.height, settings.width, settings.frames)
            except (DataError, OSError) as error:
                broken.append(Broken(record.name, str(error)))
                continue
            latents = encoder.latents(pixels[None])
            rows.append({"latents": latents.cpu()} | encoder.text([record.caption]))
        tensors = join({name: tensor.cpu() for name, tensor in row.items()} for row in rows)
        if tensors:
            tensors["row"] = torch.arange(len(rows))
        return Shard(tensors, broken)

    def _states(self, encoder: Any, number: int) -> Shard:
        parts = []
        first = number * self._per_shard
        for index, (prompt, _) in enumerate(self.runs[first : first + self._per_shard]):
            seed = self.settings.generate.seed + first + index
            states = run_states(encoder.pipe, prompt, self.settings, seed)
            row = torch.full((len(states.latents),), index)
            parts.append(
                {"latents": states.latents, "noise_level": states.noise_level, "row": row} | states.text
            )
        return Shard(join(parts), [])


def read_prompts(path: str | Path) -> list[str]:
    """One prompt a line, empty lines skipped; DataError where there is none."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.prompts {path} cannot be read: {error}") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise DataError(f"data.prompts {path} holds no prompt; expected one a line")
    return prompts


def report_broken(broken: list[Broken], samples: int) -> str:
    """A line for the user: how many, and which."""
    if not broken:
        return f"data: {samples} samples"
    named = "; ".join(f"{one.name}: {one.reason}" for one in broken[:10])
    more = f"; and {len(broken) - 10} more" if len(broken) > 10 else ""
    return f"data: {samples} samples; {len(broken)} files are broken and left out: {named}{more}"
