"""The scalars of a coarse step against what they claim, by Monte-Carlo on Gaussian data."""

import pytest
import torch

from ddit_ext import cells as cell_views
from ddit_ext.coarse.noise_match import (
    BLEND,
    MAX_DETAIL,
    MIN_DETAIL,
    blended,
    default_detail,
    detail_gain,
    detail_line,
    estimate_detail,
    high_band_coefficients,
    high_band_energy,
    measure_detail,
    noise_match,
    unmatched,
)
from ddit_ext.coarse.residual import join_bands, split_bands

LEVELS = [0.02, 0.3, 0.7, 0.95]


def bands(pixels, scale):
    """Low band, enlarged, and the rest, of [B, C, H, W]."""
    low = torch.nn.functional.avg_pool2d(pixels, scale)
    return low, pixels - low.repeat_interleave(scale, 2).repeat_interleave(scale, 3)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("sigma", LEVELS)
def test_scaled_low_band_has_the_told_noise_level(scale, sigma):
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(4, 8, 48, 48, generator=generator)
    clean = torch.randn(4, 8, 48, 48, generator=generator)
    match = noise_match(torch.tensor([sigma]), scale)
    low_noise, _ = bands(sigma * noise, scale)
    low_clean, _ = bands(clean, scale)
    told = match.timestep.item()
    assert (match.input_scale * low_noise).std().item() == pytest.approx(told, rel=0.04)
    # and the clean low-resolution latent has the weight that this level asks for
    assert match.input_scale.item() * (1 - sigma) == pytest.approx(1 - told, rel=1e-5)
    assert low_clean.std() > 0


@pytest.mark.parametrize("scale", [2, 4])
def test_alpha_and_beta_turn_the_low_velocity_into_the_wanted_one(scale):
    """α·(ε' - x_low) + β·low is exactly the low band of ε - x."""
    generator = torch.Generator().manual_seed(2)
    sigma = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    clean, noise = torch.randn(2, 5, 3, 8, 8, generator=generator).unbind()
    level = sigma.view(-1, 1, 1, 1)
    low, _ = bands((1 - level) * clean + level * noise, scale)
    clean_low, _ = bands(clean, scale)
    noise_low, _ = bands(noise, scale)
    match = noise_match(sigma, scale)
    velocity = scale * noise_low - clean_low  # of the smaller latent, whose noise has unit variance
    wanted = noise_low - clean_low
    got = match.alpha.view(-1, 1, 1, 1) * velocity + match.beta.view(-1, 1, 1, 1) * low
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [2, 4])
def test_the_blend_is_matched_below_and_unmatched_above(scale):
    below, above = torch.tensor([0.0, 0.3, BLEND[0]]), torch.tensor([BLEND[1], 0.97, 1.0])
    for got, wanted in (
        (blended(below, scale), noise_match(below, scale)),
        (blended(above, scale), unmatched(above)),
    ):
        for name, values in vars(wanted).items():
            torch.testing.assert_close(getattr(got, name), values, atol=1e-6, rtol=1e-5)
    inside = torch.linspace(*BLEND, 9)
    assert torch.all(blended(inside, scale).timestep.diff() > 0)


@pytest.mark.parametrize("scale", [2, 4])
def test_the_blend_turns_a_right_answer_into_the_wanted_velocity(scale):
    """An answer v' that states the clean low-resolution latent, k·low - t·v', gives the low band of ε - x."""
    generator = torch.Generator().manual_seed(2)
    sigma = torch.tensor([0.1, 0.8, 0.83, 0.87, 0.9, 1.0])
    clean, noise = torch.randn(2, 6, 3, 8, 8, generator=generator).unbind()
    level = sigma.view(-1, 1, 1, 1)
    low, _ = bands((1 - level) * clean + level * noise, scale)
    clean_low, _ = bands(clean, scale)
    noise_low, _ = bands(noise, scale)
    match = blended(sigma, scale)
    factor, told, alpha, beta = (value.view(-1, 1, 1, 1) for value in vars(match).values())
    answer = (factor * low - clean_low) / told
    torch.testing.assert_close(alpha * answer + beta * low, noise_low - clean_low, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("detail", [0.1, 0.7])
@pytest.mark.parametrize("sigma", LEVELS)
def test_gain_is_the_least_squares_coefficient(detail, sigma):
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(400_000, generator=generator)
    clean = detail**0.5 * torch.randn(400_000, generator=generator)
    noisy = (1 - sigma) * clean + sigma * noise
    fitted = ((noise - clean) @ noisy / (noisy @ noisy)).item()
    assert detail_gain(torch.tensor([sigma]), detail).item() == pytest.approx(
        fitted, abs=0.02 / max(sigma, 0.1)
    )


@pytest.mark.parametrize("scale", [2, 4])
def test_everything_is_finite_at_both_ends(scale):
    ends = torch.tensor([0.0, 1.0])
    match = noise_match(ends, scale)
    assert match.timestep.tolist() == [0.0, 1.0]
    assert match.input_scale.tolist() == [1.0, scale]
    assert match.alpha.tolist() == [1 / scale, 1.0]
    assert detail_gain(ends, 0.5).tolist() == [-1.0, 1.0]
    assert detail_gain(ends, 0.0).isfinite().all()
    assert all(value.dtype == torch.float32 for value in vars(match).values())


def test_unmatched_is_the_identity():
    sigma = torch.tensor([0.2, 0.9])
    match = unmatched(sigma)
    assert torch.equal(match.timestep, sigma)
    assert match.alpha.tolist() == match.input_scale.tolist() == [1.0, 1.0]
    assert match.beta.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("scale", [2, 4])
def test_detail_is_measured_on_clean_latents_and_found_again_in_noisy_ones(scale):
    generator = torch.Generator().manual_seed(4)
    low, _ = bands(torch.randn(2, 16, 64, 64, generator=generator), scale)
    _, detail = bands(0.6**0.5 * torch.randn(2, 16, 64, 64, generator=generator), scale)
    clean = low.repeat_interleave(scale, 2).repeat_interleave(scale, 3) + detail
    true = measure_detail(cell_views.from_latents(clean), scale)
    assert true == pytest.approx(0.6, rel=0.02)
    noise = torch.randn(clean.shape, generator=generator)
    for sigma, tolerance in ((0.1, 0.01), (0.5, 0.03), (0.7, 0.1)):
        noisy = (1 - sigma) * clean + sigma * noise
        _, detail = split_bands(cell_views.from_latents(noisy), scale)
        line = detail_line(
            torch.full((2,), sigma), high_band_coefficients(detail, scale), default_detail(scale)
        )
        found = estimate_detail(line, high_band_energy(detail))
        torch.testing.assert_close(found, torch.full((2,), true), atol=tolerance, rtol=0)


def test_estimate_slides_to_the_prior_where_it_knows_nothing():
    sigma = torch.tensor([1.0, 0.999])
    found = estimate_detail(detail_line(sigma, 1000, 0.4), 1000 * sigma.square() * 1.05)
    torch.testing.assert_close(found, torch.full((2,), 0.4), atol=0.01, rtol=0)


def test_estimate_stays_in_bounds_whatever_comes():
    sigma = torch.linspace(0, 1, 11)
    for energy in (0.0, 1e-6, 50.0):
        found = estimate_detail(detail_line(sigma, 100, 0.4), torch.full((11,), 100 * energy))
        assert found.isfinite().all()
        assert (found >= MIN_DETAIL).all() and (found <= MAX_DETAIL).all()


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("grid", [(4, 6), (5, 3), (1, 1)])
def test_bands_add_up_on_ragged_grids(scale, grid):
    cells = torch.randn(2, 2, *grid, 3, 2, 2)
    one, zero = torch.ones(2), torch.zeros(2)
    low, detail = split_bands(cells, scale)
    torch.testing.assert_close(join_bands(low, detail, one, one, cells), cells)
    only_low = join_bands(low, detail, zero, one, cells)
    only_detail = join_bands(low, detail, one, zero, cells)
    assert only_low.shape == cells.shape
    torch.testing.assert_close(only_low + only_detail, cells)
