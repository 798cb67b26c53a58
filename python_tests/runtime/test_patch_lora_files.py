"""A user's LoRA files and saved pipelines, with a patch in place."""

import pytest
import torch
from diffusers import FluxPipeline
from flux_pipelines import make_call, make_pipeline, run
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

import ddit_ext
from ddit_ext.coarse import Adapter

TARGETS = ["to_q", "to_v", "ff.net.0.proj", "proj_mlp"]


@pytest.fixture(scope="module")
def lora_file(tmp_path_factory):
    """A LoRA as users download them: attention and feed-forward layers of the transformer."""
    folder = tmp_path_factory.mktemp("lora")
    transformer = make_pipeline().transformer
    torch.manual_seed(4)
    transformer.add_adapter(LoraConfig(r=2, target_modules=TARGETS, init_lora_weights=False), "style")
    layers = get_peft_model_state_dict(transformer, adapter_name="style")
    FluxPipeline.save_lora_weights(folder, transformer_lora_layers=layers)
    return folder


def result(pipe):
    return run(pipe, make_call(steps=3))


@pytest.mark.parametrize("patch_first", [True, False])
def test_loading_weighing_fusing_and_unloading(lora_file, patch_first):
    pipe = make_pipeline()
    adapter = Adapter.create(pipe.transformer, rank=2).eval()

    def patched():
        return ddit_ext.patch(pipe, adapter, schedule=[1, 2, 4])

    handle = patched()
    plain = result(pipe)
    if not patch_first:
        handle.unpatch()
    pipe.load_lora_weights(lora_file, adapter_name="style")
    if not patch_first:
        handle = patched()
    styled = result(pipe)
    assert (styled - plain).abs().max() > 1e-3
    pipe.set_adapters(["style"], [0.5])
    half = result(pipe)
    assert not torch.equal(half, styled) and not torch.equal(half, plain)
    pipe.set_adapters(["style"], [1.0])
    assert torch.equal(result(pipe), styled)
    pipe.fuse_lora()
    torch.testing.assert_close(result(pipe), styled, atol=1e-4, rtol=1e-4)
    pipe.unfuse_lora()
    torch.testing.assert_close(result(pipe), styled, atol=1e-4, rtol=1e-4)
    pipe.unload_lora_weights()
    torch.testing.assert_close(result(pipe), plain, atol=1e-4, rtol=1e-4)  # fused and back is rounded
    handle.unpatch()


def test_a_saved_pipeline_is_the_base_alone(tmp_path):
    pipe = make_pipeline()
    pipe.save_pretrained(tmp_path / "before")
    unpatched = result(pipe)
    handle = ddit_ext.patch(pipe, Adapter.create(pipe.transformer, rank=2).eval(), schedule=2)
    coarse = result(pipe)
    pipe.save_pretrained(tmp_path / "after")
    handle.unpatch()
    before, after = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (tmp_path / "before", tmp_path / "after")
    )
    assert before == after
    absent = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    again = FluxPipeline.from_pretrained(tmp_path / "after", **absent)
    again.set_progress_bar_config(disable=True)
    weights = again.transformer.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in pipe.transformer.state_dict().items())
    # Weights read from a file lie elsewhere in memory, so that products may add up in another order.
    torch.testing.assert_close(result(again), unpatched)
    assert not torch.equal(coarse, unpatched)
