"""SIGINT (Ctrl-C) and SIGTERM (a scheduler's farewell) end a run after its step, with its work saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(RuntimeError):
    """The run was asked to stop; the text says where its state is.

    Attributes:
        status: the exit status that a shell expects, 128 and the signal's number.
    """

    def __init__(self, text: str, received: int):
        super().__init__(text)
        self.status = 128 + received


class Stop:
    """Inside ``with stop:``, the first of :data:`SIGNALS` is only noted; the next one acts as ever, at once.

    Signals reach the main thread alone: in another one this does nothing.

    Attributes:
        received: the signal, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
