"""Distillation and adapter files of a tiny random Wan: what FLUX has, without a line of its own."""

import json

import pytest
import torch
from wan_pipelines import TEXT_WIDTH, make_call, make_pipeline, make_transformer, run

import ddit_ext
from ddit_ext.coarse import Adapter, AdapterError
from ddit_ext.training import DistillConfig, distill, evaluate_coarse_error


def conditions(batch, seed):
    generator = torch.Generator().manual_seed(seed)
    return {"encoder_hidden_states": torch.randn(batch, 4, TEXT_WIDTH, generator=generator)}


def smooth_videos(batch, seed, frames=2, side=8):
    """Clean latents [batch, 16, frames, side, side] with little detail."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, 16, frames, side // 2, side // 2, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(frames, side, side), mode="trilinear")


def training_batch(step):
    return smooth_videos(4, step), conditions(4, step)


def train(transformer, adapter, folder=None, batches=training_batch, **changes):
    settings = {"lr": 3e-3, "warmup": 2, "log_every": 4, "checkpoint_every": 5, "ema": 0.9} | changes
    return distill(transformer, adapter, batches, DistillConfig(**settings), out_dir=folder, progress=False)


@pytest.mark.parametrize(("lr", "share"), [(1e-4, 1.0), (3e-3, 0.97)])
def test_training_lowers_the_error_at_both_scales(lr, share):
    """Thirty steps of AdamW, at the paper's rate and at a larger one; the error on noise that stays the same."""
    transformer = make_transformer()
    data = [(smooth_videos(8, 0), conditions(8, 0))]
    adapter = Adapter.create(transformer, rank=2)
    sigmas = [0.2, 0.5, 0.9]
    before = {s: evaluate_coarse_error(transformer, adapter, data, s, sigmas) for s in (2, 4)}
    train(transformer, adapter, batches=data, steps=30, lr=lr)
    for scale in (2, 4):
        after = evaluate_coarse_error(transformer, adapter, data, scale, sigmas)
        assert all(after[sigma] < share * before[scale][sigma] for sigma in sigmas)


def test_a_resumed_run_continues_bit_for_bit_and_its_file_is_the_adapter(tmp_path):
    transformer = make_transformer()
    wanted = {name: value.clone() for name, value in transformer.named_parameters()}
    through = train(transformer, Adapter.create(transformer, rank=2), steps=8)

    def until_killed(step):
        if step == 6:
            raise KeyboardInterrupt
        return training_batch(step)

    with pytest.raises(KeyboardInterrupt):
        train(transformer, Adapter.create(transformer, rank=2), tmp_path, until_killed, steps=8)
    resumed = train(transformer, Adapter.create(transformer, rank=2, seed=9), tmp_path, steps=8)
    loaded = Adapter.load(tmp_path / "adapter", transformer)
    for a, b, c in zip(*(x.parameters() for x in (through.adapter, resumed.adapter, loaded)), strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    assert all(torch.equal(value, wanted[name]) for name, value in transformer.named_parameters())
    description = json.loads((tmp_path / "adapter" / "adapter.json").read_text())
    assert description["base"]["family"] == "wan"
    assert description["lora_layers"] == {"blocks.0.ffn.net.0.proj": [24, 32], "blocks.0.ffn.net.2": [32, 24]}
    with pytest.raises(AdapterError, match="another base model"):
        Adapter.load(tmp_path / "adapter", make_transformer(seed=3))
    pipe = make_pipeline()
    pipe.transformer = transformer
    handle = ddit_ext.patch(pipe, tmp_path / "adapter", schedule=2)
    trained = run(pipe, make_call(steps=1))
    handle.unpatch()
    ddit_ext.patch(pipe, Adapter.training_free(transformer), schedule=2)
    assert not torch.allclose(run(pipe, make_call(steps=1)), trained)


def test_an_untrained_adapter_is_the_training_free_step():
    pipe, call = make_pipeline("i2v_21"), make_call("i2v_21", 3, 5, steps=1)
    outputs = []
    for adapter in (Adapter.create(pipe.transformer, rank=2), Adapter.training_free(pipe.transformer)):
        handle = ddit_ext.patch(pipe, adapter.eval(), schedule=2)
        outputs.append(run(pipe, call))
        handle.unpatch()
    assert torch.equal(*outputs)


def test_condition_latents_reach_the_model_without_noise():
    transformer = make_transformer(in_channels=36)
    extra = torch.ones(4, 20, 2, 8, 8)
    seen = []
    transformer.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(kwargs["hidden_states"]), with_kwargs=True
    )

    def batches(step):
        latents, text = training_batch(step)
        return latents, text | {"condition_latents": extra}

    assert train(transformer, Adapter.create(transformer, rank=2), batches=batches, steps=2).steps == 2
    assert all(call.shape[1] == 36 and torch.equal(call[:, 16:], extra) for call in seen)


def test_latents_that_do_not_fit_are_named():
    transformer = make_transformer()
    for shape in ((1, 16, 8, 8), (1, 16, 2, 7, 8)):
        data = [(torch.zeros(shape), conditions(1, 0))]
        with pytest.raises(ValueError, match=r"latents must have shape \[B, C, F, H, W\], even sides"):
            train(transformer, Adapter.create(transformer), batches=data, steps=1)
