"""Models distilled to a few steps are told apart by what their config says, else by name; patch() warns."""

import warnings

import diffusers
import pytest
from family_cases import BY_NAME
from peft import LoraConfig
from tiny_edits import EDITS

import ddit_ext
from ddit_ext import Forecast

FEW = [
    "black-forest-labs/FLUX.1-schnell",
    "/home/me/FLUX.1-schnell",
    "/home/me/.cache/huggingface/hub/models--black-forest-labs--FLUX.1-schnell/snapshots/741f7c3c",
    "Tongyi-MAI/Z-Image-Turbo",
    "stabilityai/stable-diffusion-3.5-large-turbo",
    "Lightricks/LTX-Video-0.9.8-13B-distilled",
    "black-forest-labs/FLUX.2-klein-4B",
    "lightx2v/Wan2.1-T2V-14B-StepDistill-CfgDistill",
    "lightx2v/Qwen-Image-Lightning",
    "ByteDance/Hyper-SD",
    "someone/wan-lcm",
    "someone/qwen-image-4steps",
]
MANY = [
    "black-forest-labs/FLUX.1-dev",
    "/home/turbo/FLUX.1-dev",
    "Tongyi-MAI/Z-Image",
    "black-forest-labs/FLUX.2-klein-base-4B",
    "nyanko7/flux-dev-de-distill",
    "Qwen/Qwen-Image",
    "someone/trained-for-28-steps",
    "someone/calcmodel",
]


def told(pipe):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        ddit_ext.patch(pipe, schedule=Forecast(speedup=2)).unpatch()
    return [str(each.message) for each in seen if "distilled" in str(each.message)]


@pytest.fixture(scope="module")
def pipe():
    return BY_NAME["FLUX.1"].build()


@pytest.mark.parametrize("part", ["pipe", "transformer"])
@pytest.mark.parametrize("name", FEW)
def test_names_of_models_of_few_steps(name, part, pipe):
    holder = pipe if part == "pipe" else pipe.transformer
    holder.register_to_config(_name_or_path=name if part == "pipe" else f"{name}/transformer")
    (text,) = told(pipe)
    holder.register_to_config(_name_or_path="")
    assert "nothing to gain" in text and "use the base model" in text


@pytest.mark.parametrize("name", MANY)
def test_names_of_others(name, pipe):
    pipe.register_to_config(_name_or_path=name)
    assert not told(pipe)
    pipe.register_to_config(_name_or_path="")


def test_the_config_of_flux2_klein_decides_over_its_name():
    pipe = EDITS["FLUX.2 klein"].build()
    pipe.transformer.register_to_config(_name_or_path="black-forest-labs/FLUX.2-klein-4B")
    assert not told(pipe)
    pipe.register_to_config(is_distilled=True)
    assert told(pipe)[0].startswith("ddit_ext: Flux2KleinPipeline was distilled")


def test_hunyuan_video_of_few_steps_is_told_from_one_with_distilled_guidance():
    pipe = BY_NAME["HunyuanVideo 1.5"].build()
    pipe.register_to_config(
        _name_or_path="hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v_distilled"
    )
    assert not told(pipe)
    kind, config = BY_NAME["HunyuanVideo 1.5"].model
    pipe.transformer = getattr(diffusers, kind)(**config, use_meanflow=True)
    assert told(pipe)


def test_a_lora_that_makes_a_model_of_few_steps():
    pipe = BY_NAME["Qwen-Image"].build()
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), "style")
    assert not told(pipe)
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"]), "Qwen-Image-Lightning-8steps")
    assert told(pipe)[0].startswith("ddit_ext: Qwen-Image-Lightning-8steps was distilled")
