"""Which choices make a better adapter: short runs of the same data, noise, steps and samples that differ in one thing.

    python benchmarks/studies/adapter_variants.py --results variants.jsonl              # trains what is not in the file yet
    python benchmarks/studies/adapter_variants.py --results variants.jsonl --table benchmarks/studies/results/adapter_variants.md

The measure is that of coarse_error.py: the relative squared error ‖v_coarse - v_p‖² / ‖v_p‖² of the embedded FLUX on fresh
scenes, by patch size and noise level. A run can be stopped at any time; each variant is a line of the results.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from coarse_error import SIGMAS, batches
from torch import Tensor, nn

from ddit_ext import build_info, embedded
from ddit_ext.coarse import Adapter
from ddit_ext.training import DistillConfig, distill, evaluate_coarse_error, objective, trainer

#: What every variant starts from; `train_adapter.py` has these settings, and trains longer.
ADAPTER = {"scales": (2, 4), "rank": 16, "start": "noise_matched", "positions": "centre"}
ADAPTER |= {"refinement_hidden": 256, "refinement_tokens": False}
TRAINING = {"lr": 2e-3, "normalise": "level", "sigma_shift": 1.6487, "warmup": 20, "ema": 0.97, "seed": 0}
USED = {2: (0.3, 1.0), 4: (0.6, 1.0)}
GUIDANCE = (1.0, 5.0)  # as the base was trained for
TRAINING_SCENES, TRAINING_SEED = 1024, 5_000_000

#: name -> what differs. In order of interest: a run that is cut short has answered the first questions.
VARIANTS: dict[str, dict[str, Any]] = {
    "reference": {},
    "blended start": {"start": "blended"},
    "rank 64": {"rank": 64},
    "positions grid": {"positions": "grid"},
    "blended start, positions grid": {"start": "blended", "positions": "grid"},
    "no refinement": {"refinement_hidden": 0},
    "noise range where used": {"noise_range": USED},
    "PI-resize + g start": {"start": "pi_resize"},
    "lr 4e-3": {"lr": 4e-3},
    "matching features 0.1": {"feature_weight": 0.1},
    "no LoRA": {"rank": 0},
    "perceptron of 256 reads tokens": {"refinement_tokens": True},
    "perceptron of 512": {"refinement_hidden": 512},
    "perceptron of 512 reads tokens": {"refinement_tokens": True, "refinement_hidden": 512},
    "no g(σ)": {"detail_residual": False},
    "error over teacher's power": {"normalise": "teacher"},
    "rank 8": {"rank": 8},
    "rank 32": {"rank": 32},
    "matching features 0.5": {"feature_weight": 0.5},
    "PI-resize start, no residual": {"start": "pi_resize", "detail_residual": False, "refinement_hidden": 0},
}
ADAPTER_KEYS = {"rank", "start", "positions", "refinement_hidden", "refinement_tokens", "detail_residual"}


class RememberedTeacher:
    """The teacher's answers by the bytes of what it was asked: most variants ask the same."""

    def __init__(self) -> None:
        self.remembers = True  # block outputs can't be remembered: then the teacher is asked
        self._ask = objective.teacher_velocity
        self._answers: dict[bytes, Tensor] = {}

    def __call__(
        self, transformer: nn.Module, arguments: dict[str, Any], dtype: torch.dtype | None
    ) -> Tensor:
        if not self.remembers:
            return self._ask(transformer, arguments, dtype)
        digest = hashlib.sha256()
        for name in ("hidden_states", "timestep", "guidance", "pooled_projections"):
            digest.update(arguments[name].contiguous().numpy())
        key = digest.digest()
        if key not in self._answers:
            self._answers[key] = self._ask(transformer, arguments, dtype)
        return self._answers[key]

    def install(self) -> None:
        """Take the place of the trainer's own."""
        objective.teacher_velocity = trainer.teacher_velocity = self


class Study:
    """The embedded FLUX, the scenes to train on and those to measure on."""

    def __init__(self, steps: int, batch: int, scenes: int):
        self.steps, self.batch = steps, batch
        model = embedded.load("flux")
        self.transformer = model.pipeline.transformer
        self.measured = batches(model, scenes)
        self.starts: dict[str, Any] = {}  # errors before training, by what they depend on
        self.trained = batches(model, TRAINING_SCENES, seed=TRAINING_SEED)

    def data(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The batch of a step, whatever the variant."""
        generator = torch.Generator().manual_seed(step)
        index = torch.randint(TRAINING_SCENES, (self.batch,), generator=generator)
        size = len(self.trained[0][0])
        chosen = [(self.trained[i // size], i % size) for i in index.tolist()]
        latents = torch.stack([latents[row] for (latents, _), row in chosen])
        names = ("encoder_hidden_states", "pooled_projections")
        text = {name: torch.stack([given[name][row] for (_, given), row in chosen]) for name in names}
        guidance = torch.empty(self.batch).uniform_(*GUIDANCE, generator=generator)
        return latents, text | {"guidance": guidance}

    def run(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Train one variant; errors by size and noise level before and after."""
        adapter = Adapter.create(
            self.transformer, **(ADAPTER | {k: v for k, v in changes.items() if k in ADAPTER_KEYS})
        )
        training = TRAINING | {k: v for k, v in changes.items() if k not in ADAPTER_KEYS}
        start = str({name: changes.get(name) for name in ("start", "positions", "detail_residual")})
        if start not in self.starts:
            self.starts[start] = self.errors(adapter.eval())
        since = time.process_time()
        distill(
            self.transformer, adapter, self.data, DistillConfig(steps=self.steps, **training), progress=False
        )
        seconds = time.process_time() - since
        return {"before": self.starts[start], "after": self.errors(adapter), "cpu_seconds": round(seconds, 1)}

    def errors(self, adapter: Adapter) -> dict[str, dict[str, float]]:
        """Relative squared errors: size -> noise level -> error."""
        return {
            str(scale): {
                f"{sigma:g}": error
                for sigma, error in evaluate_coarse_error(
                    self.transformer, adapter, self.measured, scale, SIGMAS
                ).items()
            }
            for scale in adapter.scales
        }


def table(lines: list[dict[str, Any]], command: str) -> str:
    """The results as Markdown: for each size a table after training, and one of the starts."""
    levels = [f"{sigma:g}" for sigma in SIGMAS]
    first = lines[0]
    out = [
        "# What helps an adapter",
        "",
        f"Relative squared error of a coarse step against the p-step, ‖v_coarse - v_p‖² / ‖v_p‖², after {first['steps']} "
        f"steps of {first['batch']} samples, on {first['scenes']} fresh scenes of the embedded FLUX. All variants see the "
        "same data, noise and seeds (a noise range draws other levels), and differ from `reference` in what their name says.",
        "",
        f"reference: `{ADAPTER}`, `{TRAINING}`. Command: `{command}`. torch {first['torch']}, ddit_ext {first['ddit_ext']}, "
        f"{first['date'][:10]}, one CPU thread.",
    ]
    for scale in ("2", "4"):
        for when, title in (("before", "at the start"), ("after", "trained")):
            out += ["", f"| {scale}p, {title} | " + " | ".join(levels) + " | mean |"]
            out.append("|---" * (len(levels) + 2) + "|")
            seen: list[dict[str, float]] = []
            for line in lines:
                errors = line[when][scale]
                if when == "before" and errors in seen:
                    continue
                seen.append(errors)
                cells = [f"{errors[level]:.3f}" for level in levels]
                mean = sum(errors[level] for level in levels) / len(levels)
                out.append(f"| {line['name']} | " + " | ".join(cells) + f" | {mean:.3f} |")
    return "\n".join(out) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="a JSON line a variant")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--scenes", type=int, default=16, help="to measure on")
    parser.add_argument("--only", nargs="*", default=None, metavar="NAME", help="these variants")
    parser.add_argument(
        "--table", type=Path, default=None, help="write what is there as Markdown; train nothing"
    )
    arguments = parser.parse_args()
    size = {"steps": arguments.steps, "batch": arguments.batch, "scenes": arguments.scenes}
    lines = []
    if arguments.results.exists():
        lines = [json.loads(line) for line in arguments.results.read_text().splitlines()]
    if arguments.table:
        command = " ".join(f"--{name} {value}" for name, value in size.items())
        arguments.table.write_text(table(lines, f"python benchmarks/studies/adapter_variants.py {command}"))
        return
    done = {line["name"] for line in lines if {name: line[name] for name in size} == size}
    torch.set_num_threads(1)
    study = Study(**size)
    teacher = RememberedTeacher()
    teacher.install()
    for name, changes in VARIANTS.items():
        if name in done or (arguments.only is not None and name not in arguments.only):
            continue
        teacher.remembers = "feature_weight" not in changes
        torch.manual_seed(0)
        result = study.run(changes)
        about = {
            "torch": torch.__version__,
            "ddit_ext": build_info().version,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        with open(arguments.results, "a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, "changes": changes} | size | about | result) + "\n")
        means = {
            scale: sum(errors.values()) / len(errors) for scale, errors in sorted(result["after"].items())
        }
        print(
            name,
            {scale: round(mean, 4) for scale, mean in means.items()},
            f"{result['cpu_seconds']} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
