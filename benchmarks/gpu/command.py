"""Programs with a log, a time limit, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


class Command:
    """A program that runs, its output going to `log`, until it ends, `seconds` are over or it is stopped.

    It gets a process group of its own: with it, everything that it started is ended.
    """

    def __init__(
        self, argv: Sequence[str], log: Path, seconds: float, cwd: Path, environment: Mapping[str, str]
    ) -> None:
        self.log = log
        self.timed_out = False
        self.started = time.monotonic()
        self.seconds = 0.0
        self._ended = False
        self._limit = seconds
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                list(argv),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=cwd,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    @property
    def returncode(self) -> int | None:
        """The exit status; negative for a signal; None while it runs."""
        return self._process.returncode

    def done(self) -> bool:
        """Whether it has ended; past its limit it is stopped here."""
        if self._ended:
            return True
        if self._process.poll() is None:
            if time.monotonic() - self.started < self._limit:
                return False
            self.timed_out = True
        self.stop()
        return True

    def wait(self) -> Command:
        """Return when it has ended or was stopped."""
        try:
            while not self.done():
                time.sleep(0.05)
        finally:
            self.stop()
        return self

    def stop(self, grace: float = 3.0) -> None:
        """End it and all that it started: asked first, then killed."""
        if self._ended:
            return
        self._ended = True
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, sign)
            except ProcessLookupError:  # nobody of the group is left
                break
            try:
                self._process.wait(grace)
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()
        self.seconds = time.monotonic() - self.started

    def output(self) -> str:
        """All of the log so far."""
        return self.log.read_text(errors="replace")

    def tail(self, characters: int = 2000) -> str:
        """The end of the log."""
        return self.output()[-characters:]
