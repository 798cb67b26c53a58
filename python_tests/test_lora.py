"""The low-rank addition around whatever module stands in the model."""

import pytest
import torch
from peft import LoraConfig
from tiny_flux import tiny_flux
from torch import nn
from torch.utils.checkpoint import checkpoint

from ddit_ext.multiscale.base_weights import feed_forward_layers
from ddit_ext.multiscale.lora import LowRank, LowRankLinear


def low_rank(fan_in=6, fan_out=5, rank=2, scale=0.5):
    module = LowRank(fan_in, fan_out, rank, scale)
    module.reset_parameters(torch.Generator().manual_seed(0))
    return module


def test_it_adds_nothing_at_the_start():
    base, x = nn.Linear(6, 5), torch.randn(3, 6)
    assert torch.equal(LowRankLinear(base, low_rank())(x), base(x))


def test_it_equals_the_merged_weight():
    base, addition, x = nn.Linear(6, 5), low_rank(), torch.randn(2, 3, 6)
    nn.init.normal_(addition.b)
    merged = base.weight + addition.scale * addition.b @ addition.a
    torch.testing.assert_close(LowRankLinear(base, addition)(x), nn.functional.linear(x, merged, base.bias))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_follows_the_models_dtype(dtype):
    base, x = nn.Linear(6, 5).to(dtype), torch.randn(3, 6, dtype=dtype)
    assert LowRankLinear(base, low_rank())(x).dtype == dtype


def test_it_follows_autocast_and_trains_in_float32():
    base, addition = nn.Linear(6, 5).requires_grad_(False), low_rank()
    with torch.autocast("cpu", torch.bfloat16):
        y = LowRankLinear(base, addition)(torch.randn(3, 6))
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert addition.b.grad.dtype == torch.float32 and addition.b.grad.abs().sum() > 0


def test_gradient_checkpointing_gives_the_same_gradients():
    x = torch.randn(3, 6)
    gradients = []
    for wrapped in (False, True):
        addition = low_rank()
        nn.init.ones_(addition.b)
        torch.manual_seed(0)
        layer = LowRankLinear(nn.Linear(6, 5), addition)
        y = checkpoint(layer, x, use_reentrant=False) if wrapped else layer(x)
        y.square().sum().backward()
        gradients.append(addition.a.grad)
    assert torch.equal(*gradients)


def test_it_answers_for_the_base_modules_attributes():
    base = nn.Linear(6, 5)
    layer = LowRankLinear(base, low_rank())
    assert layer.in_features == 6 and layer.weight is base.weight
    with pytest.raises(AttributeError, match="nonsense"):
        _ = layer.nonsense


def test_flux_targets_are_the_feed_forward_layers():
    names = {
        "transformer_blocks.0.ff.net.0.proj": (32, 128),
        "transformer_blocks.0.ff.net.2": (128, 32),
        "transformer_blocks.0.ff_context.net.0.proj": (32, 128),
        "transformer_blocks.0.ff_context.net.2": (128, 32),
        "single_transformer_blocks.0.proj_mlp": (32, 128),
        "single_transformer_blocks.0.proj_out": (160, 32),
    }
    transformer = tiny_flux()
    assert feed_forward_layers(transformer) == names
    transformer.add_adapter(LoraConfig(r=2, target_modules=["ff.net.2", "proj_mlp"]))
    assert feed_forward_layers(transformer) == names


def test_rank_must_be_positive():
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        LowRank(6, 5, 0)
