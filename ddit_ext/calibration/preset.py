"""`Preset`: what a calibration found, as a small JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .._version import __version__
from ..coarse.adapter_file import replace_file
from .choices import Choice
from .values import number, whole

FORMAT = "ddit_ext.preset"
FORMAT_VERSION = 4
"""Since 2 steps may be skipped, since 3 forecast, since 4 corrected; files of 1 to 3 have the same fields."""


class PresetError(ValueError):
    """A preset that can't be read, or that was made for something else; the text names what differs."""


@dataclass(frozen=True)
class Candidate:
    """One way to spend the time that was tried: what it is, what it cost, how close it came.

    Attributes:
        choice: steps and sizes.
        predicted_speed: by the step costs; None where the sizes are only known after a run.
        speed: measured, times the full run; the median over the prompts it ran on.
        psnr: dB to the full sample, the mean over pictures; equal pictures count 100.
        runs: calls that were measured.
        reached: whether `speed` counts as the target: it is at most 5 % below.
    """

    choice: Choice
    predicted_speed: float | None
    speed: float
    psnr: float
    runs: int
    reached: bool


@dataclass(frozen=True)
class Preset:
    """Steps and sizes that reach a target speed on one model, sampler, size and machine.

    Make one with `ddit_ext.calibrate`; use it with `ddit_ext.patch(pipe, adapter, preset=preset)` and
    `pipe(prompt, num_inference_steps=preset.steps)`.

    Attributes:
        base: the fingerprint of the model. adapter: the digest of the adapter's weights, or "training-free".
            Of a pipeline with two transformers a fingerprint by name, and two digests with a "+" between.
        pipeline, sampler, dtype: of the calibrated pipeline; sampler is {"class", "config"}.
        steps: to be passed as num_inference_steps. run_steps: steps that the sampler then does.
        full_steps: num_inference_steps of the full run, the yardstick.
        grid: frames, rows and columns of base tokens. picture: height and width in pixels. batch: samples a call.
        scales, quantile: as for `patch`.
        choice: what was chosen. explanation: the same in words.
        target_speedup, speed, psnr: asked for; measured over the calibration's prompts.
        step_seconds: {scale: seconds of one step} on `device`, with `threads` CPU threads; 0: of a skipped one, where
            it was timed.
        candidates: all that was tried. versions: of the libraries.
        pictures: {caption: picture} of the full sample and the chosen one; not in the file.
    """

    base: Mapping[str, Any]
    adapter: str
    pipeline: str
    sampler: Mapping[str, Any]
    dtype: str
    steps: int
    run_steps: int
    full_steps: int
    grid: tuple[int, int, int]
    picture: tuple[int, int]
    batch: int
    scales: tuple[int, ...]
    quantile: float
    choice: Choice
    explanation: str
    target_speedup: float
    speed: float
    psnr: float
    step_seconds: Mapping[int, float]
    device: str
    threads: int
    candidates: tuple[Candidate, ...]
    versions: Mapping[str, str]
    pictures: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def strategy(self) -> Any:
        """What `patch` is given."""
        return self.choice.strategy(self.scales, self.quantile)

    @property
    def call(self) -> dict[str, int]:
        """Keywords for the pipeline: `pipe(prompt, **preset.call)`."""
        return {"num_inference_steps": self.steps}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as in the file."""
        data = {name.name: getattr(self, name.name) for name in fields(self) if name.name != "pictures"}
        data["choice"] = self.choice.to_dict()
        data["candidates"] = [
            asdict(candidate) | {"choice": candidate.choice.to_dict()} for candidate in self.candidates
        ]
        data["step_seconds"] = {str(scale): seconds for scale, seconds in self.step_seconds.items()}
        plain = {"format": FORMAT, "format_version": FORMAT_VERSION, "ddit_ext": __version__, **data}
        return json.loads(json.dumps(plain, allow_nan=False))

    def save(self, path: str | Path) -> Path:
        """Write the JSON file; what stood there before is replaced as a whole."""
        path = Path(path)
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        replace_file(path, lambda partial: Path(partial).write_text(text, encoding="utf-8"))
        return path

    @classmethod
    def load(cls, path: str | Path) -> Preset:
        """Read what :meth:`save` wrote.

        Raises:
            PresetError: (a ValueError) a file that is missing, damaged, of another format or a newer version.
        """
        path = Path(path)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise PresetError(f"preset: {path} is not readable JSON: {error}") from error
        return cls.from_dict(data, str(path))

    @classmethod
    def from_dict(cls, data: Any, origin: str = "preset") -> Preset:
        """From :meth:`to_dict`'s data; `origin` is named in errors."""
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise PresetError(f"{origin}: expected format {FORMAT!r}, got {found!r}")
        version = data.get("format_version")
        if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
            raise PresetError(
                f"{origin}: expected format_version 1 to {FORMAT_VERSION}, which ddit_ext {__version__} reads, "
                f"got {version!r}, written by ddit_ext {data.get('ddit_ext', '?')}"
            )
        names = {name.name for name in fields(cls)} - {"pictures"}
        missing = sorted(names - data.keys())
        if missing:
            raise PresetError(f"{origin}: lacks {missing}")
        try:
            return cls(**_parsed({name: data[name] for name in names}))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise PresetError(f"{origin} is damaged: {error}") from error

    def html(self, path: str | Path, pictures: Mapping[str, Any] | Sequence[Any] | None = None) -> None:
        """Write one self-contained HTML file: the candidates' speed against PSNR, the chosen one marked.

        Args:
            pictures: {caption: picture} or a list, PIL or uint8 [H, W, 3]; None: those of the calibration itself,
                which a loaded preset no longer has.
        """
        from ..reports import preset_page

        shown = self.pictures if pictures is None else pictures
        Path(path).write_text(preset_page(self, shown), encoding="utf-8")

    def table(self) -> str:
        """The candidates as a Markdown table, the chosen one in bold."""
        lines = [
            "| candidate | predicted speed | measured speed | PSNR to the full sample, dB | runs |",
            "|---" * 5 + "|",
        ]
        for candidate in self.candidates:
            cells = candidate_cells(candidate)
            bold = "**" if candidate.choice == self.choice else ""
            lines.append("| " + " | ".join(f"{bold}{cell}{bold}" for cell in cells) + " |")
        return "\n".join(lines)

    def __str__(self) -> str:
        return f"{self.explanation}\n\n{self.table()}"


def candidate_cells(candidate: Candidate) -> list[str]:
    """Words, predicted speed, measured speed, PSNR and number of runs of a candidate, as shown in tables."""
    predicted = candidate.predicted_speed
    return [
        candidate.choice.words(),
        "–" if predicted is None else f"{predicted:.2f}×",
        f"{candidate.speed:.2f}×" + ("" if candidate.reached else " (too slow)"),
        f"{candidate.psnr:.1f}",
        str(candidate.runs),
    ]


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
        data[name] = whole(name, data[name])
    for name in ("target_speedup", "speed", "psnr", "quantile"):
        data[name] = number(name, data[name])
    for name, length in (("grid", 3), ("picture", 2), ("scales", None)):
        values = _is(data, name, list)
        if length is not None and len(values) != length:
            raise ValueError(f"{name} must hold {length} numbers, got {values!r}")
        data[name] = tuple(whole(name, value) for value in values)
    data["step_seconds"] = {
        int(scale): number("step_seconds", seconds) for scale, seconds in data["step_seconds"].items()
    }
    data["choice"] = Choice.from_dict(data["choice"])
    data["candidates"] = tuple(_candidate(entry) for entry in _is(data, "candidates", list))
    if not set(data["choice"].scales()) <= set(data["scales"]):
        raise ValueError(f"choice uses the sizes {data['choice'].scales()}, scales are {data['scales']}")
    return data


def _candidate(entry: Any) -> Candidate:
    predicted = entry["predicted_speed"]
    return Candidate(
        choice=Choice.from_dict(entry["choice"]),
        predicted_speed=None if predicted is None else number("predicted_speed", predicted),
        speed=number("speed", entry["speed"]),
        psnr=number("psnr", entry["psnr"]),
        runs=whole("runs", entry["runs"]),
        reached=bool(entry["reached"]),
    )


def _is(data: dict[str, Any], name: str, kind: type) -> Any:
    if not isinstance(data[name], kind):
        raise TypeError(f"{name} must be {kind.__name__}, got {type(data[name]).__name__}")
    return data[name]
