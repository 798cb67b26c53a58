"""Stage `suite`: all tests but the kernels' own, on a machine with a GPU. In no plan but its own: they take minutes."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from .part import Part
from .tests import DRY_RUN, collect, kernel_files, run_suite

_UNIMPORTABLE = re.compile(r"^ERROR (python_tests/\S+\.py)", re.MULTILINE)


def run(part: Part) -> None:
    arguments = [DRY_RUN] if part.tiny else ["python_tests", *(f"--ignore={file}" for file in kernel_files())]
    if importlib.util.find_spec("diffusers") is None:
        without = sorted(_cannot_be_imported(part))
        arguments += [f"--ignore={file}" for file in without]
        part.leave_out(f"diffusers is not installed: {len(without)} files: {', '.join(without)}")
    run_suite(part, arguments)


def _cannot_be_imported(part: Part) -> set[str]:
    """Test files that can't even be collected."""
    collected = collect(part.folder / "collect.log", part.left() / 3, ["python_tests"])
    return {str(Path(file)) for file in _UNIMPORTABLE.findall(collected)}
