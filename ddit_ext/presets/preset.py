"""`Preset`: what a calibration found, as a small JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .._files import read_json, replace_text, version_of
from .._version import __version__
from ..strategies import Strategy, checks, from_dict
from .old_formats import upgraded

FORMAT = "ddit_ext.preset"
FORMAT_VERSION = 5
"""Since 5 a strategy is stored as it is; files of 1 to 4 are read through `old_formats`."""

OPTIONAL = ("measure", "score")
"""What a file of format 5 may lack: it was added later."""


class PresetError(ValueError):
    """A preset that can't be read, or that was made for something else; the text names what differs."""


@dataclass(frozen=True)
class Candidate:
    """One way to spend the time that was tried: what it is, what it cost, how close it came.

    Attributes:
        steps: num_inference_steps. strategy: what decides them.
        speed: measured, times the full run; the median over the calls it ran on.
        psnr: dB to the reference's pictures, the mean over pictures; equal ones count 100.
        runs: calls that were measured.
        reached: whether `speed` counts as the target: it is at most 5 % below.
        score: by the measure that calibrate was given, the mean over pictures; None without one.
    """

    steps: int
    strategy: Strategy
    speed: float
    psnr: float
    runs: int
    reached: bool
    score: float | None = None

    @property
    def closeness(self) -> float:
        """What it was chosen by: the measure that was given, or PSNR."""
        return self.psnr if self.score is None else self.score

    def words(self) -> str:
        """Steps and strategy in a few words."""
        return self.strategy.words(self.steps)

    def cells(self) -> list[str]:
        """Words, speed, PSNR, score where there is one and number of runs, as shown in tables."""
        speed = f"{self.speed:.2f}×" + ("" if self.reached else " (too slow)")
        score = [] if self.score is None else [f"{self.score:.3g}"]
        return [self.words(), speed, f"{self.psnr:.1f}", *score, str(self.runs)]


@dataclass(frozen=True)
class Preset:
    """Steps and a strategy that reach a target speed on one model, sampler, size and machine.

    Make one with `ddit_ext.calibrate`; use it with `ddit_ext.patch(pipe, adapter, preset=preset)` and
    `pipe(prompt, **preset.call)`.

    Attributes:
        base: the fingerprint of the model. adapter: the digest of the adapter's weights, or "training-free".
            A pipeline with two transformers has a fingerprint by name, and two digests with a "+" between.
        pipeline, sampler, dtype: of the calibrated pipeline; sampler is {"class", "config"}.
        steps: to be passed as num_inference_steps. run_steps: steps that the sampler then does.
        full_steps: num_inference_steps of the full run, the yardstick.
        grid: frames, rows and columns of base tokens; None for a family that is not known. picture: height and width
            in pixels. batch: samples a call of the transformer, guidance's among them.
        target: what pictures were compared with, "run" or "exact". strategy: what was chosen. explanation: in words.
        target_speedup, speed, psnr: asked for; measured over the calibration's prompts.
        measure, score: the name of the measure that decided in PSNR's place, and what it gave; None: PSNR did.
        step_seconds: {scale: seconds of one step} on `device`, with `threads` CPU threads.
        candidates: all that was tried. versions: of the libraries.
        pictures: {sample: {caption: picture}} of the full run, the chosen one and fewer steps; not in the file.
    """

    base: Mapping[str, Any]
    adapter: str
    pipeline: str
    sampler: Mapping[str, Any]
    dtype: str
    steps: int
    run_steps: int
    full_steps: int
    grid: tuple[int, int, int] | None
    picture: tuple[int, int]
    batch: int
    target: str
    strategy: Strategy
    explanation: str
    target_speedup: float
    speed: float
    psnr: float
    step_seconds: Mapping[int, float]
    device: str
    threads: int
    candidates: tuple[Candidate, ...]
    versions: Mapping[str, str]
    measure: str | None = None
    score: float | None = None
    pictures: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def call(self) -> dict[str, int]:
        """Keywords for the pipeline: `pipe(prompt, **preset.call)`."""
        return {"num_inference_steps": self.steps}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in the file."""
        data = {name.name: getattr(self, name.name) for name in fields(self) if name.name != "pictures"}
        data["strategy"] = self.strategy.to_dict()
        data["candidates"] = [
            vars(entry) | {"strategy": entry.strategy.to_dict()} for entry in self.candidates
        ]
        data["step_seconds"] = {str(scale): seconds for scale, seconds in self.step_seconds.items()}
        plain = {"format": FORMAT, "format_version": FORMAT_VERSION, "ddit_ext": __version__, **data}
        return json.loads(json.dumps(plain, allow_nan=False))

    def save(self, path: str | Path) -> Path:
        """Write the JSON file; what stood there before is replaced as a whole."""
        path = Path(path)
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        replace_text(path, text)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Preset:
        """Read what :meth:`save` wrote.

        Raises:
            PresetError: (a ValueError) a file that is missing, damaged, of another format or a newer version.
        """
        path = Path(path)
        if not path.is_file():
            raise PresetError(f"preset: there is no file {path}; ddit_ext.calibrate makes one")
        return cls.from_dict(read_json(path, f"preset: {path}", PresetError), str(path))

    @classmethod
    def from_dict(cls, data: Any, origin: str = "preset") -> Preset:
        """From :meth:`to_dict`'s data; `origin` is named in errors."""
        version = version_of(data, FORMAT, FORMAT_VERSION, origin, PresetError)
        names = {name.name for name in fields(cls)} - {"pictures", *OPTIONAL}
        old = names - {"target", "strategy"} | {"choice", "scales", "quantile"}
        missing = sorted((names if version == FORMAT_VERSION else old) - data.keys())
        if missing:
            raise PresetError(f"{origin}: lacks {missing}")
        try:
            data = data if version == FORMAT_VERSION else upgraded(data)
            return cls(
                **_parsed({name: data[name] for name in names} | {name: data.get(name) for name in OPTIONAL})
            )
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise PresetError(f"{origin} is damaged: {error}") from error

    def html(self, path: str | Path, pictures: Mapping[str, Any] | Sequence[Any] | None = None) -> None:
        """Write one self-contained HTML file: the candidates' speed against PSNR, the chosen one marked.

        Args:
            pictures: {caption: picture}, {row: {caption: picture}} or a list, PIL or uint8 [H, W, 3]; None: those of
                the calibration itself, which a loaded preset no longer has.
        """
        from ..reports import preset_page

        shown = self.pictures if pictures is None else pictures
        Path(path).write_text(preset_page(self, shown), encoding="utf-8")

    def table(self, most: int | None = None) -> str:
        """The candidates as a Markdown table, the chosen one in bold; most: only so many, the closest, and the chosen one."""
        lines = [f"| {' | '.join(self.columns)} |", "|---" * len(self.columns) + "|"]
        for place, candidate in enumerate(self.candidates):
            if most is not None and place >= most and not self.chose(candidate):
                continue
            bold = "**" if self.chose(candidate) else ""
            lines.append("| " + " | ".join(f"{bold}{cell}{bold}" for cell in candidate.cells()) + " |")
        return "\n".join(lines)

    @property
    def columns(self) -> list[str]:
        """What stands above `Candidate.cells`."""
        return ["steps", "measured speed", "PSNR, dB", *([self.measure] if self.measure else []), "runs"]

    def chose(self, candidate: Candidate) -> bool:
        """Whether a candidate is the one that was chosen."""
        return (candidate.steps, candidate.strategy) == (self.steps, self.strategy)

    def __str__(self) -> str:
        return f"{self.explanation}\n\n{self.table()}"


def _parsed(data: dict[str, Any]) -> dict[str, Any]:
    """Field values from JSON, each checked; TypeError, ValueError or KeyError names the first bad one."""
    for name in ("base", "sampler", "step_seconds", "versions"):
        _is(data, name, dict)
    for name in ("adapter", "pipeline", "dtype", "explanation", "device"):
        _is(data, name, str)
    if set(data["sampler"]) != {"class", "config"} or not isinstance(data["sampler"]["config"], dict):
        raise ValueError(f"sampler must have class and config, got {data['sampler']!r}")
    two = "family" not in data["base"] and data["base"]  # a fingerprint by the name of each transformer
    for base in data["base"].values() if two else [data["base"]]:
        known = isinstance(base, dict) and isinstance(base.get("family"), str)
        if not known or not all(isinstance(base.get(part), dict) for part in ("config", "weights")):
            raise ValueError(f"base must have family, config and weights, got {sorted(data['base'])}")
    for name in ("steps", "run_steps", "full_steps", "batch", "threads"):
        data[name] = checks.whole(name, data[name])
    for name in ("target_speedup", "speed", "psnr"):
        data[name] = checks.number(name, data[name], finite=True)
    data["score"] = _score(data)
    if data["measure"] is not None:
        _is(data, "measure", str)
    checks.one_of("target", data["target"], ("run", "exact"))
    for name, length in (("grid", 3), ("picture", 2)):
        if name == "grid" and data[name] is None:
            continue
        values = _is(data, name, list)
        if len(values) != length:
            raise ValueError(f"{name} must hold {length} numbers, got {values!r}")
        data[name] = tuple(checks.whole(name, value) for value in values)
    data["step_seconds"] = {
        int(scale): checks.number("step_seconds", seconds, finite=True)
        for scale, seconds in data["step_seconds"].items()
    }
    data["strategy"] = from_dict(data["strategy"])
    data["candidates"] = tuple(_candidate(entry) for entry in _is(data, "candidates", list))
    scores = [data["score"], *(candidate.score for candidate in data["candidates"])]
    if any((score is None) != (data["measure"] is None) for score in scores):
        raise ValueError("score must stand beside measure, and in each candidate")
    return data


def _candidate(entry: Any) -> Candidate:
    return Candidate(
        steps=checks.whole("steps", entry["steps"]),
        strategy=from_dict(entry["strategy"]),
        speed=checks.number("speed", entry["speed"], finite=True),
        psnr=checks.number("psnr", entry["psnr"], finite=True),
        runs=checks.whole("runs", entry["runs"]),
        reached=bool(entry["reached"]),
        score=_score(entry),
    )


def _score(data: Mapping[str, Any]) -> float | None:
    return None if data.get("score") is None else checks.number("score", data["score"], finite=True)


def _is(data: dict[str, Any], name: str, kind: type) -> Any:
    if not isinstance(data[name], kind):
        raise TypeError(f"{name} must be {kind.__name__}, got {type(data[name]).__name__}")
    return data[name]
