"""The distillation loop: an adapter learns to give, at its patch sizes, the velocity that the base gives at
its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from tqdm.auto import tqdm

from ..multiscale.adapter import Adapter
from .config import DistillConfig
from .log import TrainingLog
from .trainer import Trainer, TrainingDiverged

Batch = tuple[Tensor, dict[str, Any]]


@dataclass(frozen=True)
class DistillResult:
    """What a run did: ``steps`` finished in all, the ``log`` lines, and the ``adapter`` with its final
    weights.
    """

    steps: int
    log: list[dict[str, Any]]
    adapter: Adapter


def distill(
    transformer: nn.Module,
    adapter: Adapter,
    batches: Iterable[Batch] | Callable[[int], Batch],
    config: DistillConfig | None = None,
    *,
    out_dir: str | Path | None = None,
    resume: bool = True,
    progress: bool = True,
) -> DistillResult:
    """Train ``adapter`` against the frozen ``transformer`` itself.

    Args:
        transformer: a FLUX or Wan transformer on the device to train on. Its parameters are frozen meanwhile,
            and are as before afterwards. Gradient checkpointing, if enabled, applies to the student.
        adapter: from ``Adapter.create``; it is moved to the transformer's device and trained in place.
        batches: pairs (clean latents, other call arguments) as the ``training_call`` of
            ``FluxSteering`` or ``WanSteering`` takes them. A callable is given the step. An iterable is read in
            order, from its start again when it ends; a resumed run first reads past what the earlier one had.
        config: see :class:`DistillConfig`.
        out_dir: receives ``checkpoint.safetensors``, ``log.jsonl`` and ``adapter/``; None: nothing is
        written.
        resume: continue from the checkpoint in ``out_dir``, if there is one.
        progress: show a progress bar.

    Returns:
        the result; ``adapter`` then holds the averaged weights and is in evaluation mode.

    Raises:
        TrainingDiverged: a loss or gradient that isn't finite. The state before that step has been saved.
        ValueError: an iterator that ended too early, or arguments that don't fit.
    """
    config = config or DistillConfig()
    trainer = Trainer(transformer, adapter, config, Path(out_dir) if out_dir is not None else None)
    first = trainer.resume() if resume else 0
    supply = _supply(batches, first)
    log_path = trainer.folder / "log.jsonl" if trainer.folder is not None else None
    log = TrainingLog(log_path, first)
    with (
        _frozen(transformer),
        tqdm(total=config.steps, initial=first, disable=not progress, desc="distill", unit="step") as bar,
    ):
        adapter.train()
        since = time.perf_counter()
        for step in range(first, config.steps):
            try:
                outcomes = trainer.step(step, *supply(step))
            except (TrainingDiverged, StopIteration) as error:
                trainer.save(step)
                if isinstance(error, StopIteration):
                    raise ValueError(f"batches ended after {step} of {config.steps} steps") from error
                raise
            for outcome in outcomes:
                log.add(outcome.loss, outcome.scale, outcome.sigma, outcome.error)
            done = step + 1
            if done % config.log_every == 0 or done == config.steps:
                seconds, since = time.perf_counter() - since, time.perf_counter()
                line = log.write(
                    done, lr=outcomes[0].lr, grad_norm=outcomes[0].grad_norm, seconds=round(seconds, 3)
                )
                bar.set_postfix(
                    {f"{scale}p": f"{entry['error']:.4f}" for scale, entry in line["scales"].items()},
                    refresh=False,
                )
            bar.update()
            if done % config.checkpoint_every == 0 and done < config.steps:
                trainer.save(done)
    trainer.finish()
    return DistillResult(config.steps, log.lines, adapter)


@contextmanager
def _frozen(transformer: nn.Module) -> Iterator[None]:
    """Inside, the transformer takes no gradients and has no dropout."""
    mode = transformer.training
    wanted = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        transformer.eval()
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        transformer.train(mode)


def _supply(batches: Iterable[Batch] | Callable[[int], Batch], skip: int) -> Callable[[int], Batch]:
    """``batches`` as a function of the step, the first ``skip`` steps already taken."""
    if callable(batches):
        return batches
    source = iter(batches)

    def take(step: int) -> Batch:
        nonlocal source
        try:
            return next(source)
        except StopIteration:
            if source is batches:
                raise
            source = iter(batches)
            return next(source)

    for step in range(skip):
        take(step)
    return take
