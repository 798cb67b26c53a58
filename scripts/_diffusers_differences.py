"""Tests of diffusers that may fail on a patched pipeline, each with its reason. With schedule=1 there is none."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """Differences of `mode` whose test and error match these patterns, and why they are meant.

    ends_plain: only where the test's first output is changed, and the last has the bits that it has without a patch.
    """

    mode: str
    test: str
    error: str
    reason: str
    ends_plain: bool = False

    def covers(self, mode: str, test: str, error: str, ends_plain: bool) -> bool:
        matches = re.search(self.test, test) and re.search(self.error, error)
        return mode == self.mode and bool(matches) and (ends_plain or not self.ends_plain)


KNOWN = (
    Known(
        "forecast",
        "",
        "^failed: AssertionError: ",
        "the test's second pipeline shares the patched transformer, but has a plain sampler of its own: nothing is forecast "
        "there, and a warning says so; its output has the bits that it has without a patch",
        ends_plain=True,
    ),
    Known(
        "forecast",
        "",
        "^failed: ValueError: ForecastScheduler: .* must have prediction_type='flow_prediction'",
        "a sampler that isn't of flow matching is refused by name",
    ),
    Known(
        "schedule=2",
        "test_controlnet_flux$|test_wan_video_to_video.*::test_inference$",
        "^failed: AssertionError: ",
        "the test compares with stored numbers, those of all steps at full size",
    ),
    Known(
        "schedule=2",
        "stable_diffusion_3_img2img.*::test_latents_input$",
        "^failed: AssertionError: .* not less than 0.0001 ",
        "the test leaves dropout on in its text encoder, so its two calls differ; in evaluation mode they agree bit for bit",
    ),
    Known(
        "schedule=2",
        "z_image.*::test_vae_tiling$",
        "^failed: AssertionError: .* VAE tiling should not affect",
        "the test bounds what tiles change in the decoded picture; the latents are the same, bit for bit",
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
