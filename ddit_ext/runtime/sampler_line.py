"""What is known of one sampler: its run, and the thread that uses it."""

from __future__ import annotations

import threading
from typing import Any

from .callers import in_a_call
from .sampler_run import Run

SHARED = (
    "one sampler is used by two threads at once: give each pipeline a sampler of its own, such as "
    "copy.deepcopy(pipe.scheduler), or hold a lock around the call (docs/in-a-server.md)"
)


class Line:
    """One sampler. Its checks raise RuntimeError in a thread that may not use it.

    Attributes:
        run: the one under way, where its calls are looked at.
        thread: who has set its timesteps, or stepped it last.
        owner: whose pipeline has claimed the run under way.
        lost: whose runs other threads have ended, by setting its timesteps anew.
    """

    def __init__(self) -> None:
        self.run: Run | None = None
        self.thread: int | None = None
        self.owner: int | None = None
        self.lost: set[int | None] = set()

    def check_call(self, by_pipeline: bool) -> None:
        """Before a model call. by_pipeline: whether it is one of a pipeline's run, whose timesteps this thread has set."""
        me = threading.get_ident()
        if me in self.lost or (by_pipeline and self.thread not in (None, me)):
            raise RuntimeError(SHARED)

    def check_step(self) -> None:
        """Before a step, which may move another thread's run on."""
        run, me = self.run, threading.get_ident()
        other = run is not None and not run.finished and run.index == run.done and run.thread != me
        if me in self.lost or other:
            raise RuntimeError(SHARED)

    def claim(self, sampler: Any, over: bool) -> None:
        """At a pipeline's model call whose run isn't looked at. over: after the run's last step.

        A run that no other thread is in is handed on, as that of a method which yields its steps.
        """
        me = threading.get_ident()
        if self.thread != me and not in_a_call(sampler, besides=me):
            self.thread = me
        self.check_call(by_pipeline=not over)
        self.owner = None if over else me

    def begin(self) -> Run | None:
        """Its timesteps are set anew, by this thread. Gives the run that was under way."""
        run, self.run, me = self.run, None, threading.get_ident()
        if run is not None:
            self.owner = None if run.finished else run.thread
        self.lost = (self.lost | {self.owner}) - {None, me}
        self.owner, self.thread = None, me
        return run
