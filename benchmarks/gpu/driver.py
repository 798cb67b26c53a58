"""Runs the stages as programs of their own, each within its time, and keeps one JSON file up to date.

A stage that crashes, hangs or poisons the GPU's context takes nothing along: what it had found stays, and the
next one starts fresh.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from . import table
from .command import Command
from .part import ROOT, read, write_whole

GRACE = 4.0
"""Seconds between the end of a stage's time, as it is told, and its being stopped."""

BAD = ("failed", "timeout", "running", "not run")


@dataclass(frozen=True)
class Stage:
    """A program that writes its Part to `folder/name.json`: argv, given the seconds that it has."""

    name: str
    limit: float  # seconds, when the earlier stages have used theirs up
    argv: Callable[[float], Sequence[str]]


class Report:
    """The whole record, written whenever a stage has found more."""

    def __init__(self, folder: Path, header: dict[str, Any], names: Sequence[str]) -> None:
        self.folder = folder
        self.out: Path | None = None  # not before the device's name is known
        self.stages: dict[str, dict[str, Any]] = {name: {"status": "not run"} for name in names}
        self._header = {**header, "date": datetime.now(timezone.utc).isoformat(timespec="seconds")}
        self._written = ""

    def table(self) -> str:
        """The Markdown as it was last written."""
        return self.out.with_suffix(".md").read_text()

    def to_dict(self) -> dict[str, Any]:
        return {**self._header, "stages": self.stages}

    def failed(self) -> list[str]:
        """The stages that did not pass and were not skipped for a reason."""
        return [name for name, stage in self.stages.items() if stage["status"] in BAD]

    def keep(self, name: str, record: dict[str, Any]) -> None:
        """A stage's record of an earlier run, where the stages that read it find it."""
        self.stages[name] = record
        write_whole(self.folder / f"{name}.json", json.dumps(record))

    def refresh(self, running: Sequence[str]) -> None:
        """Take what the running stages have written so far; write the JSON where it has changed."""
        for name in running:
            record = read(self.folder / f"{name}.json")
            if record:
                self.stages[name] = record
        self.write()

    def ended(self, stage: Stage, command: Command) -> None:
        """The end of a stage, however it came."""
        record = read(self.folder / f"{stage.name}.json") or {"results": {}}
        if command.timed_out:
            record |= {"status": "timeout", "reason": f"ran past its limit of {command.seconds:.0f} s"}
        elif record.get("status", "running") == "running":
            record |= {"status": "failed", "reason": f"ended with status {command.returncode}"}
        record["seconds"] = round(command.seconds, 1)
        if record["status"] in BAD:
            record["log"] = command.tail()
        self.stages[stage.name] = record
        self.write()

    def write(self) -> None:
        """JSON and Markdown, side by side."""
        if self.out is None:
            return
        text = json.dumps(self.to_dict(), indent=1) + "\n"
        if text != self._written:
            write_whole(self.out, text)
            self._written = text
            try:
                shown = table.markdown(self.to_dict())
            except Exception as error:  # a stage that ended halfway: the JSON has it all
                shown = f"This record can't be shown as a table: {type(error).__name__}: {error}\n"
            write_whole(self.out.with_suffix(".md"), shown)


def run_groups(
    groups: Sequence[Sequence[Stage]],
    report: Report,
    total: float,
    environment: dict[str, str],
    after: Callable[[str], None] = lambda name: None,
) -> None:
    """Run the groups one after the other, the stages of a group side by side, in `total` seconds in all.

    A group may use what the earlier ones have left over, and leaves the later ones their limits.
    after: called with the name of each stage that has ended.
    """
    begun = time.monotonic()
    for number, group in enumerate(groups):
        later = sum(max(stage.limit for stage in rest) for rest in groups[number + 1 :])
        seconds = max(1.0, total - (time.monotonic() - begun) - later)
        commands = []
        for stage in group:
            (report.folder / f"{stage.name}.json").unlink(missing_ok=True)
            argv = stage.argv(max(1.0, seconds - GRACE))
            log = report.folder / f"{stage.name}.log"
            commands.append((stage, Command(argv, log, seconds, ROOT, environment)))
        try:
            _wait(commands, report, after)
        finally:
            for stage, command in commands:
                if not command.done():
                    command.stop()
                    report.ended(stage, command)


def _wait(
    commands: list[tuple[Stage, Command]], report: Report, after: Callable[[str], None], every: float = 1.0
) -> None:
    running = list(commands)
    refreshed = time.monotonic()
    while running:
        for stage, command in list(running):
            if command.done():
                running.remove((stage, command))
                report.ended(stage, command)
                after(stage.name)
        if time.monotonic() - refreshed > every:
            report.refresh([stage.name for stage, _ in running])
            refreshed = time.monotonic()
        time.sleep(0.05)
