"""A preset made by hand for a tiny pipeline, and a clock that ticks by tokens instead of time."""

from typing import Any

import torch
from flux_pipelines import TEXT

from ddit_ext import Fixed
from ddit_ext._machine import device_name
from ddit_ext.coarse.base_weights import fingerprint
from ddit_ext.presets import Candidate, Preset
from ddit_ext.presets.match import adapter_digest, plain_config


class TokenClock:
    """Seconds that pass only while the transformer works: a thousandth for each token of a call."""

    def __init__(self, pipe: Any, overhead: float = 0.0) -> None:
        self.seconds = 0.0
        self._overhead = overhead
        self._per_token = 1e-3
        held = (getattr(pipe, name, None) for name in ("transformer", "transformer_2"))
        models = [model for model in held if model is not None]
        blocks = [
            getattr(model, "transformer_blocks", None) or model.blocks for model in models
        ]  # FLUX's, Wan's
        self._handles = [
            layers[0].register_forward_pre_hook(self._tick, with_kwargs=True) for layers in blocks
        ]

    def _tick(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        self.seconds += self._per_token * (hidden.shape[1] + TEXT) + self._overhead

    def per_call_only(self) -> None:
        """From now on every call takes as long, as on a machine that waits for something else than arithmetic."""
        self._per_token, self._overhead = 0.0, 0.05

    def __call__(self) -> float:
        return self.seconds

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def make_preset(pipe: Any, strategy: Any = None, adapter: Any = None, **changes: Any) -> Preset:
    """For 8x6 tokens and 6 steps of 12; changes: other values of its fields."""
    strategy = strategy or Fixed([4, 2, 2, 1, 1, 1], stretch=True)
    chosen = Candidate(6, strategy, 2.05, 31.0, 2, True)
    values = dict(
        base=fingerprint(pipe.transformer),
        adapter=adapter_digest(adapter),
        pipeline=type(pipe).__name__,
        sampler={"class": type(pipe.scheduler).__name__, "config": plain_config(pipe.scheduler)},
        dtype="float32",
        steps=6,
        run_steps=6,
        full_steps=12,
        grid=(1, 8, 6),
        picture=(32, 24),
        batch=1,
        target="run",
        strategy=strategy,
        explanation="Fewer steps, and some of them coarser.",
        target_speedup=2.0,
        speed=2.05,
        psnr=31.0,
        step_seconds={1: 0.054, 2: 0.018, 4: 0.01},
        device=device_name("cpu"),
        threads=1,
        candidates=(chosen, Candidate(6, Fixed(1), 1.9, 29.0, 2, False)),
        versions={"ddit_ext": "0", "torch": torch.__version__},
    )
    return Preset(**{**values, **changes})


def calls(make_call: Any, count: int, **settings: Any) -> list[dict[str, Any]]:
    """Arguments of `count` calls with different prompts, as `calibrate` takes them."""
    made = [make_call(seed=seed, **settings) for seed in range(count)]
    for call in made:
        for name in ("generator", "output_type", "num_inference_steps"):
            del call[name]
    return made
