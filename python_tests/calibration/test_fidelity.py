"""How close clips are to others: frame by frame, and whether time runs the same."""

import numpy as np
import pytest

from ddit_ext.fidelity import psnr, temporal_fidelity


def test_psnr():
    black = np.zeros((2, 4, 4, 3), np.uint8)
    grey = black.copy()
    grey[1] += 16
    assert psnr(black, grey) == pytest.approx([100.0, 20 * np.log10(255 / 16)])
    frames = np.stack([black, grey])  # two videos of two frames
    assert psnr(frames, np.stack([black, black])) == pytest.approx(
        [100.0, 20 * np.log10(255 / 16) + 10 * np.log10(2)]
    )


@pytest.fixture
def moving():
    """One clip of a bright square that goes one pixel to the right a frame: uint8 [1, 4, 8, 8, 3]."""
    clip = np.full((1, 4, 8, 8, 3), 50, np.uint8)
    for frame in range(4):
        clip[0, frame, 2:4, frame : frame + 2] = 200
    return clip


def test_a_constant_error_does_not_flicker(moving):
    got = temporal_fidelity(moving + 10, moving)
    assert got.frame_psnr == pytest.approx(np.full((1, 4), 20 * np.log10(25.5)))
    assert got.flicker == pytest.approx([0.0]) and got.motion == pytest.approx([1.0])


def test_an_error_that_comes_and_goes_flickers(moving):
    blinking = moving.copy()
    blinking[:, 1::2] += 10
    got = temporal_fidelity(blinking, moving)
    assert got.flicker == pytest.approx([10.0])  # +10, -10, +10 between the frames
    assert got.motion[0] > 1
    assert got.frame_psnr[0, 0] == 100 and got.frame_psnr[0, 1] == pytest.approx(20 * np.log10(25.5))


def test_a_frozen_clip_has_lost_its_motion(moving):
    frozen = np.repeat(moving[:, :1], 4, axis=1)
    got = temporal_fidelity(frozen, moving)
    assert got.motion == pytest.approx([0.0])
    # Two pixels of a row of the square change by 150 each way, in 2 of 8 rows, of all 64 pixels.
    assert got.flicker == pytest.approx([np.sqrt(4 * 150**2 / 64)])
    assert np.isnan(temporal_fidelity(moving, frozen).motion).all()


def test_one_frame_has_no_time(moving):
    got = temporal_fidelity(moving[:, :1], moving[:, :1])
    assert got.flicker == pytest.approx([0.0]) and np.isnan(got.motion).all()


def test_what_does_not_fit_is_named(moving):
    with pytest.raises(ValueError, match=r"clips must be uint8 of shape \[n, F, H, W, 3\], got float64"):
        temporal_fidelity(moving / 255, moving)
    with pytest.raises(ValueError, match=r"references must have the shape of clips, \[1, 4, 8, 8, 3\], got"):
        temporal_fidelity(moving, moving[:, :2])
