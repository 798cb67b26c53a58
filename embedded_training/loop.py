"""The loop that trains the embedded base models: Muon and AdamW, running averages, resumable for a time in minutes."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from .common import AveragedModules, Progress, load_state, save_state

Modules = dict[str, torch.nn.Module]
# (share of the time that is over, the modules, their averages) -> what was trained, its loss
Loss = Callable[[float, Modules, Modules], tuple[str, torch.Tensor]]

LONGEST_STEP = 60.0  # seconds: a longer one was spent stopped, which is not training


class Optimizers:
    """Muon for the blocks' matrices, AdamW for all else, behind the interface of one optimizer."""

    def __init__(self, modules: Modules, rate: float, blocks: str) -> None:
        matrices, others = [], []
        for name, parameter in (item for module in modules.values() for item in module.named_parameters()):
            (matrices if blocks in name and parameter.ndim == 2 else others).append(parameter)
        self.parts = (
            torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
        )
        self.base = (2 * rate, rate)

    def step(self, factor: float) -> None:
        for part, rate in zip(self.parts, self.base, strict=True):
            for group in part.param_groups:
                group["lr"] = rate * factor
            part.step()
            part.zero_grad()


def train(
    modules: Modules,
    loss_of: Loss,
    run: Path,
    name: str,
    minutes: float,
    rate: float,
    blocks: str,
    warmup: int = 200,
    decay: float = 0.999,
) -> None:
    """Trains until ``minutes`` are done in all, and writes the averages to ``run/base``.

    Args:
        modules: trained together, by the names of their folders.
        loss_of: draws a batch and gives its loss.
        run: where ``<name>-checkpoint`` and ``<name>-log.jsonl`` lie; a checkpoint there is gone on from.
        rate: AdamW's learning rate; Muon's is twice that.
        blocks: part of the names of the parameters whose matrices Muon trains.
        warmup: steps over which the rate grows.
        decay: of the averages.
    """
    averages = copy.deepcopy(modules)
    optimizers = Optimizers(modules, rate, blocks)
    named = modules | {f"ema_{part}": module for part, module in averages.items()}
    checkpoint = run / f"{name}-checkpoint"
    progress = load_state(checkpoint, named, optimizers.parts) or Progress()
    average = AveragedModules(averages, decay)
    torch.manual_seed(progress.step)
    log = (run / f"{name}-log.jsonl").open("a")
    parameters = [p for module in modules.values() for p in module.parameters()]
    print(
        f"{sum(p.numel() for p in parameters) / 1e6:.2f}M parameters, from step {progress.step}", flush=True
    )

    began = saved = time.monotonic()
    running: dict[str, float] = {}
    while progress.seconds < minutes * 60:
        done = progress.seconds / (minutes * 60)
        # float32: at this width autocast's casts cost more than they save
        kind, loss = loss_of(done, modules, averages)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        # Warm up, hold, and fall over the last half: a trapezoid lets a longer run start from a shorter one's middle.
        optimizers.step(min(1.0, (progress.step + 1) / warmup) * min(1.0, 2 * (1 - done)) + 1e-3)
        progress.step += 1
        now = time.monotonic()
        progress.seconds += min(now - began, LONGEST_STEP)
        began = now
        average.update(modules, progress.step)
        running[kind] = 0.98 * running.get(kind, loss.item()) + 0.02 * loss.item()
        if progress.step % 50 == 0:
            line = {
                "step": progress.step,
                "seconds": round(progress.seconds),
                "loss": {k: round(v, 4) for k, v in running.items()},
            }
            print(json.dumps(line), file=log, flush=True)
        if time.monotonic() - saved > 180:
            save_state(checkpoint, named, optimizers.parts, progress)
            saved = time.monotonic()
    save_state(checkpoint, named, optimizers.parts, progress)
    for part, module in averages.items():
        module.save_pretrained(run / "base" / part)
