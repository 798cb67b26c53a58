"""What is told how a run goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..coarse.adapter import Adapter
    from .trainer import Trainer


class Observer:
    """Does nothing; a subclass overrides what it wants to know."""

    def logged(self, line: dict[str, Any]) -> None:
        """A line of the log was written; in the main process only."""

    def stepped(self, done: int, trainer: Trainer) -> None:
        """``done`` steps are finished; in every process."""

    def saved(self, folder: Path, adapter: Adapter) -> None:
        """The adapter's files were written; in the main process only."""
