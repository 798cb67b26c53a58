"""Against the reference in float64, from the very values that the op is given."""

import math

import op_cases
import pytest
import torch

import ddit_ext
from ddit_ext import cells, reference

SHAPES = {  # B, F, h, w, C, p, p
    "even": (1, 1, 8, 8, 16, 2, 2),
    "ragged": (2, 3, 7, 9, 16, 2, 2),
    "odd channels": (2, 1, 5, 6, 19, 2, 2),
    "one channel": (1, 2, 6, 5, 1, 2, 2),
    "p = 1": (3, 2, 6, 5, 4, 1, 1),
    "p = 3": (1, 2, 5, 7, 4, 3, 3),
    "one cell": (2, 1, 1, 1, 3, 2, 2),
}
RAGGED = SHAPES["ragged"]
LAYOUTS = {  # how the axes of the cells lie in memory, slowest first
    "packed": (0, 1, 2, 3, 4, 5, 6),
    "planar": (0, 4, 1, 2, 5, 3, 6),
    "channels last": (0, 1, 2, 5, 3, 6, 4),
    "shuffled": (6, 4, 0, 3, 1, 5, 2),
}


def steps(shape=RAGGED, layout="packed", dtype=torch.float32, device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)
    order = LAYOUTS[layout]
    back = [order.index(axis) for axis in range(7)]
    dense = [shape[axis] for axis in order]
    return [
        torch.randn(dense, generator=generator, dtype=torch.float64).to(device, dtype).permute(back)
        for _ in range(4)
    ]


def assert_matches(impl, latents, scales, quantile=0.4, rtol=1e-5):
    got = impl.ops.acceleration_quantiles(*latents, scales, quantile)
    expected = reference.acceleration_quantiles(*(z.double() for z in latents), scales, quantile)
    assert got.dtype == torch.float32 and got.is_contiguous()
    torch.testing.assert_close(got, expected, rtol=rtol, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_shapes_layouts_dtypes(impl, shape, layout):
    for dtype in impl.dtypes:
        assert_matches(impl, steps(shape, layout, dtype, impl.device), [1, 2, 4])


@pytest.mark.parametrize(
    "scales", [[1], [4, 2, 1], [2, 2], [3], [2, 3, 6], [4, 6], [5, 7, 10], [1000, 3]], ids=str
)
def test_scales(impl, scales):
    for layout in ("packed", "planar"):
        assert_matches(impl, steps((1, 2, 11, 13, 5, 2, 2), layout, device=impl.device), scales)


@pytest.mark.parametrize("quantile", [0.0, 0.2, 0.37, 0.5, 0.999, 1.0])
def test_quantile(impl, quantile):
    assert_matches(impl, steps(device=impl.device), [1, 2, 4], quantile)


def test_latents_of_different_layouts(impl):
    mixed = [steps(layout=layout, device=impl.device)[k] for k, layout in enumerate(LAYOUTS)]
    assert_matches(impl, mixed, [1, 2, 4])


def test_views_of_real_layouts(impl):
    tokens = [torch.randn(2, 6 * 5, 16 * 4, device=impl.device) for _ in range(4)]
    assert_matches(impl, [cells.from_packed(z, 6, 5) for z in tokens], [1, 2, 4])
    videos = [torch.randn(2, 16, 3, 12, 10, device=impl.device) for _ in range(4)]
    assert_matches(impl, [cells.from_latents(z) for z in videos], [1, 2, 4])
    cropped = [z[:, :, 1:, 2:, :-2] for z in videos]
    assert_matches(impl, [cells.from_latents(z) for z in cropped], [1, 2, 4])
    assert_matches(impl, [cells.from_latents(z)[:1].expand(3, *[-1] * 6) for z in videos], [1, 2, 4])


def test_samples_do_not_mix(impl):
    latents = steps((3, 2, 6, 6, 4, 2, 2), device=impl.device)
    together = impl.ops.acceleration_quantiles(*latents, [1, 2], 0.4)
    for i in range(3):
        alone = impl.ops.acceleration_quantiles(*(z[i : i + 1] for z in latents), [1, 2], 0.4)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=0)


@pytest.mark.parametrize("layout", ["packed", "planar", "shuffled"])
def test_a_large_mean_does_not_drown_the_deviation(impl, layout):
    z0, *older = steps((1, 1, 8, 9, 16, 2, 2), layout, device=impl.device)
    z0.mul_(1e-2).add_(1e4)
    assert_matches(impl, [z0, *(z.zero_() for z in older)], [1, 2, 4])


def test_close_latents(impl):
    """The usual case: third differences far below the latents. (z0 - z3) + 3 (z2 - z1) keeps them; rounding
    3 z1 and 3 z2 apart is ten times off.
    """
    start, drift, _, _ = steps(device=impl.device)
    noise = steps(device=impl.device, seed=1)
    assert_matches(impl, [start + 0.1 * k * drift + 1e-5 * noise[k] for k in range(4)], [1, 2, 4], rtol=5e-5)


def test_a_plane_through_the_steps_has_no_acceleration(impl):
    start, drift, bend, _ = (z.mul(64).round() for z in steps(device=impl.device))
    parabola = [start + k * drift + k * k * bend for k in range(4)]
    assert impl.ops.acceleration_quantiles(*parabola, [1, 2, 4], 1.0).eq(0).all()


@pytest.mark.parametrize(
    "at", [(1, 0, 0, 0, 0, 0, 0), (1, 2, 6, 8, 15, 1, 1), (1, 1, 3, 4, 5, 0, 1)], ids=str
)
def test_nan_stays_in_its_sample(impl, at):
    for dtype in impl.dtypes:
        for value in (math.nan, math.inf):
            latents = steps(dtype=dtype, device=impl.device)
            latents[2][at] = value
            got = impl.ops.acceleration_quantiles(*latents, [1, 2, 4], 0.4)
            assert got[1].isnan().all() and got[0].isfinite().all()


def test_empty_batch(impl):
    latents = [torch.empty(0, 2, 4, 4, 3, 2, 2, device=impl.device)] * 4
    assert impl.ops.acceleration_quantiles(*latents, [1, 2], 0.4).shape == (0, 2)


def test_inputs_are_left_alone(impl):
    latents = steps(device=impl.device)
    before = [z.clone() for z in latents]
    impl.ops.acceleration_quantiles(*latents, [1, 2, 4], 0.4)
    assert all(torch.equal(z, copy) for z, copy in zip(latents, before, strict=True))


GOOD = torch.zeros(1, 1, 2, 2, 3, 2, 2)
BAD = {
    "z0 rank": ({"z0": torch.zeros(2, 3)}, r"z0 must have 7 dimensions .* got shape \[2, 3\]"),
    "z0 not square": (
        {"z0": torch.zeros(1, 1, 2, 2, 3, 2, 1)},
        r"z0 must have square patches .* got \[1, 1, 2, 2, 3, 2, 1\]",
    ),
    "no frame": (
        {"z0": torch.zeros(1, 0, 2, 2, 3, 2, 2)},
        r"z0 must not be empty .* got \[1, 0, 2, 2, 3, 2, 2\]",
    ),
    "no row": (
        {"z0": torch.zeros(1, 1, 0, 2, 3, 2, 2)},
        r"z0 must not be empty .* got \[1, 1, 0, 2, 3, 2, 2\]",
    ),
    "no pixel": (
        {"z0": torch.zeros(1, 1, 2, 2, 3, 0, 0)},
        r"z0 must not be empty .* got \[1, 1, 2, 2, 3, 0, 0\]",
    ),
    "z0 dtype": ({"z0": GOOD.int()}, r"z0 must be float32, bfloat16, float16 or float64, got Int"),
    "z1 shape": (
        {"z1": torch.zeros(2, 1, 2, 2, 3, 2, 2)},
        r"z1 must have shape .*z0.* \[1, 1, 2, 2, 3, 2, 2\], got \[2, 1, 2, 2, 3, 2, 2\]",
    ),
    "z2 dtype": ({"z2": GOOD.double()}, r"z2 must have the dtype of z0, float32, got float64"),
    "z3 rank": ({"z3": GOOD[0]}, r"z3 must have shape .* got \[1, 2, 2, 3, 2, 2\]"),
    "no scales": ({"scales": []}, r"scales must name at least one patch scale, got \[\]"),
    "scale 0": ({"scales": [1, 0]}, r"scales must be at least 1, got 0 at index 1"),
    "scale below 0": ({"scales": [-2]}, r"scales must be at least 1, got -2 at index 0"),
    "quantile above 1": ({"quantile": 1.01}, r"quantile must be in \[0, 1\], got 1.01"),
    "quantile below 0": ({"quantile": -0.1}, r"quantile must be in \[0, 1\], got -0.1"),
    "quantile NaN": ({"quantile": math.nan}, r"quantile must be in \[0, 1\], got -?nan"),
}


@pytest.mark.parametrize("change, message", BAD.values(), ids=BAD)
def test_bad_arguments(impl, change, message):
    arguments = {"z0": GOOD, "z1": GOOD, "z2": GOOD, "z3": GOOD, "scales": [1, 2], "quantile": 0.4, **change}
    moved = [
        value.to(impl.device) if isinstance(value, torch.Tensor) else value for value in arguments.values()
    ]
    with pytest.raises(RuntimeError, match="acceleration_quantiles: " + message):
        impl.ops.acceleration_quantiles(*moved)


# What is empty has a result all the same.
META = sorted(BAD.keys() - {"no frame", "no row", "no pixel"})


@pytest.mark.parametrize("name", META)
def test_meta_tensors_are_refused_as_well(name):
    arguments = {"z0": GOOD, "z1": GOOD, "z2": GOOD, "z3": GOOD, "scales": [1, 2], "quantile": 0.4}
    with pytest.raises(RuntimeError, match=r"^acceleration_quantiles: \w+ must "):
        ddit_ext.ops.acceleration_quantiles(**op_cases.on_meta({**arguments, **BAD[name][0]}))


def test_one_latent_on_another_device():
    with pytest.raises(RuntimeError, match="z2 must be on the device of z0, cpu, got meta"):
        ddit_ext.ops.acceleration_quantiles(GOOD, GOOD, GOOD.to("meta"), GOOD)


def test_devices_differ(impl):
    if impl.device == "cpu":
        pytest.skip("there is only one device")
    latents = steps(device=impl.device)
    with pytest.raises(RuntimeError, match="z3 must be on the device of z0"):
        impl.ops.acceleration_quantiles(*latents[:3], latents[3].cpu(), [1], 0.4)


@pytest.mark.parametrize("layout", ["packed", "planar"])
def test_threads_agree(layout):
    latents = steps((2, 5, 33, 31, 16, 2, 2), layout)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(ddit_ext.ops.acceleration_quantiles(*latents, [1, 2, 3, 4], 0.4))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_the_result_has_no_gradient():
    trained = [z.requires_grad_() for z in steps()]
    assert not ddit_ext.ops.acceleration_quantiles(*trained).requires_grad
    torch.library.opcheck(torch.ops.ddit_ext.acceleration_quantiles.default, (*trained, [1, 2, 4], 0.4))


def test_opcheck():
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        arguments = (*steps(dtype=dtype), [1, 2, 4], 0.4)
        torch.library.opcheck(torch.ops.ddit_ext.acceleration_quantiles.default, arguments)


def test_compiles_as_one_graph():
    def scores(*latents):
        views = [cells.from_latents(z) for z in latents]
        return ddit_ext.ops.acceleration_quantiles(*views, [1, 2, 4], 0.4) * 2

    compiled = torch.compile(scores, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((2, 4, 12, 10), (1, 4, 8, 14)):
        latents = [torch.randn(size) for _ in range(4)]
        assert torch.equal(compiled(*latents), scores(*latents))
