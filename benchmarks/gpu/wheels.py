"""Packages that this machine lacks, out of a folder of wheels: no network, nothing installed."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path


def unpack(wheels: Path, target: Path) -> list[str]:
    """Unpack every wheel of a folder into `target`, emptied before; returns the wheels' names.

    `target` belongs in front of the import path. Raises FileNotFoundError where there is no wheel, and
    zipfile.BadZipFile, naming it, for a file that is none.
    """
    found = sorted(wheels.glob("*.whl"))
    if not found:
        raise FileNotFoundError(f"--wheels: expected a folder with *.whl files, got {wheels}")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for wheel in found:
        if not zipfile.is_zipfile(wheel):
            raise zipfile.BadZipFile(f"--wheels: {wheel} is not a wheel")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
    return [wheel.name for wheel in found]
