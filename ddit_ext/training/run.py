"""A whole run from its file: model, data, training, files."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs, ProjectConfiguration

from .._files import replace_text
from ..coarse.adapter import Adapter
from ..families import encoder_for
from .base import Base, load_base
from .card import push, write_card
from .checkpoint import checkpoints
from .config import DistillConfig
from .data.prepare import Plan, report
from .distill import DistillResult, distill
from .interrupt import Stop
from .observer import Observer
from .pair import HIGH, LOW, config_of
from .processes import Processes, shard
from .samples import Samples
from .settings import TrainSettings
from .tracking import Tracking, chosen_trackers

#: One process may encode data or draw samples for long while the others wait.
PATIENCE = timedelta(days=7)


class _Card(Observer):
    """Writes the card into ``folder`` whenever the adapter is saved."""

    def __init__(self, folder: Path, settings: TrainSettings, data: str):
        self._folder = folder
        self._settings = settings
        self._data = data

    def saved(self, folder: Path, adapter: Adapter) -> None:
        write_card(self._folder, adapter, self._settings, self._data)


def train(settings: TrainSettings, *, resume: bool = False) -> DistillResult:
    """Do what ``settings`` say; under ``accelerate launch``, as one of its processes.

    Args:
        resume: go on from the newest checkpoint in the output folder. Without it, a folder that has one is refused.

    Returns:
        the result; of two transformers, that of the second.

    Raises:
        ValueError: settings that don't fit together or to the model; the key is named.
        Interrupted: SIGINT or SIGTERM during the training; the state has been saved.
        SaveFailed, DataError, TrainingDiverged: as they say.
    """
    folder = Path(settings.output.folder)
    if not resume and any(checkpoints(place) for place in (folder, folder / HIGH, folder / LOW)):
        raise ValueError(
            f"output.folder: {folder} holds checkpoints of an earlier run: continue it with --resume, or name "
            "another folder"
        )
    trackers = chosen_trackers(settings.output)
    accelerator = Accelerator(
        log_with=trackers or None,
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "tensorboard")),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    processes = Processes(accelerator)
    training = _precision(settings, accelerator)
    base = load_base(settings.model, accelerator.device)
    if base.boundary is not None and settings.output.sample_every:
        raise ValueError(
            "output.sample_every must be 0 for a model of two transformers: one at a time is on the device"
        )
    for transformer in base.transformers.values():
        transformer.requires_grad_(False).eval()
        if settings.model.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
    plan = Plan(settings.data, settings.model, *base.transformers.values())
    plan.prepare(base.pipeline, processes)
    prompts = _sample_prompts(base, settings)
    base.release(keep_vae=bool(prompts))
    if trackers:
        accelerator.init_trackers(settings.output.project)
    if processes.main:
        folder.mkdir(parents=True, exist_ok=True)
        written = json.dumps(asdict(settings), indent=1)
        replace_text(folder / "settings.json", written + "\n")
    try:
        with Stop() as stop:  # of a pair, a signal at the end of the first ends the second after a step
            for name in list(base.transformers):
                config = config_of(name, training, settings.adapter.scales, base.boundary)
                result = _distil_one(settings, base, name, config, plan, prompts, accelerator, resume, stop)
                if base.boundary is not None:
                    base.drop(name)
    finally:
        accelerator.end_training()
    if settings.output.push_to_hub is not None and processes.main:
        where = push(folder / "adapter", settings.output.push_to_hub, settings.output.private)
        accelerator.print(f"uploaded: {where}")
    accelerator.print(f"adapter: {folder / 'adapter'}")
    return result


def _distil_one(
    settings: TrainSettings,
    base: Base,
    name: str,
    config: DistillConfig,
    plan: Plan,
    prompts: list[dict[str, Any]],
    accelerator: Accelerator,
    resume: bool,
    stop: Stop,
) -> DistillResult:
    """Train the adapter of the transformer ``name``; one of two has folders of its own."""
    folder, within = Path(settings.output.folder), "" if base.boundary is None else name
    transformer = base.transformers[name].to(base.device)
    data = plan.open(transformer, together=config.accumulate * accelerator.num_processes)
    accelerator.print(f"{within}{': ' if within else ''}{report(data)}")
    adapter = Adapter.create(transformer, **asdict(settings.adapter))
    adapter.training_record |= {"base_model": settings.model.path, "data": plan.about}
    if accelerator.distributed_type == DistributedType.FSDP:
        shard(transformer, accelerator.state.fsdp_plugin)
    observers: list[Observer] = [_Card(folder / "adapter", settings, plan.about)]
    if accelerator.trackers:
        observers.append(Tracking(accelerator, prefix=f"{within}/" if within else ""))
    if prompts:
        encoder = encoder_for(base.pipeline(), settings.data.max_sequence_length)
        observers.append(Samples(encoder, prompts, settings, accelerator))
    return distill(
        transformer,
        adapter,
        data,
        config,
        out_dir=folder / within,
        resume=resume,
        accelerator=accelerator,
        observers=observers,
        stop=stop,
        adapter_dir=folder / "adapter" / within,
    )


def _precision(settings: TrainSettings, accelerator: Accelerator) -> DistillConfig:
    """The training settings with an autocast that fits the base's dtype and accelerate's mixed precision."""
    wanted = {"bf16": "bfloat16", "fp16": "float16"}.get(accelerator.mixed_precision)
    training, dtype = settings.training, settings.model.dtype
    if wanted is not None and training.autocast not in (None, wanted):
        raise ValueError(
            f"training.autocast is {training.autocast}, but accelerate was launched with mixed precision "
            f"{accelerator.mixed_precision}"
        )
    chosen = training.autocast or wanted or (dtype if dtype != "float32" else None)
    if dtype != "float32" and chosen != dtype:
        raise ValueError(f"training.autocast must be {dtype} for a base in {dtype}, got {chosen}")
    return replace(training, autocast=chosen)


def _sample_prompts(base: Any, settings: TrainSettings) -> list[dict[str, Any]]:
    if not settings.output.sample_every:
        return []
    encoder = encoder_for(base.pipeline(), settings.data.max_sequence_length)
    return [encoder.prompt_arguments(prompt) for prompt in settings.output.sample_prompts]
