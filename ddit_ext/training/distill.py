"""The distillation loop: an adapter learns to give, at its patch sizes, the velocity that the base gives at its own."""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from tqdm.auto import tqdm

from ..coarse.adapter import Adapter, AdapterError
from ..coarse.quantised import REPACKED, four_bit_layers, is_repacked
from .checkpoint import SaveFailed, checkpoints
from .config import DistillConfig
from .interrupt import Interrupted, Stop
from .log import TrainingLog
from .observer import Observer
from .portion import Batch
from .processes import Processes
from .trainer import Trainer, TrainingDiverged

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class DistillResult:
    """What a run did: ``steps`` finished in all, the ``log`` lines (in the main process), and the ``adapter`` with
    its final weights.
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
    accelerator: Accelerator | None = None,
    observers: Sequence[Observer] = (),
    stop: Stop | None = None,
    adapter_dir: str | Path | None = None,
) -> DistillResult:
    """Train ``adapter`` against the frozen ``transformer`` itself.

    Args:
        transformer: of a family with larger patches, on the device to train on. Its parameters are frozen meanwhile,
            and are as before afterwards. Gradient checkpointing, if enabled, applies to the student.
        adapter: from ``Adapter.create``; it is moved to the transformer's device and trained in place.
        batches: pairs (clean latents, other call arguments) as the ``training_call`` of ``FluxFamily`` or
            ``WanFamily`` takes them; with ``noise_level`` [B] among the arguments the latents are noisy already.
            A callable is given the number of the batch: (step · accumulate + i) · processes + rank. An iterable is
            read in that order, from its start again when it ends; batches of earlier steps and other processes are
            read past.
        config: see :class:`DistillConfig`.
        out_dir: receives ``checkpoints/``, ``log.jsonl`` and ``adapter/``; None: nothing is written.
        resume: continue from the newest checkpoint in ``out_dir``, if there is one. False: refuse such a folder.
        progress: show a progress bar.
        accelerator: of a run with several processes (``accelerate launch``).
        observers: are told about steps and log lines.
        stop: is looked at after every step; once it has received a signal, in any process, the run is saved and
            ends.
        adapter_dir: receives the adapter's files instead of ``out_dir/adapter/``.

    Returns:
        the result; ``adapter`` then holds the averaged weights and is in evaluation mode.

    Raises:
        TrainingDiverged: a loss or gradient that isn't finite. The state before that step has been saved.
        Interrupted: ``stop`` has received a signal. The state after that step has been saved.
        SaveFailed: the end of the run could not be written. A checkpoint on the way that can't be written is a
            warning: the run goes on and tries again at the next one.
        ValueError: an iterator that ended too early, fewer steps than are done, or arguments that don't fit.
        AdapterError: a transformer that can't be trained through.
    """
    config = config or DistillConfig()
    processes = Processes(accelerator)
    folder = Path(out_dir) if out_dir is not None else None
    if not resume and folder is not None and checkpoints(folder):
        raise ValueError(
            f"out_dir: {folder} holds checkpoints of an earlier run: continue it with resume=True, or name another "
            "folder"
        )
    device = accelerator.device if accelerator is not None else None
    where = Path(adapter_dir) if adapter_dir is not None else None
    trainer = Trainer(transformer, adapter, config, folder, processes, device, where)
    trainer.observers = observers
    first = trainer.resume()
    if first > config.steps:
        raise ValueError(f"steps must be at least {first}, those done in {folder}, got {config.steps}")
    supply = _supply(batches)
    log = TrainingLog(folder / "log.jsonl" if folder is not None and processes.main else None, first)
    hidden = not (progress and processes.main)
    with (
        _frozen(transformer),
        tqdm(total=config.steps, initial=first, disable=hidden, desc="distill", unit="step") as bar,
    ):
        adapter.train()
        since = time.perf_counter()
        for step in range(first, config.steps):
            numbers = [
                (step * config.accumulate + i) * processes.count + processes.rank
                for i in range(config.accumulate)
            ]
            try:
                outcomes = trainer.step(step, [supply(number) for number in numbers])
            except (TrainingDiverged, StopIteration) as error:
                trainer.save(step)
                if isinstance(error, StopIteration):
                    raise ValueError(f"batches ended after {step} of {config.steps} steps") from error
                raise
            for outcome in outcomes:
                log.add(outcome.loss, outcome.scale, outcome.sigma, outcome.error)
            done = step + 1
            if processes.main and (done % config.log_every == 0 or done == config.steps):
                seconds, since = time.perf_counter() - since, time.perf_counter()
                norm = outcomes[0].grad_norm if outcomes else 0.0
                line = log.write(done, lr=trainer.lr, grad_norm=norm, seconds=round(seconds, 3))
                bar.set_postfix(
                    {f"scale {scale}": f"{entry['error']:.4f}" for scale, entry in line["scales"].items()},
                    refresh=False,
                )
                for observer in observers:
                    observer.logged(line)
            for observer in observers:
                observer.stepped(done, trainer)
            bar.update()
            received = processes.highest(stop.received or 0) if stop is not None else 0
            if received and done < config.steps:
                trainer.save(done)
                processes.wait()
                raise Interrupted(_farewell(received, done, config.steps, folder), received)
            if done % config.checkpoint_every == 0 and done < config.steps:
                try:
                    trainer.save(done)
                except SaveFailed as error:
                    warnings.warn(f"step {done}: {error}; the run goes on", stacklevel=2)
    trainer.finish()
    return DistillResult(config.steps, log.lines, adapter)


def _farewell(received: int, done: int, steps: int, folder: Path | None) -> str:
    kept = "nothing was saved" if folder is None else f"saved in {folder}, go on with --resume"
    return f"stopped by {signal.Signals(received).name} after step {done} of {steps}; {kept}"


@contextmanager
def _frozen(transformer: nn.Module) -> Iterator[None]:
    """Inside, the transformer takes no gradients and has no dropout.

    Raises:
        AdapterError: a layer whose weights have been put into a form without gradients.
    """
    repacked = [name for name, layer in four_bit_layers(transformer) if is_repacked(layer)]
    if repacked:
        raise AdapterError(
            f"transformer: {len(repacked)} layers can't be trained through, the first is {repacked[0]}: {REPACKED}; "
            "load the model anew and train before you run it"
        )
    mode = transformer.training
    wanted = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        transformer.eval()
        for _, layer in four_bit_layers(transformer):
            layer.train()  # in evaluation mode it would be repacked on a CPU; it has no dropout
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        transformer.train(mode)


def _supply(batches: Iterable[Batch] | Callable[[int], Batch]) -> Callable[[int], Batch]:
    """``batches`` as a function of the batch's number, asked in ascending order."""
    if callable(batches):
        return batches
    source = iter(batches)
    following = 0

    def following_batch() -> Batch:
        nonlocal source, following
        following += 1
        try:
            return next(source)
        except StopIteration:
            if source is batches:
                raise
            source = iter(batches)
            return next(source)

    def take(number: int) -> Batch:
        while following < number:
            following_batch()
        return following_batch()

    return take
