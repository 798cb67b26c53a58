"""Tests of diffusers that may fail on a patched pipeline, each with its reason. With schedule=1 there is none."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """Differences of `mode` whose test and error match these patterns, and why they are meant."""

    mode: str
    test: str
    error: str
    reason: str

    def covers(self, mode: str, test: str, error: str) -> bool:
        return mode == self.mode and bool(re.search(self.test, test) and re.search(self.error, error))


KNOWN: tuple[Known, ...] = (
    Known(
        "forecast",
        "encode_prompt_works_in_isolation|test_pipeline_level_group_offloading_inference",
        "",
        "the second pipeline is made of the first one's components from before the patch, so its sampler is plain",
    ),
    Known("schedule=2", "klein_kv", "kv_cache_mode=", "a cache of references is refused by name"),
)
