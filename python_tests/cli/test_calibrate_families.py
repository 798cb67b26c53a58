"""`ddit calibrate` on a folder of a family that came after FLUX, with a tokenizer and a text encoder of its own."""

import dataclasses
import functools

import pytest
import torch
from diffusers import ZImagePipeline, ZImageTransformer2DModel
from family_cases import BY_NAME
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

import ddit_ext
from ddit_ext import calibration, cli
from ddit_ext.cli.calibrate import guidance_of


@pytest.fixture
def folder(tmp_path):
    case = BY_NAME["Z-Image"]
    made = dataclasses.replace(case, parts=lambda: {"vae": case.vae()}).build()
    vocab = {letter: index for index, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], model_max_length=64)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    config = Qwen3Config(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
    )
    torch.manual_seed(0)
    parts = {"text_encoder": Qwen3Model(config).eval(), "tokenizer": tokenizer}
    ZImagePipeline(**made.components | parts).save_pretrained(tmp_path / "z-image")
    return tmp_path / "z-image"


@pytest.fixture
def calls(monkeypatch):
    """A clock that counts the transformer's calls."""
    seen = []
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, *given: seen.append(1) if isinstance(module, ZImageTransformer2DModel) else None
    )
    timed = functools.partial(calibration.calibrate, clock=lambda: float(len(seen)))
    monkeypatch.setattr(calibration, "calibrate", timed)
    yield seen
    hook.remove()


def test_a_folder_of_z_image(folder, calls, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    out, page = tmp_path / "preset.json", tmp_path / "page.html"
    given = f"calibrate {folder} --prompts {tmp_path / 'prompts.txt'} --target-speedup 2 --out {out} --html {page}"
    assert cli.main([*given.split(), *"--steps 12 --height 64 --width 64 --guidance-scale 4".split()]) == 0
    assert "wrote" in capsys.readouterr().out and page.is_file()
    pipe = ZImagePipeline.from_pretrained(folder)
    preset = ddit_ext.Preset.load(out)
    assert preset.speed >= 1.9
    with ddit_ext.patch(pipe, preset=out) as handle:
        before = len(calls)
        image = pipe("a bird", height=64, width=64, **{"guidance_scale": 4.0} | preset.call).images[0]
    assert image.size == (64, 64) and len(calls) - before <= 12 / 1.9
    texts = handle.report().to_dict()["warnings"]
    assert not [text for text in texts if "by step times" not in text]  # a busy machine's


def test_the_name_of_a_familys_guidance():
    assert guidance_of(BY_NAME["Qwen-Image"].build()) == "true_cfg_scale"
    assert guidance_of(BY_NAME["Z-Image"].build()) == "guidance_scale"
    assert guidance_of(BY_NAME["Chroma"].build()) == "guidance_scale"
