"""ForecastScheduler's arithmetic as a sampler of k-diffusion: for ComfyUI, and for every loop that takes such a function.

x = ddit_ext.k_diffusion.sample_forecast(model, x, sigmas, speedup=2.5)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tqdm.auto import tqdm

from ._core import ForecastPlan
from .schedulers.closed import crossed, missed
from .schedulers.history import History, followed
from .schedulers.settings import calls_of, check_settings


@torch.no_grad()
def sample_forecast(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    disable: bool | None = None,
    *,
    calls: int | None = None,
    speedup: float | None = None,
    target: str = "run",
    growth: float | None = None,
    slope: float | None = None,
    corrector: float | None = None,
) -> torch.Tensor:
    """Call the model at some of the steps and forecast its output at the others, as ForecastScheduler does.

    Args:
        model: (x, sigma ``[B]``, **extra_args) -> the denoised sample, as k-diffusion's models.
        x: the noisy sample, any shape that begins with the batch.
        sigmas: noise levels of all steps and the end, ``[steps + 1]``, falling.
        callback: called after each model call with x, i (of the call), step (of all steps), sigma, sigma_hat, denoised.
        disable: of the progress bar, as tqdm's.
        calls, speedup, target, growth, slope, corrector: as ForecastScheduler's.

    Returns:
        The sample at the last level. With calls = all steps, slope=0 and corrector=0 that of k-diffusion's sample_euler.

    Raises:
        ValueError: a setting that is not meant, more calls than steps, sigmas that rise.
    """
    check_settings("sample_forecast", calls, speedup, target, growth, slope, corrector)
    count = calls_of("sample_forecast", len(sigmas) - 1, calls, speedup)
    plan = ForecastPlan(sigmas.tolist(), count, target, growth, slope, corrector)
    everywhere, last = x.new_ones([len(x)]), None
    for index, call in enumerate(tqdm(plan.calls, disable=disable)):
        sigma = sigmas[call.step]
        denoised = model(x, sigma * everywhere, **(extra_args or {}))
        if callback is not None:
            callback(
                {
                    "x": x,
                    "i": index,
                    "step": call.step,
                    "sigma": sigma,
                    "sigma_hat": sigma,
                    "denoised": denoised,
                }
            )
        output = (x - denoised) / sigma
        value = followed(output, x, call)
        change = None if last is None else last.slope_to(value, call.sigma)
        correction = None if change is None else missed(last, change)
        x = crossed(output, x, call, change, correction).to(output.dtype)
        last = History(call, value, change, x, None)
    return x
