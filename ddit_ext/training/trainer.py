"""What a run keeps from step to step, and one step of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from .._version import __version__
from ..coarse.adapter import Adapter
from ..coarse.adapter_file import named_parameters
from ..families import family_for
from .checkpoint import RunState, SaveFailed, resume, save_checkpoint
from .config import DistillConfig
from .features import Features, Seen, feature_error
from .log import LEVEL_BINS, level_bin
from .objective import squared_errors, student_velocity, teacher_velocity
from .observer import Observer
from .optimizer import make_optimizer, set_lr
from .portion import Batch, Portion, draw_portions
from .processes import Processes


class TrainingDiverged(RuntimeError):
    """The loss, its gradient or the weights are not finite; the last sound state has been saved."""


@dataclass(frozen=True)
class StepOutcome:
    """One scale in one step, for the log: ``sigma`` and the relative squared ``error`` are [n] on the CPU, of all
    processes.
    """

    loss: float
    scale: int
    sigma: Tensor
    error: Tensor
    grad_norm: float


@dataclass
class Progress:
    """What one scale has come to so far in a step, in this process (``loss``) or in all (the lists, one entry a batch)."""

    count: int  # samples of the step, in all processes
    loss: Tensor
    sigma: list[Tensor]
    squared: list[Tensor]  # errors
    error: list[Tensor]  # relative ones


class Trainer:
    """What a run keeps from step to step; :func:`distill` drives it.

    With several processes each one learns from its own part of a batch, with the noise levels and the noise that
    one process would have drawn for the whole of it, and the gradients are added up.
    """

    def __init__(
        self,
        transformer: nn.Module,
        adapter: Adapter,
        config: DistillConfig,
        folder: Path | None,
        processes: Processes,
        device: torch.device | None,
        adapter_folder: Path | None,
    ):
        self.transformer = transformer
        self.config = config
        self.folder = folder
        self.adapter_folder = adapter_folder or (folder / "adapter" if folder is not None else None)
        self.processes = processes
        self.family = family_for(transformer)
        self.device = device or next(transformer.parameters()).device
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self.adapter = adapter.to(self.device, torch.float32).requires_grad_(True)
        unknown = sorted({*config.noise_range, *(config.scale_shares or {})} - set(adapter.scales))
        if unknown:
            raise ValueError(
                f"noise_range and scale_shares must name the adapter's scales {adapter.scales}, got {unknown}"
            )
        self.features = Features(transformer, config.feature_blocks) if config.feature_weight else None
        self.parameters = named_parameters(adapter)
        self.optimizer = make_optimizer(self.parameters, config)
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()} if config.ema else {}
        self.level_means = torch.zeros(len(adapter.scales), LEVEL_BINS)
        self.lr = 0.0  # of the last step
        self.observers: Sequence[Observer] = ()  # are told about saved files
        self._state = RunState(self.adapter, self.average, self.optimizer, self.level_means)

    def resume(self) -> int:
        """Steps already done: those of the newest checkpoint, if there is one. The same in all processes.

        Raises:
            ValueError: processes that found different checkpoints.
        """
        self.processes.wait()  # one of them may still be writing
        done = resume(self.folder, self._state) if self.folder is not None else 0
        last, first = self.processes.highest(done), -self.processes.highest(-done)
        if first != last:
            raise ValueError(
                f"out_dir: expected a folder that all processes share, got one at {self.folder} with checkpoints of "
                f"step {first} for one process and of step {last} for another"
            )
        return done

    def step(self, step: int, batches: Sequence[Batch]) -> list[StepOutcome]:
        """One optimiser step on this process's ``batches``: for each, one pass of the teacher, and of the student
        at one scale or at all of them. The list is empty where no sample lies in any scale's noise range.
        """
        config = self.config
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        scales = self._scales(step, generator)
        portions = draw_portions(
            self.family, batches, config, self.processes, step, scales[0], generator, self.device
        )
        self.lr = set_lr(self.optimizer, config, step)
        self.optimizer.zero_grad(set_to_none=True)
        progress = {}
        for scale in scales:
            count = sum(int(self._inside(scale, portion.everyone).sum()) for portion in portions)
            if count:
                progress[scale] = Progress(count, torch.zeros((), device=self.device), [], [], [])
        for portion in portions:
            with self._watched() as fine:
                teacher = teacher_velocity(self.transformer, portion.arguments, config.autocast_dtype)
            for scale, so_far in progress.items():
                if bool(self._inside(scale, portion.everyone).any()):
                    self._learn(scale, portion, teacher, fine, so_far)
        outcomes = [self._add_up(step, scale, so_far) for scale, so_far in progress.items()]
        self.optimizer.step()
        # Only now: a step that fails must leave no trace in what is saved.
        for scale, so_far in progress.items():
            self._move_means(scale, so_far)
        for outcome in outcomes:
            self._update_average(step, outcome.scale)
        return outcomes

    def _inside(self, scale: int, sigma: Tensor) -> Tensor:
        """Which noise levels are in the scale's range; the edges may have been rounded."""
        low, high = self.config.range_of(scale)
        return (sigma >= low - 1e-6) & (sigma <= high + 1e-6)

    def _watched(self) -> AbstractContextManager[Seen]:
        return nullcontext({}) if self.features is None else self.features.watch()

    def _learn(self, scale: int, portion: Portion, teacher: Tensor, fine: Seen, so_far: Progress) -> None:
        """Gradients of one scale, from the samples of ``portion`` in its noise range."""
        config, arguments = self.config, portion.arguments
        # Gradient checkpointing runs blocks again in the backward: the modules stay swapped until then.
        level = self.family.noise_level(arguments)
        with self.family.coarse(arguments, self.adapter.own(scale), level) as coarse, self._watched() as seen:
            student = student_velocity(self.transformer, coarse, config.autocast_dtype)
            error, power = squared_errors(student, teacher)
            inside = self._inside(scale, portion.everyone)
            both = torch.stack([error.detach(), power], dim=1)
            both = self.processes.gather(both)[inside.to(self.device)].cpu()
            chosen = self._inside(scale, portion.sigma)
            own = chosen.to(self.device)
            error, power = error[own], power[own]
            each = error / self._normaliser(scale, portion.sigma[chosen], power, error.detach())
            if seen:
                matched = feature_error(seen, fine, self.family.grid(arguments), scale)
                each = each + config.feature_weight * matched[own]
            loss = each.sum() / so_far.count
            loss.backward()
        so_far.loss += loss.detach()
        so_far.sigma.append(portion.everyone[inside])
        so_far.squared.append(both[:, 0])
        so_far.error.append(both[:, 0] / both[:, 1].clamp(min=1e-12))

    def _add_up(self, step: int, scale: int, so_far: Progress) -> StepOutcome:
        """The gradients of one scale over all processes, clipped; TrainingDiverged where they are not finite."""
        parameters = [p for p in self.adapter.own(scale).parameters() if p.grad is not None]
        self.processes.add_up([so_far.loss, *(parameter.grad for parameter in parameters)])
        sigma, value = torch.cat(so_far.sigma), so_far.loss.item()
        if not math.isfinite(value):
            raise TrainingDiverged(self._where("loss", value, step, scale, sigma))
        norm = nn.utils.clip_grad_norm_(parameters, self.config.clip or math.inf).item()
        if not math.isfinite(norm):
            raise TrainingDiverged(self._where("gradient norm", norm, step, scale, sigma))
        return StepOutcome(value, scale, sigma, torch.cat(so_far.error), norm)

    def save(self, step: int) -> None:
        """Checkpoint and adapter files after ``step`` steps.

        Raises:
            SaveFailed: a file could not be written.
            TrainingDiverged: weights that are not finite; what is on disk stays.
        """
        if not all(bool(p.isfinite().all()) for p in self.parameters.values()):
            kept = f"; what was saved before is in {self.folder}" if self.folder is not None else ""
            raise TrainingDiverged(f"weights are not finite after step {step}{kept}")
        if self.folder is not None and self.processes.main:
            save_checkpoint(self.folder, self._state, step, self.config.keep_checkpoints)
            with self._averaged():
                self._record(step)
                where = self.adapter_folder
                try:
                    self.adapter.save(where)
                    for observer in self.observers:
                        observer.saved(where, self.adapter)
                except (OSError, SafetensorError) as error:
                    raise SaveFailed(f"adapter {where} could not be written: {error}") from error

    def finish(self) -> None:
        """Save the end of the run and leave the averaged weights in the adapter."""
        self.save(self.config.steps)
        self.processes.wait()
        self._record(self.config.steps)
        with torch.no_grad():
            for name, tensor in self.average.items():
                self.parameters[name].copy_(tensor)
        self.optimizer.zero_grad(set_to_none=True)
        self.adapter.eval()

    def _scales(self, step: int, generator: torch.Generator) -> list[int]:
        """The scales of this step; the noise levels are drawn from the range of the first."""
        scales = self.adapter.scales
        shares = self.config.scale_shares
        if shares is not None:
            weights = torch.tensor([float(shares.get(scale, 0.0)) for scale in scales])
            return [scales[int(torch.multinomial(weights, 1, generator=generator))]]
        first = step % len(scales)
        return [*scales[first:], *scales[:first]] if self.config.share_teacher else [scales[first]]

    def _move_means(self, scale: int, so_far: Progress) -> None:
        """Move the running mean errors of a scale by its step's, 2 % a sample of any process; a level's first step sets its own."""
        if self.config.normalise != "level":
            return
        means, errors = self.level_means[self.adapter.scales.index(scale)], torch.cat(so_far.squared)
        levels = level_bin(torch.cat(so_far.sigma))
        for level in levels.unique().tolist():
            found = errors[levels == level]
            means[level].lerp_(found.mean(), 1 - 0.98 ** len(found) if means[level] else 1.0)

    def _normaliser(self, scale: int, sigma: Tensor, power: Tensor, error: Tensor) -> Tensor:
        """What the errors [n] are divided by, however the step's samples are shared out.

        A level's first errors are divided by themselves: each sample then weighs the same, as in later steps.
        """
        if self.config.normalise == "none":
            return torch.ones_like(power)
        if self.config.normalise == "teacher":
            return power.clamp(min=1e-12)
        means = self.level_means[self.adapter.scales.index(scale)][level_bin(sigma)].to(power.device)
        return torch.where(means > 0, means, error).clamp(min=1e-12)

    def _update_average(self, step: int, scale: int) -> None:
        """Move the average of the scale just trained; it follows more closely in the first steps."""
        if not self.average:
            return
        decay = min(self.config.ema, (1 + step) / (10 + step))
        names = [name for name in self.average if name.startswith(f"{scale}.")]
        with torch.no_grad():
            torch._foreach_lerp_(
                [self.average[name] for name in names], [self.parameters[name] for name in names], 1 - decay
            )

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Inside, the adapter holds the averaged weights."""
        own = {name: parameter.data for name, parameter in self.parameters.items()}
        try:
            for name, tensor in self.average.items():
                self.parameters[name].data = tensor
            yield
        finally:
            for name, tensor in own.items():
                self.parameters[name].data = tensor

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the adapter is what a user would get now: averaged, in evaluation mode."""
        with self._averaged():
            self.adapter.eval()
            try:
                yield
            finally:
                self.adapter.train()

    def _record(self, step: int) -> None:
        record = {
            "ddit_ext": __version__,
            "torch": torch.__version__,
            "steps": step,
            "config": asdict(self.config),
        }
        self.adapter.training_record["distill"] = record

    def _where(self, what: str, value: float, step: int, scale: int, sigma: Tensor) -> str:
        saved = f"; the state before it is in {self.folder}" if self.folder is not None else ""
        levels = f"{sigma.min():.3f} to {sigma.max():.3f}"
        return f"{what} is {value} at step {step}, scale {scale}, noise levels {levels}{saved}"
