"""ForecastScheduler in tiny FLUX and Wan pipelines: calls of the model, all steps bit for bit, strength, saving."""

import flux_pipelines
import pytest
import torch
import wan_pipelines
from diffusers import FluxPipeline
from skip_cases import called

from ddit_ext import ForecastScheduler

CASES = [(module, kind) for module in (flux_pipelines, wan_pipelines) for kind in module.KINDS]


def made(module, kind, settings=None, **call):
    """What a run ends with, how often the model was called, and the sampler."""
    pipe = module.make_pipeline(kind)
    calls = called(pipe)
    if settings is not None:
        pipe.scheduler = ForecastScheduler.from_scheduler(pipe.scheduler, **settings)
    return module.run(pipe, module.make_call(kind) | call), len(calls), pipe.scheduler


@pytest.mark.parametrize("module, kind", CASES, ids=[f"{m.__name__[:4]}-{k}" for m, k in CASES])
def test_calls_and_all_steps(module, kind):
    plain, all_calls, _ = made(module, kind, num_inference_steps=8)
    same, calls, _ = made(module, kind, {"calls": 8}, num_inference_steps=8)
    assert calls == all_calls and torch.equal(same, plain)
    few, calls, _ = made(module, kind, {"calls": 4}, num_inference_steps=8)
    assert calls == all_calls // 2 and torch.isfinite(few).all() and not torch.equal(few, plain)


@pytest.mark.parametrize("module, kind", [(flux_pipelines, "img2img"), (flux_pipelines, "inpaint"), (wan_pipelines, "v2v")],
                         ids=["img2img", "inpaint", "v2v"])  # fmt: skip
@pytest.mark.parametrize("strength", [0.3, 0.6, 0.95])
def test_strength_keeps_the_share_of_calls(module, kind, strength):
    call = dict(num_inference_steps=14, strength=strength)
    plain, all_calls, _ = made(module, kind, **call)
    same, _, _ = made(module, kind, {"calls": 14}, **call)
    assert torch.equal(same, plain)
    _, calls, scheduler = made(module, kind, {"calls": 7}, **call)
    computed = scheduler.computed
    guided = all_calls // (14 - round(14 * (1 - strength)))
    assert calls == guided * len(computed)
    assert abs(len(computed) - 7 * strength) <= 1
    assert computed[-1].index + computed[-1].levels == 14
    if kind == "v2v":  # it counts all steps: the noise is that of the plain run
        assert computed[0].index == 14 - int(14 * strength)


def test_a_saved_pipeline_names_it(tmp_path):
    pipe = flux_pipelines.make_pipeline()
    pipe.scheduler = ForecastScheduler.from_scheduler(pipe.scheduler, speedup=2)
    pipe.save_pretrained(tmp_path)
    without = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "image_encoder"))
    loaded = FluxPipeline.from_pretrained(tmp_path, feature_extractor=None, **without)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.scheduler.config.speedup == 2
    call = flux_pipelines.make_call(steps=8)
    # Weights elsewhere in memory change the order of sums.
    torch.testing.assert_close(flux_pipelines.run(loaded, call), flux_pipelines.run(pipe, call))
    assert loaded.scheduler.computed == pipe.scheduler.computed
