import op_cases
import pytest
import torch
from op_cases import GRIDS, TOLERANCE, deembed_arguments, embed_arguments

import ddit_ext
from ddit_ext import reference

RAGGED = (1, 3, 7, 5)


def call(impl, arguments):
    return impl.ops.patch_deembed(*arguments.values())


def assert_matches(impl, arguments):
    cells = call(impl, arguments)
    expected = reference.patch_deembed(**arguments)
    torch.testing.assert_close(cells, expected, **TOLERANCE[cells.dtype])
    assert cells.is_contiguous()


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_grids_and_scales(impl, grid, scale):
    for dtype in impl.dtypes:
        assert_matches(impl, deembed_arguments(grid, scale, dtype=dtype, device=impl.device))


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_bias_and_lora(impl, bias, lora):
    assert_matches(impl, deembed_arguments(RAGGED, 2, bias=bias, lora=lora, device=impl.device))


@pytest.mark.parametrize("rank", [0, 1, 64])
@pytest.mark.parametrize("grid", [(1, 1, 2, 2), (2, 1, 24, 24)], ids=["low rank", "merged"])
def test_lora_however_it_is_applied(impl, grid, rank):
    """Few tokens keep the LoRA low-rank, many merge it into the weight."""
    for dtype in impl.dtypes:
        assert_matches(impl, deembed_arguments(grid, 2, rank=rank, dtype=dtype, device=impl.device))


@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
def test_base_patch_sizes(impl, p):
    for dtype in impl.dtypes:
        assert_matches(impl, deembed_arguments(RAGGED, 2, p=p, dtype=dtype, device=impl.device))


@pytest.mark.parametrize("scale", [1, 2])
def test_strides(impl, scale):
    arguments = deembed_arguments(RAGGED, scale, device=impl.device)
    for name in ("tokens", "weight", "bias", "lora_a", "lora_b"):
        assert_matches(impl, {**arguments, name: op_cases.non_contiguous(arguments[name])})
    assert_matches(impl, {**arguments, "tokens": arguments["tokens"][:1].expand(3, -1, -1)})


def test_result_is_the_packed_layout(impl):
    """Embedding with an identity weight and de-embedding again gives back FLUX's packed tokens."""
    packed = torch.randn(2, 7 * 5, 3 * 4, device=impl.device)
    cells = ddit_ext.cells.from_packed(packed, 7, 5)
    for scale in (1, 2, 3):
        side = 2 * scale
        identity = torch.eye(3 * side * side, device=impl.device)
        tokens = impl.ops.patch_embed(
            cells, identity.reshape(-1, 3, side, side), None, None, None, 1.0, scale
        )
        back = impl.ops.patch_deembed(
            tokens, identity.reshape(3, side, side, -1), None, None, None, 1.0, scale, [1, 7, 5]
        )
        torch.testing.assert_close(back.view(2, 7 * 5, 3 * 4), packed)


def test_threads_agree():
    arguments = deembed_arguments((2, 2, 33, 31), 2)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 4):
            torch.set_num_threads(threads)
            results.append(ddit_ext.ops.patch_deembed(**arguments))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*results)


def test_empty_batch(impl):
    arguments = deembed_arguments((0, 2, 7, 5), 2, device=impl.device)
    assert call(impl, arguments).shape == (0, 2, 7, 5, op_cases.CHANNELS, 2, 2)


def test_nan_stays_where_it_is(impl):
    arguments = deembed_arguments((2, 1, 4, 4), 2, device=impl.device)
    arguments["tokens"][1, 3, 0] = float("nan")
    cells = call(impl, arguments)
    assert cells[1, 0, 2:, 2:].isnan().all()
    cells[1, 0, 2:, 2:] = 0
    assert not cells.isnan().any()


BAD = {
    "tokens rank": (
        {"tokens": torch.zeros(2, 3)},
        r"patch_deembed: tokens must have 3 dimensions \[B, N, D\]",
    ),
    "tokens dtype": (
        {"tokens": torch.zeros(2, 16, 20, dtype=torch.int64)},
        r"patch_deembed: tokens must be float32, bfloat16, float16 or float64, got Long",
    ),
    "token count": (
        {"tokens": torch.zeros(2, 15, 20)},
        r"tokens must have F\*ceil\(h/s\)\*ceil\(w/s\) = 16 tokens for grid \[1, 8, 8\] and scale 2, "
        r"got shape \[2, 15, 20\]",
    ),
    "scale": ({"scale": -1}, r"patch_deembed: scale must be at least 1, got -1"),
    "grid length": ({"grid": [8, 8]}, r"patch_deembed: grid must be \[F, h, w\], got \[8, 8\]"),
    "grid size": ({"grid": [1, 0, 8]}, r"grid must be \[F, h, w\] of 1 to 1048576, got \[1, 0, 8\]"),
    "huge grid": ({"grid": [2**62, 8, 8]}, r"grid must be \[F, h, w\] of 1 to 1048576, got"),
    "huge scale": ({"scale": 2**62}, r"weight must have shape .* with s = scale = 4611686018427387904, got"),
    "grid for other tokens": ({"grid": [1, 8, 9]}, r"tokens must have .* = 20 tokens for grid \[1, 8, 9\]"),
    "weight rank": ({"weight": torch.zeros(48, 20)}, r"patch_deembed: weight must have 4 dimensions"),
    "weight not square": (
        {"weight": torch.zeros(3, 4, 2, 20)},
        r"weight must have shape \[C, s\*p, s\*p, D\] with s = scale = 2, got \[3, 4, 2, 20\]",
    ),
    "weight for another scale": (
        {"scale": 3, "tokens": torch.zeros(2, 9, 20)},
        r"weight must have shape \[C, s\*p, s\*p, D\] with s = scale = 3, got \[3, 4, 4, 20\]",
    ),
    "weight width": (
        {"weight": torch.zeros(3, 4, 4, 21)},
        r"weight must have shape \[C, s\*p, s\*p, D\] = \[3, 4, 4, 20\], got \[3, 4, 4, 21\]",
    ),
    "weight dtype": ({"weight": torch.zeros(3, 4, 4, 20).half()}, r"weight must have the dtype of tokens"),
    "bias": ({"bias": torch.zeros(48)}, r"bias must have shape \[C, s\*p, s\*p\] = \[3, 4, 4\], got \[48\]"),
    "lora_a alone": ({"lora_b": None}, r"lora_a and lora_b must be given together, got only lora_a"),
    "lora_b alone": ({"lora_a": None}, r"lora_a and lora_b must be given together, got only lora_b"),
    "lora_a shape": (
        {"lora_a": torch.zeros(4, 19)},
        r"lora_a must have shape \[r, D\] = \[4, 20\], got \[4, 19\]",
    ),
    "lora_b shape": (
        {"lora_b": torch.zeros(3, 4, 4, 5)},
        r"lora_b must have shape \[C, s\*p, s\*p, r\] = \[3, 4, 4, 4\], got \[3, 4, 4, 5\]",
    ),
}


@pytest.mark.parametrize("changed, message", BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_named(impl, changed, message):
    arguments = {**deembed_arguments(device=impl.device), **changed}
    arguments = {k: v.to(impl.device) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    with pytest.raises(RuntimeError, match=message):
        call(impl, arguments)


@pytest.mark.parametrize("changed", [changed for changed, _ in BAD.values()], ids=BAD.keys())
def test_meta_tensors_are_refused_as_well(changed):
    with pytest.raises(RuntimeError, match=r"^patch_deembed: \w+ (and \w+ )?must "):
        ddit_ext.ops.patch_deembed(**op_cases.on_meta({**deembed_arguments(), **changed}))


@pytest.mark.parametrize("name", ["weight", "bias", "lora_a", "lora_b"])
def test_one_tensor_on_another_device(name):
    arguments = deembed_arguments()
    arguments[name] = arguments[name].to("meta")
    with pytest.raises(
        RuntimeError, match=f"patch_deembed: {name} must be on the device of tokens, cpu, got meta"
    ):
        ddit_ext.ops.patch_deembed(**arguments)


def test_grid_is_required():
    arguments = {**deembed_arguments(), "grid": None}
    with pytest.raises(TypeError, match=r"patch_deembed: grid must be given as \[F, h, w\]"):
        ddit_ext.ops.patch_deembed(**arguments)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("grid", [(2, 1, 2, 4), (1, 2, 3, 3)], ids=["whole", "ragged"])
def test_gradients(grid, lora):
    arguments = op_cases.training_arguments(deembed_arguments(grid, 2, lora=lora))
    assert torch.autograd.gradcheck(ddit_ext.ops.patch_deembed, tuple(arguments.values()))


@pytest.mark.parametrize("trained", ["tokens", "weight", "bias", "lora_a", "lora_b"])
def test_gradient_of_one_argument_alone(trained):
    arguments = deembed_arguments(RAGGED, 3)
    gradients = []
    for function in (ddit_ext.ops.patch_deembed, reference.patch_deembed):
        leaf = arguments[trained].detach().clone().requires_grad_()
        function(**{**arguments, trained: leaf}).square().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_opcheck(lora, train):
    arguments = deembed_arguments(RAGGED, 2, lora=lora)
    if train:
        arguments = op_cases.training_arguments(arguments)
    torch.library.opcheck(torch.ops.ddit_ext.patch_deembed.default, tuple(arguments.values()))


def test_compile():
    arguments = op_cases.training_arguments(deembed_arguments(RAGGED, 2))
    compiled = torch.compile(ddit_ext.ops.patch_deembed, fullgraph=True, backend="aot_eager")
    cells = compiled(**arguments)
    torch.testing.assert_close(cells, reference.patch_deembed(**arguments))
    cells.sum().backward()
    assert all(v.grad is not None for v in arguments.values() if isinstance(v, torch.Tensor))


class ThereAndBack(torch.nn.Module):
    """Cells through both ops, with the grid that they have."""

    def __init__(self):
        super().__init__()
        self.embed, self.deembed = embed_arguments(scale=2), deembed_arguments(scale=2)

    def forward(self, cells):
        tokens = ddit_ext.ops.patch_embed(**{**self.embed, "cells": cells})
        return ddit_ext.ops.patch_deembed(
            **{**self.deembed, "tokens": tokens, "grid": list(cells.shape[1:4])}
        )


def cells_of(h, w):
    return torch.randn(1, 2, h, w, op_cases.CHANNELS, 2, 2)


def test_one_graph_serves_every_size():
    model = ThereAndBack()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for cells in (cells_of(h, w) for h in (5, 8, 12) for w in (6, 9, 13, 15)):
            torch.testing.assert_close(compiled(cells), model(cells))


def test_exports_with_free_sizes():
    model, other = ThereAndBack(), cells_of(7, 12)
    sizes = {2: torch.export.Dim("h", min=2, max=64), 3: torch.export.Dim("w", min=2, max=64)}
    exported = torch.export.export(model, (cells_of(6, 9),), dynamic_shapes=(sizes,))
    torch.testing.assert_close(exported.module()(other), model(other))


@pytest.mark.parametrize("impl", ["cpu", "cuda"], indirect=True)  # the wrapper casts, not the kernel
@pytest.mark.parametrize("compiled", [False, True])
def test_autocast(impl, compiled):
    arguments = deembed_arguments(RAGGED, 2, device=impl.device)
    arguments["weight"].requires_grad_()
    op = impl.ops.patch_deembed
    if compiled:
        op = torch.compile(op, fullgraph=True, backend="aot_eager")
    with torch.autocast(impl.device, dtype=torch.bfloat16):
        cells = op(**{**arguments, "tokens": arguments["tokens"].bfloat16()})
    assert cells.dtype == torch.bfloat16
    expected = reference.patch_deembed(**arguments)
    torch.testing.assert_close(cells.float(), expected, **TOLERANCE[torch.bfloat16])
    cells.sum().backward()
    assert arguments["weight"].grad.dtype == torch.float32
