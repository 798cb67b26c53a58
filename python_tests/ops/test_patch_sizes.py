"""What gathering, multiplying and scattering can get wrong: sizes beyond a block, ranks, alignments, strides."""

import pytest
import torch
from op_cases import TOLERANCE, deembed_arguments, embed_arguments

import ddit_ext
from ddit_ext import reference

MAKE = {"patch_embed": embed_arguments, "patch_deembed": deembed_arguments}
both_ops = pytest.mark.parametrize("op", MAKE)


def assert_matches(impl, op, arguments):
    result = getattr(impl.ops, op)(*arguments.values())
    expected = getattr(reference, op)(**arguments)
    torch.testing.assert_close(result, expected, **TOLERANCE[result.dtype])
    return result


def unaligned(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, contiguous, one element behind an aligned address."""
    return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)


# More patches and more units of each than a block moves, with and without patches that an edge cuts off.
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize(
    "grid, scale, channels, width",
    [
        ((2, 1, 38, 29), 4, 5, 150),
        ((2, 1, 36, 28), 4, 5, 150),
        ((1, 2, 9, 7), 2, 9, 70),
        ((1, 1, 19, 36), 4, 17, 20),
    ],
)
@both_ops
def test_many_blocks(impl, op, grid, scale, channels, width, lora):
    for dtype in impl.dtypes:
        sizes = {"channels": channels, "width": width, "rank": 40}
        assert_matches(impl, op, MAKE[op](grid, scale, lora=lora, dtype=dtype, device=impl.device, **sizes))


@pytest.mark.parametrize("lora, signs", [(False, "mixed"), (True, "positive")])
@both_ops
def test_float32_over_many_features(impl, op, lora, signs):
    """Roundings to the nearest cancel: K of them leave about sqrt(K) times half a unit in the last place. Those that
    lean to one side, as a tensor core's, add up to K times."""
    features = 3072
    shape = {"channels": 48, "width": 8} if op == "patch_embed" else {"channels": 2, "width": features}
    scale = 4 if op == "patch_embed" else 1
    arguments = MAKE[op]((1, 1, 8, 8), scale, lora=lora, rank=20, device=impl.device, **shape)
    if signs == "positive":
        arguments = {k: v.abs() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    result = getattr(impl.ops, op)(*arguments.values())
    exact = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    expected = getattr(reference, op)(**exact)
    error = (result - expected).norm() / expected.norm()
    assert error < features**0.5 * torch.finfo(torch.float32).eps / 2


@pytest.mark.parametrize("rank", [8, 32, 33, 130])
@both_ops
def test_ranks(impl, op, rank):
    for dtype in impl.dtypes:
        assert_matches(impl, op, MAKE[op]((1, 1, 5, 4), 2, rank=rank, dtype=dtype, device=impl.device))


@both_ops
def test_an_infinity_stays_one(impl, op):
    for dtype in impl.dtypes:
        arguments = MAKE[op]((1, 1, 5, 4), 2, rank=3, dtype=dtype, device=impl.device)
        arguments = {k: v.abs() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
        arguments[next(iter(arguments))].view(-1)[7] = torch.inf  # cells or tokens
        assert assert_matches(impl, op, arguments).isinf().any()


@pytest.mark.parametrize("name", ["first", "weight", "bias", "lora_a", "lora_b"])
@both_ops
def test_unaligned_memory(impl, op, name):
    for dtype in impl.dtypes:
        arguments = MAKE[op]((1, 2, 5, 4), 2, rank=8, channels=4, dtype=dtype, device=impl.device, width=24)
        name = next(iter(arguments)) if name == "first" else name
        assert_matches(impl, op, {**arguments, name: unaligned(arguments[name])})


@pytest.mark.parametrize("width", [17, 18, 20, 24])
@both_ops
def test_widths_that_allow_other_units(impl, op, width):
    for dtype in impl.dtypes:
        assert_matches(impl, op, MAKE[op]((1, 1, 4, 6), 2, width=width, dtype=dtype, device=impl.device))


# rows and columns in cells, p, the width in memory of a pixel row: units of 16, 8, 4 and 2 bytes, whole and cut.
@pytest.mark.parametrize(
    "h, w, p, memory_width",
    [(6, 8, 2, 16), (5, 7, 2, 16), (3, 3, 4, 16), (3, 3, 4, 12), (5, 5, 2, 10), (5, 5, 1, 5), (3, 3, 3, 9)],
)
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_latents(impl, h, w, p, memory_width, scale):
    for dtype in impl.dtypes:
        memory = torch.randn(2, 3, 2, h * p, memory_width).to(impl.device, dtype)
        cells = ddit_ext.cells.from_latents(memory[..., : w * p], p=p)
        arguments = embed_arguments(
            (1, 1, 1, 1), scale, p=p, width=8, rank=2, dtype=dtype, device=impl.device
        )
        assert_matches(impl, "patch_embed", {**arguments, "cells": cells})


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_packed_tokens_there_and_back(impl, scale):
    for dtype in impl.dtypes:
        packed = torch.randn(2, 3 + 6 * 5, 8 * 4).to(impl.device, dtype)[
            :, 3:
        ]  # behind others in one sequence
        cells = ddit_ext.cells.from_packed(packed, 6, 5)
        sizes = {"channels": 8, "width": 16, "rank": 3, "dtype": dtype, "device": impl.device}
        tokens = assert_matches(
            impl, "patch_embed", {**embed_arguments((1, 1, 1, 1), scale, **sizes), "cells": cells}
        )
        joint = torch.cat([tokens[:, :3], tokens], dim=1)[:, 3:]
        arguments = deembed_arguments((2, 1, 6, 5), scale, **sizes)
        assert_matches(impl, "patch_deembed", {**arguments, "tokens": joint})


def test_tokens_without_features(impl):
    """Nothing to sum up: the bias alone."""
    arguments = deembed_arguments((1, 1, 3, 2), 2, width=1, device=impl.device)
    empty = {k: arguments[k].narrow(-1, 0, 0) for k in ("tokens", "weight", "lora_a")}
    cells = assert_matches(impl, "patch_deembed", {**arguments, **empty})
    assert cells.abs().sum() > 0


def test_no_width(impl):
    arguments = embed_arguments((1, 1, 3, 2), 2, width=0, device=impl.device)
    assert impl.ops.patch_embed(*arguments.values()).shape == (1, 2, 0)


@both_ops
def test_float64_is_for_the_cpu(impl, op):
    arguments = MAKE[op](dtype=torch.float64, device=impl.device)
    if impl.name == "cpu":
        assert getattr(impl.ops, op)(*arguments.values()).dtype == torch.float64
        return
    with pytest.raises(RuntimeError, match=f"{op}: on CUDA the dtype must be .* got float64"):
        getattr(impl.ops, op)(*arguments.values())


def test_more_patches_than_the_kernel_counts(impl):
    arguments = embed_arguments((1, 1, 1, 1), 1, width=0, device=impl.device)
    cells = arguments["cells"].expand(2**30 + 1, *[-1] * 6)
    if impl.name == "cpu":
        assert impl.ops.patch_embed(*{**arguments, "cells": cells}.values()).shape == (2**30 + 1, 1, 0)
        return
    with pytest.raises(
        RuntimeError, match="patch_embed: on CUDA patches, .* at most 1073741824, got 1073741825"
    ):
        impl.ops.patch_embed(*{**arguments, "cells": cells}.values())
