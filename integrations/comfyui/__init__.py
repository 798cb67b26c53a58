"""A node of ComfyUI: fewer model calls for flow-matching models, as a SAMPLER.

Link or copy this folder into ComfyUI/custom_nodes; ddit_ext must be installed in ComfyUI's Python. The node goes where
KSamplerSelect would, into SamplerCustomAdvanced.
"""

from __future__ import annotations

from typing import Any

AUTO = -1.0
"""What an advanced value is left at to follow from calls, steps and target."""


class ForecastSampler:
    """A SAMPLER that calls the model at some of the scheduler's steps and forecasts its output at the others."""

    CATEGORY = "sampling/custom_sampling/samplers"
    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "get_sampler"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, tuple]]:
        def share(high: float, tip: str) -> tuple:
            tip += " -1: follows from calls, steps and target."
            return ("FLOAT", {"default": AUTO, "min": AUTO, "max": high, "step": 0.05, "tooltip": tip})

        speedup = {"default": 2.5, "min": 1.0, "max": 20.0, "step": 0.1}
        speedup["tooltip"] = "Steps over model calls. Not used where calls is more than 0."
        calls = {"default": 0, "min": 0, "max": 1000, "tooltip": "Model calls. 0: by speedup."}
        target = {
            "tooltip": "run: the picture that all steps would give. exact: the sample of infinitely many steps."
        }
        return {
            "required": {
                "speedup": ("FLOAT", speedup),
                "calls": ("INT", calls),
                "target": (["run", "exact"], target),
            },
            "optional": {
                "growth": share(4.0, "How the gaps grow, from 1: evenly."),
                "slope": share(
                    1.0,
                    "Share of the outputs' last slope that a forecast follows; with few calls of the predicted samples', "
                    "0 in the last gap.",
                ),
                "corrector": share(1.0, "Share of a gap's error that is taken back."),
            },
        }

    def get_sampler(
        self,
        speedup: float,
        calls: int,
        target: str,
        growth: float = AUTO,
        slope: float = AUTO,
        corrector: float = AUTO,
    ) -> tuple[Any]:
        import comfy.samplers

        import ddit_ext

        advanced = {"growth": growth, "slope": slope, "corrector": corrector}
        options: dict[str, Any] = {name: value for name, value in advanced.items() if value >= 0}
        options |= {"calls": calls} if calls > 0 else {"speedup": speedup}
        options["target"] = target
        return (comfy.samplers.KSAMPLER(ddit_ext.k_diffusion.sample_forecast, options),)


NODE_CLASS_MAPPINGS = {"DDiTForecastSampler": ForecastSampler}
NODE_DISPLAY_NAME_MAPPINGS = {"DDiTForecastSampler": "Forecast Sampler (fewer model calls)"}
