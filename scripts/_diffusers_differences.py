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


KNOWN = (
    Known(
        "forecast",
        "encode_prompt_works_in_isolation|test_pipeline_level_group_offloading_inference",
        "^failed",
        "the test's second pipeline shares the patched transformer, but has a plain sampler of its own: nothing is forecast "
        "there, and a warning says so",
    ),
    Known("schedule=2", "klein_kv", "kv_cache_mode=", "a cache of references is refused by name"),
    Known(
        "schedule=2",
        "test_pyramid_attention_broadcast_layers|test_faster_cache_state",
        "should have updated during inference",
        "the test looks into a cache's state, and steps of each scale have a state of their own (docs/caches.md)",
    ),
    Known(
        "schedule=2",
        "",
        "^failed: NotImplementedError: ",
        "what larger patches can't work with raises, by name (docs/design/patching.md)",
    ),
)
