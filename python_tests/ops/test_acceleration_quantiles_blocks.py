"""acceleration_quantiles where a GPU may go wrong: several blocks, their order, the selection, the workspace."""

import math
import re

import pytest
import torch
from test_acceleration_quantiles import assert_matches, steps

from ddit_ext import cells, reference

SEVERAL_BLOCKS = (2, 2, 18, 35, 3, 2, 2)


def only_the_newest(z0: torch.Tensor) -> list[torch.Tensor]:
    """Four steps whose third difference is z0."""
    return [z0, *(torch.zeros_like(z0) for _ in range(3))]


def cell_patterns(sizes: torch.Tensor, device: str) -> torch.Tensor:
    """Cells [1, 1, h, w, 1, 2, 2] of three zeros and a number each: their deviation is sqrt(3) / 4 of it."""
    place = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    return (sizes[..., None, None] * place)[None, None, :, :, None].to(device, torch.float32)


@pytest.mark.parametrize("scales", [[1, 2, 4], [4], [6, 2], [3, 8]], ids=str)
@pytest.mark.parametrize("layout", ["packed", "planar"])
def test_several_blocks(impl, layout, scales):
    assert_matches(impl, steps(SEVERAL_BLOCKS, layout, device=impl.device), scales)


@pytest.mark.parametrize("order", ["reverse", "1", "2", "3"])
def test_the_order_of_blocks_does_not_show(impl, order, monkeypatch):
    latents = steps(SEVERAL_BLOCKS, device=impl.device)
    expected = impl.ops.acceleration_quantiles(*latents, [1, 2, 4, 5], 0.4)
    monkeypatch.setenv("DDIT_EMULATION_ORDER", order)
    assert torch.equal(impl.ops.acceleration_quantiles(*latents, [1, 2, 4, 5], 0.4), expected)


def test_calls_leave_nothing_behind(impl):
    """Also where the workspace is memory that others have used."""
    small, large = steps(device=impl.device), steps(SEVERAL_BLOCKS, device=impl.device)
    first = [impl.ops.acceleration_quantiles(*latents, [1, 2, 4, 7], 0.4) for latents in (small, large)]
    for fill in (0x00, 0x01, 0x7F, 0xFF):
        for latents, expected in zip((small, large), first, strict=True):
            used = [
                torch.full((1 << size,), fill, dtype=torch.uint8, device=impl.device) for size in range(8, 19)
            ]
            del used
            assert torch.equal(impl.ops.acceleration_quantiles(*latents, [1, 2, 4, 7], 0.4), expected)


def test_more_scales_than_one_launch_takes(impl):
    scales = [4, 1, 7, 2, 2, 3, 9, 4, 1, 5, 6, 8, 100, 1, 10, 2**40, 11]
    assert_matches(impl, steps((2, 2, 11, 13, 5, 2, 2), device=impl.device), scales)


@pytest.mark.parametrize("scales", [[1, 2, 4], [3, 5, 8], [16]], ids=str)
@pytest.mark.parametrize("mean", [1e4, -3e6])
def test_a_huge_mean(impl, mean, scales):
    z0 = steps((1, 1, 9, 17, 5, 2, 2), device=impl.device)[0].mul(1e-6 * abs(mean)).add(mean)
    assert_matches(impl, only_the_newest(z0), scales)


def test_cells_of_every_magnitude(impl):
    """Deviations from 1e-12 to 1e12: the selection looks at all their bits."""
    generator = torch.Generator().manual_seed(0)
    sizes = 10.0 ** torch.empty(9, 13, dtype=torch.float64).uniform_(-12, 12, generator=generator)
    latents = only_the_newest(cell_patterns(sizes, impl.device))
    for quantile in (0.0, 0.1, 0.5, 0.77, 1.0):
        assert_matches(impl, latents, [1], quantile)


@pytest.mark.parametrize("apart", [2**-20, 2**-10, 1.0])
def test_more_values_than_are_under_way_at_once(impl, apart):
    """All different, the smallest and the largest far from the rest: several digits, and many values above."""
    sizes = 1.0 + apart * torch.randperm(67 * 70, generator=torch.Generator().manual_seed(0)).double()
    sizes[0], sizes[-1] = 1e-9, 1e9
    latents = only_the_newest(cell_patterns(sizes.reshape(67, 70), impl.device))
    for quantile in (0.0, 0.4, 0.9999, 1.0):
        got = impl.ops.acceleration_quantiles(*latents, [1], quantile).item()
        assert got == pytest.approx(sizes.quantile(quantile).item() * math.sqrt(3) / 4, rel=3e-7)


@pytest.mark.parametrize(
    "values",
    [
        [2.0],
        [0.0],
        [1.0, 1.0, 3.0],
        [0.0, 5.0],
        [1.0, 1.0 + 2**-20],
        [1.0, 1.0 + 2**-20, 1e6],
        [1.0, 2.0, 4.0, 8.0],
    ],
    ids=str,
)
def test_equal_deviations(impl, values):
    sizes = torch.tensor(values).repeat(math.ceil(30 / len(values)))[:30].reshape(5, 6)
    latents = only_the_newest(cell_patterns(sizes, impl.device))
    for quantile in (0.0, 0.3, 10 / 29, 0.5, 19 / 29, 0.9, 1.0):
        assert_matches(impl, latents, [1], quantile)


def test_a_deviation_beyond_float32_is_infinite(impl):
    """The variance overflows, no pixel does."""
    latents = only_the_newest(cell_patterns(torch.tensor([[1.0, 1e30]]), impl.device))
    assert impl.ops.acceleration_quantiles(*latents, [1], 0.0).item() == pytest.approx(math.sqrt(3) / 4)
    assert impl.ops.acceleration_quantiles(*latents, [1], 1.0).item() == math.inf


def test_pixels_that_cannot_be_read_in_pairs(impl):
    for dtype in impl.dtypes:
        wide = [torch.randn(2, 3, 9, 13).to(impl.device, dtype) for _ in range(4)]
        odd_start = [z[..., :8, 1:13] for z in wide]
        odd_rows = [z[..., :8, :12] for z in wide]
        gapped = [torch.randn(2, 3, 8, 24).to(impl.device, dtype)[..., ::2] for _ in range(4)]
        for latents in (odd_start, odd_rows, gapped):
            assert_matches(impl, [cells.from_latents(z) for z in latents], [1, 2, 4])


def test_float64_is_for_the_cpu(impl):
    latents = steps(dtype=torch.float64, device=impl.device)
    if impl.name == "cpu":
        expected = reference.acceleration_quantiles(*latents, [1], 0.4)
        torch.testing.assert_close(impl.ops.acceleration_quantiles(*latents, [1], 0.4), expected)
        return
    with pytest.raises(
        RuntimeError, match="z0 must be float32, bfloat16 or float16 on a CUDA device, got float64"
    ):
        impl.ops.acceleration_quantiles(*latents, [1], 0.4)


@pytest.mark.parametrize(
    "shape, message",
    [
        ((1, 70000, 70000, 1, 1, 1, 1), "2^31 rows of cells a sample"),
        ((1, 1, 70000, 70000, 1, 1, 1), "2^31 cells a sample"),
        ((1, 1, 1, 1, 1, 11586, 11586), "2^27 pixels a cell"),
        ((1, 1, 1, 1, 1, 70000, 70000), "2^27 pixels a cell"),
        ((1, 1, 1, 1, 2**31, 1, 1), "2^31 elements along each dimension"),
        ((2**23, 1, 200, 200, 1, 1, 1), "2^31 thread blocks"),
    ],
    ids=lambda value: value if isinstance(value, str) else "shape",
)
def test_sizes_beyond_the_counters(impl, shape, message):
    if impl.name == "cpu":
        pytest.skip("the CPU counts in 64 bits")
    latents = [torch.zeros(1, device=impl.device).expand(shape)] * 4
    expected = re.escape(f"acceleration_quantiles: z0 must have fewer than {message} on a CUDA device, got ")
    with pytest.raises(RuntimeError, match=expected):
        impl.ops.acceleration_quantiles(*latents, [1], 0.4)
