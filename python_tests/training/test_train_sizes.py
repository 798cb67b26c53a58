"""Pictures of several sizes: each goes to the nearest, every batch has one shape, every picture is used as often."""

from collections import Counter

import pytest
import torch
import yaml
from PIL import Image
from test_train_data import encoder, generated, picture, plan, wan  # noqa: F401 (fixtures)
from test_train_run import config
from tiny_flux import tiny_flux

from ddit_ext.cli import main
from ddit_ext.coarse import Adapter
from ddit_ext.training import DistillConfig, distill
from ddit_ext.training.data.order import Order
from ddit_ext.training.data.pixels import read_pixels
from ddit_ext.training.data.prepare import report
from ddit_ext.training.data.records import read_records
from ddit_ext.training.data.sizes import check_sizes, nearest, sizes_like
from ddit_ext.training.processes import Processes
from ddit_ext.training.settings_file import SettingsError, read_settings

BUCKETS = ((8, 16), (16, 8))
SHAPES = {
    (4, 4): {10, 20, 30, 40},
    (4, 8): {50, 60},
    (8, 4): {70},
}  # latents of 8x8, 8x16 and 16x8: which pictures


def folder_of_three_ratios(tmp_path):
    """Four pictures that are about square, two lying ones, one standing, one broken."""
    folder = tmp_path / "data"
    folder.mkdir()
    sides = {10: (8, 8), 20: (9, 8), 30: (30, 33), 40: (8, 8), 50: (40, 20), 60: (16, 9), 70: (10, 22)}
    for value, (width, height) in sides.items():
        (folder / f"{value}.png").write_bytes(picture(value, width, height))
    (folder / "broken.png").write_bytes(b"none")


def mixed(tmp_path, together=1, **changes):
    """The data of that folder, made if they are not there."""
    if not (tmp_path / "data").exists():
        folder_of_three_ratios(tmp_path)
    made = plan(tmp_path, buckets=BUCKETS, **changes)
    made.prepare(lambda: None, Processes())
    return made.open(tiny_flux(), together)


def values(latents):
    return [round(value) for value in latents[:, 0, 0, 0].tolist()]


def test_every_batch_has_one_shape_and_every_picture_comes(tmp_path, encoder):  # noqa: F811
    data = mixed(tmp_path)
    seen = Counter()
    for number in range(70):  # 140 samples of 7 pictures
        latents, text = data(number)
        assert set(values(latents)) <= SHAPES[tuple(latents.shape[-2:])]
        assert text["encoder_hidden_states"].shape[0] == len(latents) == 2
        seen.update(values(latents))
    assert seen == dict.fromkeys((10, 20, 30, 40, 50, 60, 70), 20)


def test_the_report_counts_sizes_and_says_which_are_small(tmp_path, encoder):  # noqa: F811
    said = report(mixed(tmp_path))
    assert said.startswith(
        "data: 7 samples: 1 of 16x8, 2 of 8x16, 4 of 8x8; a step learns from 2 samples of one size"
    )
    assert "those of 16x8 come up more than once in it" in said
    assert "1 files are broken and left out: broken.png: no readable picture" in said


def test_a_step_is_the_same_however_it_is_split(tmp_path, encoder):  # noqa: F811
    """As one batch of four, as two of two (processes or accumulation), as four of one; each process its own part."""
    whole = mixed(tmp_path, batch=4)
    for batch in (1, 2):
        parts = mixed(tmp_path, 4 // batch, batch=batch)
        for step in range(12):
            wanted = values(whole(step)[0])
            numbers = range(step * 4 // batch, (step + 1) * 4 // batch)
            assert [value for number in numbers for value in values(parts(number)[0])] == wanted
    losses = []
    for batch in (4, 2):
        transformer = tiny_flux()
        run = DistillConfig(steps=4, lr=3e-3, warmup=1, log_every=1, accumulate=4 // batch)
        data = mixed(tmp_path, 4 // batch, batch=batch)
        log = distill(transformer, Adapter.create(transformer, rank=2), data, run, progress=False).log
        losses.append([line["loss"] for line in log])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, encoder):  # noqa: F811
    shapes = []

    def run(folder, stop=None):
        data, transformer = mixed(tmp_path), tiny_flux()

        def batches(number):
            if number == stop:
                raise KeyboardInterrupt
            shapes.append(tuple(data(number)[0].shape))
            return data(number)

        settings = DistillConfig(steps=6, lr=3e-3, warmup=1, checkpoint_every=2)
        adapter = Adapter.create(transformer, rank=2)
        return distill(transformer, adapter, batches, settings, out_dir=folder, progress=False).adapter

    through = run(tmp_path / "a")
    assert len(set(shapes)) == 3
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", stop=5)
    resumed = run(tmp_path / "b")
    assert all(torch.equal(x, y) for x, y in zip(through.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize(("counts", "together"), [([5], 2), ([3], 8), ([100, 7, 1], 4), ([2, 2, 2], 5)])
def test_the_order_leaves_nothing_out(counts, together):
    order, total = Order(counts, together, seed=3), sum(counts)
    samples = [order(index) for index in range(total * together * 2)]
    assert set(Counter(samples).values()) == {2 * together}
    for start in range(0, len(samples), together):
        assert len({size for size, _ in samples[start : start + together]}) == 1
    if len(counts) == 1:
        for first in range(0, len(samples), total):
            assert len(set(samples[first : first + total])) == total  # pass after pass
    index = 3 * total
    assert Order(counts, together, seed=3)(index) == samples[index]
    assert [Order(counts, together, seed=4)(index) for index in range(total)] != samples[:total]


def test_a_picture_goes_to_the_nearest_ratio(tmp_path):
    sizes = [(64, 64), (48, 80), (80, 48), (128, 128)]
    assert nearest(sizes, 100, 160) == (48, 80)
    assert nearest(sizes, 160, 100) == (80, 48)
    assert nearest(sizes, 100, 110) == (64, 64)  # 128x128 would enlarge it
    assert nearest(sizes, 300, 300) == (128, 128)
    assert nearest(sizes, 20, 20) == (64, 64)
    Image.new("RGB", (40, 20)).save(tmp_path / "wide.png")
    (tmp_path / "clip.webp").write_bytes(picture(100, 20, 40, kind="WEBP", frames=3))
    clip, wide = (read_pixels(record, [(8, 8), *BUCKETS], frames) for record, frames in
                  zip(read_records(tmp_path)[0], (3, 1), strict=True))  # fmt: skip
    assert clip.shape == (3, 3, 16, 8) and wide.shape == (3, 1, 8, 16)


def test_the_automatic_sizes_have_about_as_many_pixels():
    sizes = sizes_like(1024, 1024)
    assert sizes[0] == (1024, 1024) and (896, 1152) in sizes and (1152, 896) in sizes and (768, 1344) in sizes
    assert len(set(sizes)) == len(sizes) == 9
    assert all(side % 64 == 0 for size in sizes for side in size)
    assert all(abs(height * width / 1024**2 - 1) < 0.08 for height, width in sizes)
    assert sizes_like(480, 832)[0] == (480, 832)


def test_a_size_that_does_not_fit_is_named(tmp_path, encoder, capsys):  # noqa: F811
    folder_of_three_ratios(tmp_path)
    made = plan(tmp_path, buckets=((8, 16), (8, 18)))
    with pytest.raises(
        ValueError, match=r"data.buckets: 8x18: width must be a multiple of 4, .*got 18; the nearest is"
    ):
        made.prepare(lambda: None, Processes())
    assert not encoder.captions
    with pytest.raises(
        ValueError, match=r"data.height must be a multiple of 16, .*got 100; the nearest is 96"
    ):
        check_sizes([(100, 64)], 16)
    assert main(["train", str(config(tmp_path, data__buckets=[[64, 70]])), "--dry-run"]) == 1
    assert "data.buckets: 64x70: width must be a multiple of 4" in capsys.readouterr().err
    for given, text in (
        ([64], r"data.buckets\[0\] must be a list, got 64"),
        ([[64, 0]], r"data: buckets\[0\] must be \[height, width\], both at least 1, got \[64, 0\]"),
        ([[64, 64, 3]], r"data.buckets\[0\] must be a list of 2"),
        ("all", "data.buckets must be one of auto, got 'all'"),
        ("auto", "data: buckets: auto knows only 64x64 with as many pixels as 64x64"),
    ):
        with pytest.raises(SettingsError, match=text):
            read_settings(config(tmp_path, data__buckets=given))
    larger = config(tmp_path, data__buckets="auto", data__height=256, data__width=256)
    assert read_settings(larger).data.sizes[1:3] == ((192, 320), (320, 192))


def test_runs_of_the_base_are_made_in_one_size_after_the_other(tmp_path, wan):  # noqa: F811
    made = generated(tmp_path, wan, buckets=((32, 64),), batch=1)
    made.prepare(lambda: wan, Processes())
    data = made.open(wan.transformer)
    assert data.sizes == {"32x32": 2, "32x64": 2}
    assert {tuple(data(number)[0].shape[-2:]) for number in range(4)} == {(4, 4), (4, 8)}


def test_a_run_on_pictures_of_two_sizes_from_its_file(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    for value, size in ((10, (64, 64)), (90, (64, 64)), (200, (128, 64))):
        (tmp_path / "data" / f"{value}.png").write_bytes(picture(value, *size))
    path = config(tmp_path, training__steps=3)
    tree = yaml.safe_load(path.read_text())
    del tree["data"]["prompts"], tree["data"]["generate"]
    tree["data"] |= {"source": "pictures", "path": str(tmp_path / "data"), "buckets": [[64, 128]]}
    path.write_text(yaml.safe_dump(tree))
    assert main(["train", str(path)]) == 0, capsys.readouterr().err
    assert "data: 3 samples: 1 of 64x128, 2 of 64x64" in capsys.readouterr().out
    assert "3 captioned pictures of 64x64, 64x128" in (tmp_path / "out" / "adapter" / "README.md").read_text()
