"""Other libraries' notes, kept off the console of the `ddit` command; their errors stay."""

from __future__ import annotations

import warnings


def quieten() -> None:
    """For the whole process, so a library's user should not call it."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", "`torch_dtype` is deprecated", FutureWarning)
