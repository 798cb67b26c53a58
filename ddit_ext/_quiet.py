"""Other libraries' notes, kept off the console while something runs; their errors stay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def quiet_libraries(*, progress: bool = False) -> Iterator[None]:
    """Inside, diffusers and transformers print errors alone. Afterwards their settings are as before.

    Args:
        progress: leave the bars that show how a model loads.
    """
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    with ExitStack() as after:
        for library in (of_diffusers, of_transformers):
            after.callback(library.set_verbosity, library.get_verbosity())
            library.set_verbosity_error()
            if not progress and library.is_progress_bar_enabled():
                after.callback(library.enable_progress_bar)
                library.disable_progress_bar()
        yield
