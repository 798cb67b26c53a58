"""What one stage has found so far: a JSON file that is whole at every moment, so that a kill loses nothing."""

from __future__ import annotations

import json
import os
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""


class Skipped(Exception):
    """Raised by a stage that can't be done here; the text is the reason."""


class Part:
    """The record of one stage, written to `folder/name.json` at every change.

    Attributes:
        device: "cuda" or "cpu".
        tiny: whether every size is tiny: a dry run of the code, whose figures mean nothing.
        folder: where the other stages' records and all logs are.
        results: what the stage found; free form, JSON.
    """

    def __init__(self, folder: Path, name: str, device: str, tiny: bool, seconds: float) -> None:
        self.folder, self.name, self.device, self.tiny = folder, name, device, tiny
        self.results: dict[str, Any] = {}
        self._file = folder / f"{name}.json"
        self._record: dict[str, Any] = {
            "status": "running",
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "problems": [],
            "results": self.results,
        }
        self._started = time.monotonic()
        self._seconds = seconds
        self.save()

    def left(self) -> float:
        """Seconds until the stage is stopped."""
        return self._seconds - (time.monotonic() - self._started)

    def save(self) -> None:
        """Write the record as it is now."""
        self._record["seconds"] = round(time.monotonic() - self._started, 2)
        write_whole(self._file, json.dumps(self._record, indent=1))

    def add(self, **found: Any) -> None:
        """Results under their names, written at once."""
        self.results.update(found)
        self.save()

    def problem(self, text: str) -> None:
        """Note what is wrong; the stage goes on and counts as failed."""
        print(f"{self.name}: {text}", flush=True)
        self._record["problems"].append(text)
        self.save()

    def leave_out(self, text: str) -> None:
        """Note what was not done, and why."""
        print(f"{self.name}: left out: {text}", flush=True)
        self.results.setdefault("left_out", []).append(text)
        self.save()

    def finish(self, status: str | None = None, reason: str | None = None) -> None:
        """The end: status "passed" or "failed", by the problems, if none is given."""
        self._record["status"] = status or ("failed" if self._record["problems"] else "passed")
        if reason is not None:
            self._record["reason"] = reason
        self.save()

    def of(self, stage: str) -> dict[str, Any]:
        """The results of another stage, as far as they go; empty where there are none."""
        record = read(self.folder / f"{stage}.json")
        return record["results"] if record else {}


def read(file: Path) -> dict[str, Any] | None:
    """A stage's record; None where there is none."""
    return json.loads(file.read_text()) if file.is_file() else None


def write_whole(file: Path, text: str) -> None:
    """Replace a file as a whole: a reader, or a kill, meets the old text or the new one."""
    beside = file.with_name(f"{file.name}.{os.getpid()}.part")
    beside.write_text(text)
    os.replace(beside, file)
