"""Products of so few numbers that the ops make them themselves on the CPU (csrc/ops/small_linear.h)."""

import pytest
import torch
from op_cases import TOLERANCE, deembed_arguments, embed_arguments

import ddit_ext
from ddit_ext import reference

MOST = 512  # multiply-adds of a small product
MAKE = {"patch_embed": embed_arguments, "patch_deembed": deembed_arguments}
both_ops = pytest.mark.parametrize("op", MAKE)
dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def assert_matches(op, arguments):
    result = getattr(ddit_ext.ops, op)(*arguments.values())
    expected = getattr(reference, op)(**arguments)
    torch.testing.assert_close(result, expected, **TOLERANCE[result.dtype])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize(
    "grid, scale", [((1, 1, 1, 1), 1), ((2, 1, 1, 2), 1), ((1, 2, 1, 3), 2), ((1, 1, 2, 2), 3)]
)
@dtypes
@both_ops
def test_small_products(op, dtype, grid, scale, lora, bias):
    sizes = {"channels": 2, "p": 1, "width": 3, "rank": 2}
    assert_matches(op, MAKE[op](grid, scale, lora=lora, bias=bias, dtype=dtype, **sizes))


@pytest.mark.parametrize("width", [MOST // 16 - 1, MOST // 16, MOST // 16 + 1])
@pytest.mark.parametrize("scale", [1, 2])
@both_ops
def test_either_side_of_the_limit(op, scale, width):
    """16 multiply-adds a feature: 4 patches of 4 pixels at scale 1, one of 16 at scale 2."""
    arguments = MAKE[op]((1, 1, 2, 2), scale, lora=False, channels=1, width=width)
    assert_matches(op, arguments)


@pytest.mark.parametrize("rank", [1, 22, 23, 600])
@both_ops
def test_ranks_around_the_limit(op, rank):
    """One patch of 16 pixels and 4 features: 64 multiply-adds and 20 a rank, so that 22 are small."""
    assert 64 + 22 * 20 <= MOST < 64 + 23 * 20
    assert_matches(op, MAKE[op]((1, 1, 2, 2), 2, channels=1, width=4, rank=rank))


@pytest.mark.parametrize("name", ["weight", "bias", "lora_a", "lora_b"])
@both_ops
def test_weights_with_gaps_between_their_numbers(op, name):
    arguments = MAKE[op]((1, 1, 2, 2), 2, channels=1, width=4, rank=2)
    tensor = arguments[name]
    arguments[name] = torch.stack([tensor, torch.full_like(tensor, 1e3)], dim=-1)[..., 0]
    assert not arguments[name].is_contiguous()
    assert_matches(op, arguments)


@pytest.mark.parametrize("scale", [1, 2])
@both_ops
def test_inputs_with_gaps_between_their_numbers(op, scale):
    arguments = MAKE[op]((1, 1, 2, 2), scale, channels=1, width=4, rank=2)
    first = next(iter(arguments))  # cells or tokens
    arguments[first] = torch.stack([arguments[first], torch.full_like(arguments[first], 1e3)], dim=-1)[..., 0]
    assert_matches(op, arguments)
