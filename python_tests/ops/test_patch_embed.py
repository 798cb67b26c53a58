import op_cases
import pytest
import torch
from op_cases import GRIDS, TOLERANCE, embed_arguments

import ddit_ext
from ddit_ext import reference

RAGGED = (1, 3, 7, 5)


def call(impl, arguments):
    return impl.ops.patch_embed(*arguments.values())


def assert_matches(impl, arguments):
    tokens = call(impl, arguments)
    expected = reference.patch_embed(**arguments)
    torch.testing.assert_close(tokens, expected, **TOLERANCE[tokens.dtype])
    assert tokens.is_contiguous()


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_grids_and_scales(impl, grid, scale):
    for dtype in impl.dtypes:
        assert_matches(impl, embed_arguments(grid, scale, dtype=dtype, device=impl.device))


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_bias_and_lora(impl, bias, lora):
    assert_matches(impl, embed_arguments(RAGGED, 2, bias=bias, lora=lora, device=impl.device))


@pytest.mark.parametrize("rank", [0, 1, 64])
@pytest.mark.parametrize("grid", [(1, 1, 2, 2), (2, 1, 24, 24)], ids=["low rank", "merged"])
def test_lora_however_it_is_applied(impl, grid, rank):
    """Few tokens keep the LoRA low-rank, many merge it into the weight."""
    for dtype in impl.dtypes:
        assert_matches(impl, embed_arguments(grid, 2, rank=rank, dtype=dtype, device=impl.device))


@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
def test_base_patch_sizes(impl, p):
    for dtype in impl.dtypes:
        assert_matches(impl, embed_arguments(RAGGED, 2, p=p, dtype=dtype, device=impl.device))


@pytest.mark.parametrize("scale", [1, 2])
def test_strides(impl, scale):
    arguments = embed_arguments(RAGGED, scale, device=impl.device)
    for name in ("cells", "weight", "bias", "lora_a", "lora_b"):
        assert_matches(impl, {**arguments, name: op_cases.non_contiguous(arguments[name])})
    assert_matches(impl, {**arguments, "cells": arguments["cells"][:1].expand(3, *[-1] * 6)})


def test_views_of_real_layouts(impl):
    arguments = embed_arguments(scale=2, device=impl.device)
    packed = torch.randn(2, 6 * 5, op_cases.CHANNELS * 4, device=impl.device)
    latents = torch.randn(2, op_cases.CHANNELS, 3, 12, 10, device=impl.device)
    assert_matches(impl, {**arguments, "cells": ddit_ext.cells.from_packed(packed, 6, 5)})
    assert_matches(impl, {**arguments, "cells": ddit_ext.cells.from_latents(latents)})


def test_pixel_order(impl):
    """Token 1 of a 2 x 4 grid at scale 2 reads columns 2 and 3: channel, pixel row, pixel column."""
    latents = torch.arange(1 * 2 * 4 * 8, dtype=torch.float32, device=impl.device).reshape(1, 2, 4, 8)
    identity = torch.eye(2 * 4 * 4, device=impl.device).reshape(32, 2, 4, 4)
    tokens = impl.ops.patch_embed(ddit_ext.cells.from_latents(latents), identity, None, None, None, 1.0, 2)
    torch.testing.assert_close(tokens[0, 1], latents[0, :, :, 4:].flatten())


def test_ragged_edge_repeats_the_last_pixels(impl):
    latents = torch.randn(1, 1, 6, 6, device=impl.device)
    identity = torch.eye(16, device=impl.device).reshape(16, 1, 4, 4)
    tokens = impl.ops.patch_embed(ddit_ext.cells.from_latents(latents), identity, None, None, None, 1.0, 2)
    rows = torch.tensor([4, 5, 5, 5], device=impl.device)
    torch.testing.assert_close(tokens[0, 3], latents[0, 0][rows][:, rows].flatten())


def test_threads_agree():
    arguments = embed_arguments((2, 2, 33, 31), 2)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 4):
            torch.set_num_threads(threads)
            results.append(ddit_ext.ops.patch_embed(**arguments))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*results)


def test_empty_batch(impl):
    arguments = embed_arguments((0, 2, 7, 5), 2, device=impl.device)
    assert call(impl, arguments).shape == (0, 2 * 4 * 3, op_cases.WIDTH)


def test_nan_stays_where_it_is(impl):
    arguments = embed_arguments((2, 1, 4, 4), 2, device=impl.device)
    arguments["cells"][1, 0, 0, 3, 0, 0, 0] = float("nan")
    tokens = call(impl, arguments)
    assert tokens[1, 1].isnan().all()
    tokens[1, 1] = 0
    assert not tokens.isnan().any()


BAD = {
    "cells rank": (
        {"cells": torch.zeros(2, 3)},
        r"patch_embed: cells must have 7 dimensions .* got shape \[2, 3\]",
    ),
    "cells not square": (
        {"cells": torch.zeros(1, 1, 2, 2, 3, 2, 1)},
        r"patch_embed: cells must have square patches .* got \[1, 1, 2, 2, 3, 2, 1\]",
    ),
    "cells empty": (
        {"cells": torch.zeros(1, 1, 0, 2, 3, 2, 2)},
        r"patch_embed: cells must not be empty but for its batch, got \[1, 1, 0",
    ),
    "cells dtype": (
        {"cells": torch.zeros(1, 1, 2, 2, 3, 2, 2, dtype=torch.int32)},
        r"patch_embed: cells must be float32, bfloat16, float16 or float64, got Int",
    ),
    "huge scale": ({"scale": 2**62}, r"weight must have shape .* with s = scale = 4611686018427387904, got"),
    "scale": ({"scale": 0}, r"patch_embed: scale must be at least 1, got 0"),
    "weight rank": ({"weight": torch.zeros(20, 48)}, r"patch_embed: weight must have 4 dimensions"),
    "weight for another scale": (
        {"scale": 4},
        r"patch_embed: weight must have shape \[D, C, s\*p, s\*p\] = \[20, 3, 8, 8\], got \[20, 3, 4, 4\]",
    ),
    "weight dtype": (
        {"weight": torch.zeros(20, 3, 4, 4, dtype=torch.bfloat16)},
        r"patch_embed: weight must have the dtype of cells, float32, got bfloat16",
    ),
    "bias": ({"bias": torch.zeros(19)}, r"patch_embed: bias must have shape \[D\] = \[20\], got \[19\]"),
    "bias dtype": (
        {"bias": torch.zeros(20).double()},
        r"bias must have the dtype of weight, float32, got float64",
    ),
    "lora_a alone": ({"lora_b": None}, r"lora_a and lora_b must be given together, got only lora_a"),
    "lora_b alone": ({"lora_a": None}, r"lora_a and lora_b must be given together, got only lora_b"),
    "lora_a shape": (
        {"lora_a": torch.zeros(4, 3, 4, 2)},
        r"lora_a must have shape \[r, C, s\*p, s\*p\] = \[4, 3, 4, 4\], got \[4, 3, 4, 2\]",
    ),
    "lora_b shape": (
        {"lora_b": torch.zeros(20, 5)},
        r"lora_b must have shape \[D, r\] = \[20, 4\], got \[20, 5\]",
    ),
}


@pytest.mark.parametrize("changed, message", BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_named(impl, changed, message):
    arguments = {**embed_arguments(device=impl.device), **changed}
    arguments = {k: v.to(impl.device) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    with pytest.raises(RuntimeError, match=message):
        call(impl, arguments)


@pytest.mark.parametrize("name", sorted(BAD.keys() - {"cells empty"}))
def test_meta_tensors_are_refused_as_well(name):
    with pytest.raises(RuntimeError, match=r"^patch_embed: \w+ (and \w+ )?must "):
        ddit_ext.ops.patch_embed(**op_cases.on_meta({**embed_arguments(), **BAD[name][0]}))


@pytest.mark.parametrize("name", ["cells", "weight", "bias", "lora_a", "lora_b"])
def test_one_tensor_on_another_device(name):
    arguments = embed_arguments()
    arguments[name] = arguments[name].to("meta")
    with pytest.raises(RuntimeError, match="patch_embed: .* must be on the device of cells, .*meta"):
        ddit_ext.ops.patch_embed(**arguments)


def test_without_a_kernel_for_the_device():
    assert ddit_ext.ops.patch_embed(**op_cases.on_meta(embed_arguments())).shape == (2, 16, op_cases.WIDTH)
    with pytest.raises(NotImplementedError, match="ddit_ext::patch_embed.*SparseCPU"):
        ddit_ext.ops.patch_embed(
            *(v.to_sparse() if k == "cells" else v for k, v in embed_arguments().items())
        )


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("grid", [(2, 1, 2, 4), (1, 2, 3, 3)], ids=["whole", "ragged"])
def test_gradients(grid, lora):
    arguments = op_cases.training_arguments(embed_arguments(grid, 2, lora=lora))
    assert torch.autograd.gradcheck(ddit_ext.ops.patch_embed, tuple(arguments.values()))


@pytest.mark.parametrize("trained", ["cells", "weight", "bias", "lora_a", "lora_b"])
def test_gradient_of_one_argument_alone(trained):
    arguments = embed_arguments(RAGGED, 3)
    gradients = []
    for function in (ddit_ext.ops.patch_embed, reference.patch_embed):
        leaf = arguments[trained].detach().clone().requires_grad_()
        function(**{**arguments, trained: leaf}).square().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_opcheck(lora, train):
    arguments = embed_arguments(RAGGED, 2, lora=lora)
    if train:
        arguments = op_cases.training_arguments(arguments)
    torch.library.opcheck(torch.ops.ddit_ext.patch_embed.default, tuple(arguments.values()))


def test_compile():
    arguments = op_cases.training_arguments(embed_arguments(RAGGED, 2))
    compiled = torch.compile(ddit_ext.ops.patch_embed, fullgraph=True, backend="aot_eager")
    tokens = compiled(**arguments)
    torch.testing.assert_close(tokens, reference.patch_embed(**arguments))
    tokens.sum().backward()
    assert all(v.grad is not None for v in arguments.values() if isinstance(v, torch.Tensor))


@pytest.mark.parametrize("impl", ["cpu", "cuda"], indirect=True)  # the wrapper casts, not the kernel
@pytest.mark.parametrize("compiled", [False, True])
def test_autocast(impl, compiled):
    arguments = embed_arguments(RAGGED, 2, device=impl.device)
    arguments["weight"].requires_grad_()
    op = impl.ops.patch_embed
    if compiled:
        op = torch.compile(op, fullgraph=True, backend="aot_eager")
    with torch.autocast(impl.device, dtype=torch.bfloat16):
        tokens = op(**{**arguments, "cells": arguments["cells"].bfloat16()})
    assert tokens.dtype == torch.bfloat16
    torch.testing.assert_close(
        tokens.float(), reference.patch_embed(**arguments), **TOLERANCE[torch.bfloat16]
    )
    tokens.sum().backward()
    assert arguments["weight"].grad.dtype == torch.float32
