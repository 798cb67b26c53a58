"""Models on the hub whose configuration is known here, so that a run's cost is told before anything is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NON_COMMERCIAL = "https://huggingface.co/{}/blob/main/LICENSE.md"


@dataclass(frozen=True)
class Published:
    """One model: configuration and class of its transformer, and its licence as the hub's metadata say it."""

    config: Mapping[str, Any] = field(default_factory=dict)
    licence: Mapping[str, str] = field(default_factory=lambda: {"license": "apache-2.0"})
    transformer: str = ""  # the first of its family's classes, which `published` puts there


def non_commercial(model: str, name: str) -> dict[str, str]:
    """The metadata of a licence of Black Forest Labs, of which an adapter is a derivative."""
    return {"license": "other", "license_name": name, "license_link": NON_COMMERCIAL.format(model)}
