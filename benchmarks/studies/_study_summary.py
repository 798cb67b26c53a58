"""What the batches of a study say: fidelity at equal cost, differences paired by prompt, and what the sizes follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import _front  # noqa: F401  (first: it makes the helpers importable)

# isort: split
import numpy as np
from _quality import ALIKE, bootstrap, centred

from ddit_ext.embedded.classifier import frechet_distance
from ddit_ext.embedded.vocabulary import parse

BASE, YARDSTICK = "fixed p", "third difference"
TEXTURED = ("stripes", "checks", "dots")
MEASURES = ("cost", "psnr", "ssim", "accuracy")


class Samples:
    """All samples of a study, and statistics that are resampled prompt by prompt: the seeds of one stay together."""

    def __init__(self, lines: list[dict[str, Any]], costs: dict[int, float], target: float) -> None:
        done = [line for line in lines if line["kind"] == "batch" and line["target"] == target]
        if not done:
            raise ValueError(f"no batch at {target:g}x has been run yet")
        self.prompts = [prompt for line in done for prompt in line["prompts"]]
        self.seeds = {line["seed"] for line in done}
        self.rules = list(done[0]["rules"])
        self.values: dict[str, dict[str, np.ndarray]] = {}
        for rule in self.rules:
            rows = [line["rules"][rule] for line in done]
            sizes = [sample for row in rows for sample in row["sizes"]]
            own = {name: np.array([x for row in rows for x in row[name]]) for name in MEASURES[1:]}
            own["psnr"] = np.minimum(own["psnr"], ALIKE)
            own["cost"] = np.array([sum(costs[int(size)] for size in sample) for sample in sizes])
            own["features"] = np.array([x for row in rows for x in row["features"]])
            own["sizes"] = np.array([[sample.count(str(s)) for s in costs] for sample in sizes])
            self.values[rule] = own
        self.steps = int(self.values[BASE]["cost"].mean())
        for own in self.values.values():
            own["cost"] = own["cost"] / self.steps
        traces = [sample for line in done for sample in line["scores at 2p"]]
        self.signal = np.array([np.mean([x for x in trace if x is not None]) for trace in traces])
        names = sorted(set(self.prompts))
        self._of = [np.flatnonzero(np.array(self.prompts) == name) for name in names]

    def interval(self, statistic: Callable[[np.ndarray], float], draws: int = 400) -> dict[str, float]:
        """``statistic(samples)`` of all, and its 95 % interval over prompts."""

        def of_prompts(index: np.ndarray) -> float:
            return statistic(np.concatenate([self._of[i] for i in index]))

        low, high = bootstrap(of_prompts, len(self._of), draws)
        return {"mean": float(statistic(np.arange(len(self.prompts)))), "low": low, "high": high}

    def mean(self, values: np.ndarray) -> dict[str, float]:
        return self.interval(lambda index: float(values[index].mean()))

    def apart(self, values: np.ndarray, group: np.ndarray) -> dict[str, float]:
        """Mean of ``values`` inside of the group minus that outside."""

        def difference(index: np.ndarray) -> float:
            inside = group[index]
            if inside.all() or not inside.any():
                return float("nan")
            return float(values[index][inside].mean() - values[index][~inside].mean())

        return self.interval(difference)


def summary(
    lines: list[dict[str, Any]], costs: dict[int, float], source: str, target: float, real: np.ndarray
) -> dict[str, Any]:
    """Rows of the rules, differences to the paper's signal, and what the sizes follow."""
    samples = Samples(lines, costs, target)
    asked = [parse(prompt) for prompt in samples.prompts]
    textured = np.array([pattern in TEXTURED for _, pattern, _ in asked])
    two = np.array([len(objects) == 2 for objects, _, _ in asked])
    rows, differences, content = [], [], []
    for rule in samples.rules:
        own, paper = samples.values[rule], samples.values[YARDSTICK]
        distance = samples.interval(lambda i, f=own["features"]: frechet_distance(f[i], real), draws=100)
        rows.append(
            {"rule": rule}
            | {measure: samples.mean(own[measure]) for measure in MEASURES}
            | {
                "frechet": centred(distance["mean"], distance["low"], distance["high"]),
                "steps per size": [round(float(x), 1) for x in own["sizes"].mean(0)],
                "median psnr": float(np.median(own["psnr"])),
                "samples that were never coarse": int((own["cost"] == 1).sum()),
            }
        )
        if rule not in (BASE, YARDSTICK):
            differences.append(
                {"rule": rule} | {m: samples.mean(own[m] - paper[m]) for m in MEASURES}  # paired
            )
        if own["cost"].std() > 0.01:
            content.append(
                {
                    "rule": rule,
                    "spread of cost": float(own["cost"].std()),
                    "textured less plain": samples.apart(own["cost"], textured),
                    "two objects less one": samples.apart(own["cost"], two),
                }
            )
    relative = samples.signal / samples.signal.mean()
    thresholds = {x["rule"]: (x["threshold"], x["speed"]) for x in lines if x["kind"] == "threshold"}
    return {
        "target": target,
        "cost of a step": costs,
        "costs from": source,
        "prompts": len(set(samples.prompts)),
        "seeds": len(samples.seeds),
        "samples": len(samples.prompts),
        "thresholds, and their speed where they were searched": thresholds,
        "rows": rows,
        "less third difference": differences,
        "content": content,
        "score at fixed p": {
            "spread": float(relative.std()),
            "textured less plain": samples.apart(relative, textured),
            "two objects less one": samples.apart(relative, two),
        },
    }


def markdown(counted: dict[str, Any]) -> str:
    def cell(value: dict[str, float], digits: int) -> str:
        return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"

    lines = [
        f"{counted['prompts']} prompts, {counted['seeds']} seed(s), {counted['samples']} samples a rule; 95 % intervals over "
        f"prompts. Costs of a step by {counted['costs from']}: "
        + ", ".join(f"{scale}p {cost:g}" for scale, cost in counted["cost of a step"].items())
        + f". At most {ALIKE:g} dB count.",
        "",
        "| rule | cost | PSNR dB | median | SSIM | accuracy | Fréchet | steps at p/2p/4p | never coarse |",
        "|---" * 9 + "|",
    ]
    for row in counted["rows"]:
        lines.append(
            f"| {row['rule']} | {cell(row['cost'], 3)} | {cell(row['psnr'], 1)} | {row['median psnr']:.1f} "
            f"| {cell(row['ssim'], 3)} | {cell(row['accuracy'], 3)} | {cell(row['frechet'], 0)} "
            f"| {' / '.join(map(str, row['steps per size']))} | {row['samples that were never coarse']} |"
        )
    lines += [
        "",
        "Difference to the third difference, paired:",
        "",
        "| rule | cost | PSNR dB | SSIM | accuracy |",
    ]
    lines.append("|---" * 5 + "|")
    for row in counted["less third difference"]:
        lines.append(
            f"| {row['rule']} | {cell(row['cost'], 3)} | {cell(row['psnr'], 2)} | {cell(row['ssim'], 3)} "
            f"| {cell(row['accuracy'], 3)} |"
        )
    lines += ["", "What the cost of a sample follows:", ""]
    lines += ["| rule | spread | textured less plain | two objects less one |", "|---" * 4 + "|"]
    for row in counted["content"]:
        lines.append(
            f"| {row['rule']} | {row['spread of cost']:.3f} | {cell(row['textured less plain'], 3)} "
            f"| {cell(row['two objects less one'], 3)} |"
        )
    score = counted["score at fixed p"]
    lines.append(
        f"| (score at 2p of fixed p, relative) | {score['spread']:.3f} | {cell(score['textured less plain'], 3)} "
        f"| {cell(score['two objects less one'], 3)} |"
    )
    return "\n".join(lines) + "\n"
