"""Clips composed at random: their objects do what the prompts say, inside the picture."""

import re

import numpy as np
import pytest

from ddit_ext.embedded import clips, scenes, vocabulary
from embedded_training.data import CLIP_CHUNK, draw_clips, load_or_draw
from embedded_training.draw_clips import sheet


@pytest.fixture(scope="module")
def many():
    rng = np.random.default_rng(0)
    return [clips.random_clip(rng) for _ in range(200)]


def test_each_motion_is_what_it_is_called(many):
    seen = {motion: 0 for motion in vocabulary.MOTIONS}
    for clip in many:
        track = clip.track
        seen[track.motion] += 1
        steps, sizes = np.diff(track.centres, axis=0), np.diff(track.sizes)
        turns = np.diff(track.turns)
        still = {
            "drifting": (sizes, turns),
            "spinning": (sizes, steps),
            "bouncing": (sizes, turns, steps[:, 0]),
            "growing": (steps, turns),
        }[track.motion]
        assert all((change == 0).all() for change in still)
        if track.motion == "drifting":
            assert np.linalg.norm(track.centres[-1] - track.centres[0]) >= 0.25
            np.testing.assert_allclose(steps, np.broadcast_to(steps[0], steps.shape), atol=1e-12)
        elif track.motion == "spinning":
            assert 0.75 * np.pi <= abs(track.turns[-1] - track.turns[0]) <= 1.5 * np.pi
            assert (np.sign(turns) == np.sign(turns[0])).all()
        elif track.motion == "bouncing":
            height = steps[:, 1]
            assert (height < 0).any() and (height > 0).any()
            assert np.ptp(track.centres[:, 1]) > 0.15
        else:
            assert (sizes > 0).all() and track.sizes[-1] / track.sizes[0] > 1.6
    assert min(seen.values()) > 30


def test_objects_stay_inside(many):
    for clip in many:
        for index in range(clips.FRAMES):
            scene = clip.frame(index)
            ((x, y),), (size,) = scene.centres, scene.sizes
            assert size / 2 - 1e-9 <= min(x, y) and max(x, y) <= 1 - size / 2 + 1e-9


def test_prompts_name_objects_motions_and_background(many):
    for clip in many:
        assert vocabulary.parse(clip.prompt) == (clip.scene.objects, clip.scene.pattern, clip.scene.colour)
        assert set(re.findall("[a-z]+", clip.prompt)) <= set(vocabulary.CLIP_WORDS)
    described = vocabulary.describe(("apple", "pizza"), "checks", "red", ("spinning", "growing"))
    assert described == "a spinning apple and a growing pizza on red checks"


def test_pictures_are_the_scenes_of_the_frames():
    drawn, described = clips.clips(3, seed=4)
    assert drawn.shape == (3, 9, 96, 96, 3) and drawn.dtype == np.uint8
    again, _ = clips.clips(3, seed=4)
    other, _ = clips.clips(3, seed=5)
    assert (drawn == again).all() and (drawn != other).any()
    for clip, frames in zip(described, drawn, strict=True):
        assert (frames[5] == scenes.render(clip.frame(5), clips.CLIP_SIZE)).all()
        assert (frames[0] != frames[8]).any()
    assert clips.clips(0, seed=0)[0].shape == (0, 9, 96, 96, 3)


def test_chunks_are_kept_on_disk(tmp_path):
    drawn, prompts = load_or_draw(tmp_path, 1, 1, draw_clips)
    assert drawn.shape == (CLIP_CHUNK, 9, 96, 96, 3) and len(prompts) == CLIP_CHUNK
    kept = (tmp_path / "clips-1.npy").stat().st_mtime_ns
    again, same = load_or_draw(tmp_path, 1, 1, draw_clips)
    assert (again == drawn).all() and same == prompts
    assert (tmp_path / "clips-1.npy").stat().st_mtime_ns == kept
    picture = sheet(np.asarray(drawn[:2]))
    assert picture.size == (9 * 96, 2 * 96)
    assert (np.asarray(picture)[96:, 96:192] == drawn[1, 1]).all()
