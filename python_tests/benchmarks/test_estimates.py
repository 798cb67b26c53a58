"""What patch kernels should take, by estimate: benchmarks/gpu/estimates.py."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
estimates = pytest.importorskip("gpu.estimates")
flux, wan = estimates.SHAPES[0], estimates.SHAPES[-1]


def test_the_page_has_what_the_script_prints():
    page = (ROOT / "docs" / "design" / "cuda-patch-kernels.md").read_text()
    assert "\n".join(estimates.rows()) in page


def test_packed_tokens_are_patches_at_scale_1():
    for op in ("patch_embed", "patch_deembed"):
        alone = estimates.Estimate(op, flux, 1)
        assert (alone.launches, alone.now) == (1, alone.library)
    assert estimates.Estimate("patch_embed", wan, 1).launches == 2
    assert estimates.Estimate("patch_deembed", wan, 1).launches == 1


def test_a_launch_less():
    """By hand, FLUX 1024² at scale 2: 1.05 MB read and written, and 1.6 GFLOP."""
    embed = estimates.Estimate("patch_embed", flux, 2)
    assert embed.floor == pytest.approx(2 * 1024 * 256 * 3072 / 790e12)
    assert embed.now == pytest.approx(2 * 2.5e-6 + 2 * 524_288 / 4.3e12 + embed.floor, rel=1e-3)
    assert embed.apart - embed.now == pytest.approx(2.5e-6 + 2 * 524_288 / 4.3e12, rel=1e-3)
