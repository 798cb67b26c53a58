"""patch_embed with a factor on its cells: multiplied in float32 and rounded once, to the bits of a multiplication before it."""

import op_cases
import pytest
import torch
from op_cases import GRIDS, TOLERANCE, embed_arguments

import ddit_ext
from ddit_ext import reference

LOWER = (torch.bfloat16, torch.float16)


def pairs(impl):
    """Dtypes of cells and of the weight."""
    return [(dtype, dtype) for dtype in impl.dtypes] + [(torch.float32, dtype) for dtype in LOWER]


def scaled_arguments(grid=GRIDS[1], scale=2, *, shape=None, dtypes=(torch.float32, torch.float32), **more):
    """`shape` of the factors; None: one for each channel of each sample."""
    arguments = embed_arguments(grid, scale, dtype=dtypes[1], **more)
    cells = arguments["cells"].to(dtypes[0])
    if dtypes[0] != dtypes[1]:  # with the digits that a lower dtype does not have
        cells = cells + 1e-4 * torch.randn(cells.shape).to(cells.device)
    shape = (cells.shape[0], cells.shape[4]) if shape is None else shape
    factors = (torch.rand(shape) * 3 + 0.1).to(cells.device)
    return {**arguments, "cells": cells, "input_scale": factors}


def multiplied_before(arguments):
    """The same by two ops: multiplied and rounded, then gathered."""
    given = dict(arguments)
    factors = given.pop("input_scale")[:, None, None, None, :, None, None]
    return {**given, "cells": (given["cells"] * factors).to(given["weight"].dtype)}


def assert_as_before(impl, arguments):
    tokens = impl.ops.patch_embed(*arguments.values())
    assert tokens.dtype == arguments["weight"].dtype
    assert torch.equal(tokens, impl.ops.patch_embed(*multiplied_before(arguments).values()))
    torch.testing.assert_close(tokens, reference.patch_embed(**arguments), **TOLERANCE[tokens.dtype])


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_grids_and_scales(impl, grid, scale):
    for dtypes in pairs(impl):
        assert_as_before(impl, scaled_arguments(grid, scale, dtypes=dtypes, device=impl.device))


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 4), (3, 4)], ids=str)
@pytest.mark.parametrize("scale, p", [(1, 1), (1, 2), (2, 1), (2, 2), (1, 4)])
def test_whose_factors_they_are(impl, shape, scale, p):
    """Packed cells hold channels side by side: a unit that is moved at once must not be of two."""
    for dtypes in pairs(impl):
        arguments = scaled_arguments(
            (3, 2, 8, 4), scale, shape=shape, channels=4, p=p, dtypes=dtypes, device=impl.device
        )
        assert_as_before(impl, arguments)


# rows and columns in cells, p, the width in memory of a pixel row: units of 16, 8, 4 and 2 bytes, whole and cut.
@pytest.mark.parametrize(
    "h, w, p, memory_width",
    [(6, 8, 2, 16), (5, 7, 2, 16), (3, 3, 4, 16), (3, 3, 4, 12), (5, 5, 2, 10), (5, 5, 1, 5), (3, 3, 3, 9)],
)
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_latents(impl, h, w, p, memory_width, scale):
    for dtypes in pairs(impl):
        memory = torch.randn(2, 3, 2, h * p, memory_width).to(impl.device, dtypes[0])
        cells = ddit_ext.cells.from_latents(memory[..., : w * p], p=p)
        arguments = scaled_arguments(
            (2, 1, 1, 1), scale, p=p, width=8, rank=2, dtypes=dtypes, device=impl.device
        )
        assert_as_before(impl, {**arguments, "cells": cells})


@pytest.mark.parametrize("grid, scale", [((2, 1, 38, 29), 4), ((2, 2, 36, 28), 2)])
def test_many_blocks(impl, grid, scale):
    for dtypes in pairs(impl):
        arguments = scaled_arguments(grid, scale, channels=9, width=20, dtypes=dtypes, device=impl.device)
        assert_as_before(impl, arguments)


@pytest.mark.parametrize(
    "dtypes", [*((dtype, dtype) for dtype in LOWER), *((torch.float32, d) for d in LOWER)]
)
def test_every_number_is_rounded_as_torch_does(impl, dtypes):
    """All numbers of 16 bits; of float32, around each of the target's: the middles between two, and beside them."""
    low = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtypes[1])
    if dtypes[0] == torch.float32:
        step = {torch.bfloat16: 1 << 15, torch.float16: 1 << 12}[dtypes[1]]  # half of one
        bits = low.float().view(torch.int32)
        low = torch.stack([bits + step + beside for beside in (-1, 0, 1)]).view(torch.float32)
    cells = low.to(impl.device).view(1, 1, -1, 256, 1, 1, 1)
    one = torch.ones(1, 1, 1, 1, dtype=dtypes[1], device=impl.device)
    for factor in (1.0, 0.7, 1e-3, 300.0):
        factors = torch.full((1, 1), factor, device=impl.device)
        tokens = impl.ops.patch_embed(cells, one, None, None, None, 1.0, 1, factors)
        # Times one: the product of bfloat16 takes subnormal numbers for 0 (test_cpu_numbers.cpp has these).
        wanted = impl.ops.patch_embed((cells.float() * factors).to(dtypes[1]), one, None, None, None, 1.0, 1)
        torch.testing.assert_close(tokens, wanted, rtol=0, atol=0, equal_nan=True)
        assert tokens.isfinite().sum() > 40_000


def test_factors_of_any_strides(impl):
    arguments = scaled_arguments((3, 1, 5, 4), channels=4, device=impl.device)
    assert_as_before(impl, {**arguments, "input_scale": op_cases.non_contiguous(arguments["input_scale"])})
    assert_as_before(impl, {**arguments, "input_scale": arguments["input_scale"][:1].expand(3, 4)})


def test_empty_batch(impl):
    arguments = scaled_arguments((0, 2, 7, 5), dtypes=(torch.float32, torch.bfloat16), device=impl.device)
    tokens = impl.ops.patch_embed(*arguments.values())
    assert tokens.shape == (0, 2 * 4 * 3, op_cases.WIDTH) and tokens.dtype == torch.bfloat16


BAD = {
    "rank": ({"input_scale": torch.ones(1)}, r"input_scale must have shape \[B or 1, C or 1\] .*, got \[1\]"),
    "samples": (
        {"input_scale": torch.ones(3, 1)},
        r"patch_embed: input_scale must have shape \[B or 1, C or 1\] with B = 2 and C = 3, got \[3, 1\]",
    ),
    "channels": ({"input_scale": torch.ones(2, 2)}, r"input_scale must have shape .* got \[2, 2\]"),
    "dtype": (
        {"input_scale": torch.ones(1, 1).double()},
        "patch_embed: input_scale must be float32, got float64",
    ),
    "weight": (
        {"weight": torch.zeros(20, 3, 4, 4).double()},
        "patch_embed: weight must be float32, bfloat16 or float16 with cells of float32, got float64",
    ),
    "cells": (
        {"cells": torch.zeros(2, 1, 8, 8, 3, 2, 2).bfloat16()},
        "patch_embed: weight must have the dtype of cells, bfloat16, got float32",
    ),
    "bias": (
        {"weight": torch.zeros(20, 3, 4, 4).bfloat16()},
        "patch_embed: bias must have the dtype of weight, bfloat16, got float32",
    ),
}


@pytest.mark.parametrize("changed, message", BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_named(impl, changed, message):
    arguments = {**scaled_arguments(GRIDS[0], shape=(1, 1)), **changed}
    arguments = {k: v.to(impl.device) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    with pytest.raises(RuntimeError, match=message):
        impl.ops.patch_embed(*arguments.values())


def test_another_device_is_named():
    arguments = scaled_arguments(shape=(1, 1))
    with pytest.raises(RuntimeError, match="patch_embed: input_scale must be on the device of cells"):
        ddit_ext.ops.patch_embed(**{**arguments, "input_scale": torch.ones(1, 1, device="meta")})


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("grid", [(2, 1, 2, 4), (1, 2, 3, 3)], ids=["whole", "ragged"])
def test_gradients(grid, lora):
    arguments = scaled_arguments(grid, 2, lora=lora)
    factors = arguments.pop("input_scale")  # float32, where finite differences are too coarse; see below
    arguments = tuple(op_cases.training_arguments(arguments).values())
    assert torch.autograd.gradcheck(lambda *a: ddit_ext.ops.patch_embed(*a, factors), arguments)


@pytest.mark.parametrize("trained", ["cells", "weight", "bias", "lora_a", "lora_b", "input_scale"])
@pytest.mark.parametrize("shape", [(2, 1), (1, 3), (2, 3)], ids=str)
def test_gradient_of_one_argument_alone(trained, shape):
    arguments = scaled_arguments((2, 1, 7, 5), 3, shape=shape)
    gradients = []
    for function in (ddit_ext.ops.patch_embed, reference.patch_embed):
        leaf = arguments[trained].detach().clone().requires_grad_()
        function(**{**arguments, trained: leaf}).square().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.bfloat16)])
def test_gradients_are_those_of_a_multiplication_before(dtypes):
    arguments = scaled_arguments((2, 1, 6, 4), dtypes=dtypes)
    gradients = []
    for before in (False, True):
        leaves = {k: v.clone().requires_grad_() if torch.is_tensor(v) else v for k, v in arguments.items()}
        tokens = ddit_ext.ops.patch_embed(**(multiplied_before(leaves) if before else leaves))
        tokens.float().square().sum().backward()
        gradients.append({k: v.grad for k, v in leaves.items() if torch.is_tensor(v)})
    for name, gradient in gradients[0].items():
        assert gradient.dtype == arguments[name].dtype
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float32), (torch.float32, torch.bfloat16)])
def test_opcheck(dtypes, train):
    arguments = scaled_arguments(dtypes=dtypes)
    if train:
        arguments = {k: v.requires_grad_() if torch.is_tensor(v) else v for k, v in arguments.items()}
    torch.library.opcheck(torch.ops.ddit_ext.patch_embed.default, tuple(arguments.values()))


def test_compile():
    arguments = scaled_arguments(dtypes=(torch.float32, torch.bfloat16))
    arguments = {k: v.requires_grad_() if torch.is_tensor(v) else v for k, v in arguments.items()}
    compiled = torch.compile(ddit_ext.ops.patch_embed, fullgraph=True, backend="aot_eager")
    tokens = compiled(**arguments)
    assert torch.equal(tokens, ddit_ext.ops.patch_embed(**arguments))
    tokens.float().sum().backward()
    assert all(v.grad is not None for v in arguments.values() if isinstance(v, torch.Tensor))


@pytest.mark.parametrize("impl", ["cpu", "cuda"], indirect=True)  # the wrapper casts, not the kernel
@pytest.mark.parametrize("compiled", [False, True])
def test_autocast_rounds_after_the_factor(impl, compiled):
    arguments = scaled_arguments(device=impl.device)
    op = impl.ops.patch_embed
    if compiled:
        op = torch.compile(op, fullgraph=True, backend="aot_eager")
    with torch.autocast(impl.device, dtype=torch.bfloat16):
        tokens = op(**arguments)
    low = {k: v.bfloat16() if torch.is_tensor(v) else v for k, v in arguments.items()}
    kept = {name: arguments[name] for name in ("cells", "input_scale")}
    assert torch.equal(tokens, impl.ops.patch_embed(**{**low, **kept}))


@pytest.mark.parametrize("impl", ["cpu", "cuda"], indirect=True)
@pytest.mark.parametrize("cells", [torch.float16, torch.bfloat16])
def test_autocast_reads_cells_of_any_low_precision(impl, cells):
    arguments = scaled_arguments(device=impl.device)
    arguments["cells"] = arguments["cells"].to(cells)
    with torch.autocast(impl.device, dtype=torch.bfloat16):
        tokens = impl.ops.patch_embed(**arguments)
        wanted = impl.ops.patch_embed(**{**arguments, "cells": arguments["cells"].float()})
    assert tokens.dtype == torch.bfloat16 and torch.equal(tokens, wanted)


def test_autocast_leaves_float64_cells_to_the_check():
    """As torch's own autocast, which casts no float64: the op says what doesn't fit."""
    arguments = scaled_arguments()
    arguments["cells"] = arguments["cells"].double()
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(RuntimeError, match="weight must have the dtype of cells"),
    ):
        ddit_ext.ops.patch_embed(**arguments)
