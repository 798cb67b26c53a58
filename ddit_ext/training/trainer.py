"""What a run keeps from step to step, and one step of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._version import __version__
from ..models import steering_for
from ..multiscale.adapter import Adapter
from .checkpoint import FILE, load_checkpoint, named_parameters, save_checkpoint
from .config import DistillConfig
from .log import LEVEL_BINS, level_bin
from .objective import (
    add_noise,
    draw_sigma,
    squared_errors,
    student_velocity,
    teacher_velocity,
)


class TrainingDiverged(RuntimeError):
    """The loss or its gradient is not finite; the last sound state has been saved."""


@dataclass(frozen=True)
class StepOutcome:
    """One scale in one step, for the log: ``sigma`` and the relative squared ``error`` are [B] on the CPU."""

    loss: float
    scale: int
    sigma: Tensor
    error: Tensor
    lr: float
    grad_norm: float


class Trainer:
    """What a run keeps from step to step; :func:`distill` drives it."""

    def __init__(self, transformer: nn.Module, adapter: Adapter, config: DistillConfig, folder: Path | None):
        self.transformer = transformer
        self.config = config
        self.folder = folder
        self.steering = steering_for(transformer)
        self.device = next(transformer.parameters()).device
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self.adapter = adapter.to(self.device, torch.float32).requires_grad_(True)
        unknown = sorted({*config.noise_range, *(config.scale_shares or {})} - set(adapter.scales))
        if unknown:
            raise ValueError(
                f"noise_range and scale_shares must name the adapter's scales {adapter.scales}, got {unknown}"
            )
        self.parameters = named_parameters(adapter)
        self.optimizer = torch.optim.AdamW(_groups(self.parameters, config), lr=config.lr, betas=config.betas)
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()} if config.ema else {}
        self.level_means = torch.zeros(len(adapter.scales), LEVEL_BINS)

    def resume(self) -> int:
        """Steps already done: those of the checkpoint, if there is one."""
        if self.folder is None or not (self.folder / FILE).exists():
            return 0
        return load_checkpoint(self.folder, self.adapter, self.average, self.optimizer, self.level_means)

    def step(self, step: int, latents: Tensor, conditions: dict[str, Any]) -> list[StepOutcome]:
        """One optimiser step: one pass of the teacher, and of the student at one scale or at all of them."""
        config = self.config
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        scales = self._scales(step, generator)
        sigma = draw_sigma(latents.shape[0], *config.range_of(scales[0]), config.sigma_shift, generator)
        arguments = self.steering.training_call(latents.to(self.device), _to(conditions, self.device))
        arguments = add_noise(self.steering, arguments, sigma, generator)
        teacher = teacher_velocity(self.transformer, arguments, config.autocast_dtype)
        lr = self._set_lr(step)
        self.optimizer.zero_grad(set_to_none=True)
        outcomes, means = [], self.level_means.clone()
        for scale in scales:
            low, high = config.range_of(scale)
            inside = (sigma >= low) & (sigma <= high)
            if scale == scales[0]:  # drawn from this range, if rounded
                inside = torch.ones_like(inside)
            if inside.any():
                outcomes.append(self._learn(step, scale, arguments, teacher, sigma, inside, lr, means))
        self.optimizer.step()
        self.level_means.copy_(means)  # only now: a step that fails must leave no trace in what is saved
        for outcome in outcomes:
            self._update_average(step, outcome.scale)
        return outcomes

    def _learn(
        self,
        step: int,
        scale: int,
        arguments: dict[str, Any],
        teacher: Tensor,
        sigma: Tensor,
        inside: Tensor,
        lr: float,
        means: Tensor,
    ) -> StepOutcome:
        """Gradients of one scale, from the samples ``inside`` [B] its noise range; moves ``means``."""
        config = self.config
        # Gradient checkpointing runs blocks again in the backward: the modules stay swapped until then.
        level = self.steering.noise_level(arguments)
        with self.steering.coarse(arguments, self.adapter.own(scale), level) as coarse:
            student = student_velocity(self.transformer, coarse, config.autocast_dtype)
            chosen = inside.to(self.device)
            error, power = squared_errors(student[chosen], teacher[chosen])
            sigma = sigma[inside]
            loss = (error / self._normaliser(scale, sigma, error, power, means)).mean()
            value = loss.item()
            if not math.isfinite(value):
                raise TrainingDiverged(self._where("loss", value, step, scale, sigma))
            loss.backward()
        parameters = self.adapter.own(scale).parameters()
        norm = nn.utils.clip_grad_norm_(parameters, config.clip or math.inf).item()
        if not math.isfinite(norm):
            raise TrainingDiverged(self._where("gradient norm", norm, step, scale, sigma))
        relative = (error.detach() / power.clamp(min=1e-12)).cpu()
        return StepOutcome(value, scale, sigma, relative, lr, norm)

    def save(self, step: int) -> None:
        """Checkpoint and adapter files after ``step`` steps, unless the weights are not finite."""
        if self.folder is None or not all(bool(p.isfinite().all()) for p in self.parameters.values()):
            return
        save_checkpoint(self.folder, self.adapter, self.average, self.optimizer, self.level_means, step)
        with self._averaged():
            self._record(step)
            self.adapter.save(self.folder / "adapter")

    def finish(self) -> None:
        """Save the end of the run and leave the averaged weights in the adapter."""
        self.save(self.config.steps)
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

    def _set_lr(self, step: int) -> float:
        config = self.config
        factor = min(1.0, (step + 1) / max(config.warmup, 1))
        if config.schedule == "cosine" and step >= config.warmup:
            through = (step - config.warmup) / max(config.steps - config.warmup, 1)
            factor = config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * through))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        return config.lr * factor

    def _normaliser(self, scale: int, sigma: Tensor, error: Tensor, power: Tensor, means: Tensor) -> Tensor:
        if self.config.normalise == "none":
            return torch.ones_like(power)
        if self.config.normalise == "teacher":
            return power.clamp(min=1e-12)
        means = means[self.adapter.scales.index(scale)]
        bins = level_bin(sigma)
        for level, value in zip(bins.tolist(), error.detach().tolist(), strict=True):
            means[level] = value if means[level] == 0 else torch.lerp(means[level], torch.tensor(value), 0.02)
        return means[bins].clamp(min=1e-12).to(error.device)

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


def _groups(parameters: dict[str, nn.Parameter], config: DistillConfig) -> list[dict[str, Any]]:
    """AdamW groups: a learning rate per part of the adapter, weight decay on matrices only."""
    peaks = {"lora": config.lr_lora, "refinement": config.lr_residual}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        peak = peaks.get(name.split(".")[1], config.lr_embedding)
        matrix = name.endswith(("weight", ".a", ".b"))
        key = (config.lr if peak is None else peak, config.weight_decay if matrix else 0.0)
        groups.setdefault(key, []).append(parameter)
    return [{"params": p, "peak_lr": peak, "weight_decay": decay} for (peak, decay), p in groups.items()]


def _to(conditions: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {
        name: value.to(device) if isinstance(value, Tensor) else value for name, value in conditions.items()
    }
