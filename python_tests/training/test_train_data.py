"""Training data: folders, tar shards, clips and generated runs; cached once, with what is broken named."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_flux import TEXT_TOKENS, TEXT_WIDTH, tiny_flux
from wan_pipelines import TEXT_WIDTH as TEXT_WIDTH_WAN
from wan_pipelines import make_pipeline as make_wan
from wan_pipelines import make_text
from wan_pipelines import size as wan_size

from ddit_ext import embedded
from ddit_ext.coarse import Adapter
from ddit_ext.families.wan import WanEncoder
from ddit_ext.training import DistillConfig, distill
from ddit_ext.training.data import cache, prepare
from ddit_ext.training.data.cache import CachedData
from ddit_ext.training.data.generate import guidance_of, run_states
from ddit_ext.training.data.pixels import read_pixels
from ddit_ext.training.data.prepare import Plan, report
from ddit_ext.training.data.records import DataError, read_records
from ddit_ext.training.processes import Processes
from ddit_ext.training.settings import DataSettings, GenerateSettings, ModelSettings


def picture(value, width=8, height=8, kind="PNG", frames=1):
    """The bytes of a picture of one colour."""
    pages = [Image.new("RGB", (width, height), (min(value + 40 * i, 255),) * 3) for i in range(frames)]
    more = {"save_all": True, "append_images": pages[1:]} if frames > 1 else {}
    target = io.BytesIO()
    pages[0].save(target, kind, **more)
    return target.getvalue()


class FakeEncoder:
    """Stands for text encoders and VAE: a latent says which picture it is, a text which caption."""

    token_side = 4

    def __init__(self):
        self.captions = []

    def latents(self, pixels):
        mean = (pixels.mean() + 1) * 127.5
        return torch.full((1, 4, *(side // 2 for side in pixels.shape[-2:])), float(mean))

    def text(self, captions):
        self.captions += captions
        value = [float(len(caption)) for caption in captions]
        return {
            "encoder_hidden_states": torch.tensor(value)
            .view(-1, 1, 1)
            .expand(-1, TEXT_TOKENS, TEXT_WIDTH)
            .clone(),
            "pooled_projections": torch.tensor(value).view(-1, 1).expand(-1, TEXT_WIDTH).clone(),
        }


@pytest.fixture
def encoder(monkeypatch):
    fake = FakeEncoder()
    monkeypatch.setattr(prepare, "encoder_for", lambda pipe, length: fake)
    return fake


def plan(tmp_path, **changes):
    settings = {"source": "pictures", "path": str(tmp_path / "data"), "cache": str(tmp_path / "cache")}
    settings |= {"height": 8, "width": 8, "batch": 2, "empty_share": 0.0, "shard_size": 2} | changes
    return Plan(DataSettings(**settings), ModelSettings("tiny"), tiny_flux())


def folder_of_five(tmp_path):
    """Three good pictures of values 10, 20 and 30, one truncated, one that is no picture."""
    folder = tmp_path / "data"
    folder.mkdir()
    for value in (10, 20, 30):
        (folder / f"{value}.png").write_bytes(picture(value))
    (folder / "cut.png").write_bytes(picture(40, 64, 64)[:90])
    (folder / "none.jpg").write_bytes(b"not a picture")
    (folder / "10.txt").write_text("ten\n")
    return folder


def test_a_folder_is_cached_once_and_broken_files_are_named(tmp_path, encoder):
    folder_of_five(tmp_path)
    made = plan(tmp_path)
    made.prepare(lambda: None, Processes())
    assert made.complete() and encoder.captions == ["", "ten", "", ""]
    data = made.open(tiny_flux())
    assert len(data) == 3
    said = report(data)
    assert said.startswith("data: 3 samples; 2 files are broken and left out: cut.png: no readable picture: ")
    assert "none.jpg: no readable picture: " in said
    batches = [data(number) for number in range(3)]
    values = torch.cat([latents[:, 0, 0, 0] for latents, _ in batches]).tolist()
    assert sorted(values[:3]) == sorted(values[3:]) == pytest.approx([10, 20, 30], abs=1e-4)
    for latents, text in batches:
        assert torch.equal(text["pooled_projections"][:, 0], 3.0 * (latents[:, 0, 0, 0] < 15))
    again = plan(tmp_path)
    again.prepare(lambda: pytest.fail("the cache was complete"), Processes())
    assert torch.equal(again.open(tiny_flux())(1)[0], batches[1][0])


def test_another_size_or_caption_is_another_cache(tmp_path):
    folder = folder_of_five(tmp_path)
    first = plan(tmp_path).folder
    assert plan(tmp_path).folder == first and plan(tmp_path, height=16).folder != first
    (folder / "20.txt").write_text("twenty")
    assert plan(tmp_path).folder != first


def test_a_damaged_shard_is_made_again(tmp_path, encoder):
    folder_of_five(tmp_path)
    made = plan(tmp_path)
    made.prepare(lambda: None, Processes())
    wanted = made.open(tiny_flux())(0)[0]
    shard = made.folder / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-5])
    encoder.captions.clear()
    with pytest.warns(UserWarning, match="shard-00000.safetensors is damaged and is made again"):
        made.prepare(lambda: None, Processes())
    assert encoder.captions == ["ten", ""]
    assert torch.equal(made.open(tiny_flux())(0)[0], wanted)


def test_a_damaged_shard_may_be_gone_by_then(tmp_path, monkeypatch):
    def other_run_first(path, **_):
        Path(path).unlink()
        raise OSError("damaged")

    (tmp_path / cache.EMPTY).write_bytes(b"none")
    monkeypatch.setattr(cache, "safe_open", other_run_first)
    with pytest.warns(UserWarning, match="is damaged and is made again"):
        assert not cache.complete(tmp_path, 1)


def test_two_processes_make_the_shards_between_them(tmp_path, encoder):
    folder_of_five(tmp_path)
    made = plan(tmp_path)
    for rank in (0, 1):
        accelerator = SimpleNamespace(num_processes=2, process_index=rank, wait_for_everyone=lambda: None)
        made.prepare(lambda: None, Processes(accelerator))
        assert len(list(made.folder.glob("shard-*"))) == 2 + rank


def test_the_empty_caption_takes_its_share(tmp_path, encoder):
    folder = folder_of_five(tmp_path)
    for value in (20, 30):
        (folder / f"{value}.txt").write_text("abc")
    made = plan(tmp_path, batch=300, empty_share=0.25)
    made.prepare(lambda: None, Processes())
    empty = (made.open(tiny_flux())(0)[1]["pooled_projections"][:, 0] == 0).sum().item()
    assert 45 < empty < 105  # 75 expected, four standard deviations are 30


def test_metadata_names_files_and_captions(tmp_path):
    folder = folder_of_five(tmp_path)
    entries = [{"file_name": "20.png", "text": "twenty"}, {"file_name": "gone.png", "text": "x"}]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    records, broken = read_records(folder)
    assert [(r.name, r.caption) for r in records] == [("20.png", "twenty")]
    assert [(b.name, b.reason) for b in broken] == [("gone.png", "no such file")]
    (folder / "metadata.jsonl").write_text('{"file_name": "20.png"}\n{"file": "x"}\n')
    with pytest.raises(DataError, match="metadata.jsonl, line 2: expected"):
        read_records(folder)
    (tmp_path / "else.png").write_bytes(picture(50))
    outside = [{"file_name": str(tmp_path / "else.png"), "text": "x"}, {"file_name": "../else.png"}]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in outside))
    assert [(r.name, r.read()) for r in read_records(folder)[0]] == [
        (entry["file_name"], picture(50)) for entry in outside
    ]
    (folder / "metadata.jsonl").write_text('{"file_name": "20.png", "text": 5}')
    with pytest.raises(DataError, match="metadata.jsonl, line 1: expected"):
        read_records(folder)


def test_tar_shards(tmp_path):
    (tmp_path / "data").mkdir()
    with tarfile.open(tmp_path / "data" / "a.tar", "w") as archive:
        for name, content in (
            ("one.png", picture(10)),
            ("one.txt", b"first"),
            ("sub/two.x.jpg", b""),
            ("sub/three.png", picture(30)),
            ("sub/three.json", b'{"text": "third"}'),
            ("sub/four.png", picture(40)),
            ("sub/four.json", b"{"),
            ("five.png", picture(50)),
            ("five.json", b'{"text": ["one", "two"]}'),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    whole = (tmp_path / "data" / "a.tar").read_bytes()
    (tmp_path / "data" / "b.tar").write_bytes(b"x" * 700)
    with tarfile.open(tmp_path / "data" / "c.tar", "w:gz") as archive:
        archive.add(tmp_path / "data" / "a.tar", "one.png")
    records, broken = read_records(tmp_path / "data")
    assert [(r.name, r.caption) for r in records] == [
        ("a.tar/one.png", "first"),
        ("a.tar/sub/three.png", "third"),
    ]
    assert [b.name for b in broken] == ["a.tar/sub/four.png", "a.tar/five.png", "b.tar", "c.tar"]
    assert broken[1].reason == "its caption can't be read: text must be a text, got ['one', 'two']"
    assert "must not be compressed" in broken[3].reason
    assert read_pixels(records[1], [(4, 4)]).mean() == pytest.approx(30 / 127.5 - 1, abs=1e-6)
    (tmp_path / "data" / "a.tar").write_bytes(whole[:1200])
    with pytest.raises(DataError, match="no pictures in .*b.tar"):
        read_records(tmp_path / "data" / "b.tar")


def test_pictures_are_cropped_and_clips_cut(tmp_path):
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    (tmp_path / "clip.webp").write_bytes(picture(100, kind="WEBP", frames=3))
    records = {record.name: record for record in read_records(tmp_path)[0]}
    assert read_pixels(records["wide.png"], [(4, 4)]).equal(torch.ones(3, 1, 4, 4))
    clip = read_pixels(records["clip.webp"], [(8, 8)], frames=3)
    assert clip.shape == (3, 3, 8, 8)
    assert clip.mean((0, 2, 3)).diff().gt(0.2).all()
    with pytest.raises(DataError, match="3 frames, 5 are needed"):
        read_pixels(records["clip.webp"], [(8, 8)], frames=5)


def test_grey_of_16_bits_keeps_its_levels(tmp_path):
    Image.fromarray(np.array([[0, 30000, 65535]], np.uint16)).save(tmp_path / "grey.png")
    pixels = read_pixels(read_records(tmp_path)[0][0], [(1, 3)])
    assert ((pixels + 1) * 127.5)[:, 0, 0].round().tolist() == [[0, 30000 // 256, 255]] * 3


def test_nothing_usable_is_an_error(tmp_path, encoder):
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match="there are no pictures in"):
        read_records(tmp_path / "data")
    (tmp_path / "data" / "bad.png").write_bytes(b"no")
    made = plan(tmp_path)
    made.prepare(lambda: None, Processes())
    with pytest.raises(DataError, match="no sample can be used; 1 are broken, bad.png: no readable picture"):
        made.open(tiny_flux())
    with pytest.raises(DataError, match="holds no prompt"):
        (tmp_path / "prompts.txt").write_text("\n\n")
        plan(tmp_path, source="generated", path=None, prompts=str(tmp_path / "prompts.txt"))


def test_guidance_is_told_to_a_model_that_takes_it(tmp_path, encoder):
    folder_of_five(tmp_path)
    made = plan(tmp_path, guidance=2.5)
    made.prepare(lambda: None, Processes())
    assert "guidance" not in made.open(tiny_flux())(0)[1]
    told = CachedData.__call__(made.open(SimpleNamespace(config=SimpleNamespace(guidance_embeds=True))), 0)[1]
    assert told["guidance"].tolist() == [2.5, 2.5]


@pytest.mark.parametrize(("told", "own", "found"), [(None, 2.0, 2.0), (2.0, None, 2.0), (None, None, 3.5)])
def test_the_student_is_told_the_guidance_of_the_runs(tmp_path, told, own, found):
    pipe = embedded.load("flux").pipeline
    seen = []
    pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["guidance"].item()), with_kwargs=True
    )
    (tmp_path / "prompts.txt").write_text("a cat on plain gray\n")
    settings = DataSettings(
        source="generated",
        prompts=str(tmp_path / "prompts.txt"),
        cache=str(tmp_path / "cache"),
        height=64,
        width=64,
        max_sequence_length=12,
        guidance=told,
        generate=GenerateSettings(steps=2, states=1, guidance_scale=own),
    )
    made = Plan(settings, ModelSettings("embedded:flux"), pipe.transformer)
    made.prepare(lambda: pipe, Processes())
    assert made.open(pipe.transformer)(0)[1]["guidance"].tolist() == [found]
    assert seen == [found, found]
    other = replace(settings, guidance=4.0, generate=GenerateSettings(steps=2, states=1))
    assert Plan(other, ModelSettings("embedded:flux"), pipe.transformer).folder != made.folder
    two = replace(other, generate=GenerateSettings(steps=2, states=1, guidance_scale=3.0))
    with pytest.raises(
        ValueError, match=r"guidance must be .*generate.guidance_scale 3.0, got 4.0: leave one"
    ):
        Plan(two, ModelSettings("embedded:flux"), pipe.transformer)


def test_a_model_that_is_told_no_guidance_may_have_two_numbers(wan):
    settings = DataSettings(
        source="generated",
        prompts="prompts.txt",
        cache="cache",
        height=64,
        width=64,
        guidance=3.5,
        generate=GenerateSettings(guidance_scale=5.0),
    )
    assert guidance_of(wan.transformer, settings) == 5.0


@pytest.fixture
def wan():
    pipe = make_wan("text")
    pipe.register_modules(**make_text())
    pipe.transformer.requires_grad_(False)
    return pipe


def generated(tmp_path, pipe, **changes):
    (tmp_path / "prompts.txt").write_text("a pizza\na cat on red\n")
    settings = {
        "source": "generated",
        "prompts": str(tmp_path / "prompts.txt"),
        "cache": str(tmp_path / "cache"),
    }
    settings |= wan_size(2, 2) | {"frames": 5, "max_sequence_length": 6, "batch": 2, "empty_share": 0.0}
    settings |= {"generate": GenerateSettings(steps=4, states=2, guidance_scale=3.0)} | changes
    return Plan(DataSettings(**settings), ModelSettings("tiny"), pipe.transformer)


def test_states_are_what_the_pipeline_had_at_their_noise_level(tmp_path, wan):
    settings = generated(tmp_path, wan, generate=GenerateSettings(steps=4, states=4)).settings
    states = run_states(WanEncoder(wan, 6, 2), "a cat", settings, seed=3)
    seen = []

    def keep(pipe, step, timestep, tensors):
        seen.append(tensors["latents"][0].clone())
        return {}

    wan(
        "a cat",
        num_inference_steps=4,
        num_frames=5,
        max_sequence_length=6,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
        callback_on_step_end=keep,
        height=settings.height,
        width=settings.width,
    )
    assert states["noise_level"].tolist() == wan.scheduler.sigmas[:4].tolist()
    for state, latents in zip(states["latents"][1:], seen, strict=False):
        assert torch.equal(state, latents)
    assert states["encoder_hidden_states"].shape == (1, 6, TEXT_WIDTH_WAN)


def test_a_wan_is_trained_on_its_own_runs(tmp_path, wan):
    plan = generated(tmp_path, wan)
    plan.prepare(lambda: wan, Processes())
    data = plan.open(wan.transformer)
    assert len(data) == 4
    latents, text = data(0)
    assert latents.shape == (2, 16, 2, 4, 4) and text["noise_level"].shape == (2,)
    adapter = Adapter.create(wan.transformer, scales=(2,), rank=2)
    config = DistillConfig(steps=2, accumulate=2, log_every=1)
    result = distill(wan.transformer, adapter, data, config, progress=False)
    levels = {level for line in result.log for level in line["scales"]["2"]["levels"]}
    wan.scheduler.set_timesteps(4)
    assert levels <= {f"{min(int(sigma * 10), 9) / 10:.1f}" for sigma in wan.scheduler.sigmas[:4].tolist()}


def test_wans_latents_are_normalised_as_its_pipeline_undoes_it(wan):
    encoder = WanEncoder(wan, 6, 2)
    pixels = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    config = wan.vae.config
    mean, std = list(range(16)), [0.5 + 0.1 * i for i in range(16)]
    plain = encoder.latents(pixels)
    before = config.latents_mean, config.latents_std
    wan.vae.register_to_config(latents_mean=[float(m) for m in mean], latents_std=std)
    try:
        normalised = encoder.latents(pixels)
    finally:
        wan.vae.register_to_config(latents_mean=before[0], latents_std=before[1])
    back = normalised * torch.tensor(std).view(1, -1, 1, 1, 1) + torch.tensor(mean).view(1, -1, 1, 1, 1)
    torch.testing.assert_close(back, plain, atol=1e-5, rtol=1e-5)
