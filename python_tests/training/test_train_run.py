"""`ddit train` from its file to the adapter, on the embedded FLUX; what it costs, its card and its upload."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator
from PIL import Image
from tiny_flux import tiny_flux
from torch.utils.flop_counter import FlopCounterMode

import ddit_ext
from ddit_ext.cli import main
from ddit_ext.coarse import Adapter
from ddit_ext.embedded.weights import folder
from ddit_ext.families import published
from ddit_ext.training import TrainingDiverged, card
from ddit_ext.training.card import write_card
from ddit_ext.training.estimate import estimate
from ddit_ext.training.samples import coarse_first
from ddit_ext.training.settings import TrainSettings
from ddit_ext.training.settings_file import convert, read_settings

EXAMPLES = Path(__file__).parents[2] / "examples" / "train"


class FakeHub:
    """Keeps what it is told instead of huggingface_hub.HfApi."""

    calls = []

    def create_repo(self, repository, **arguments):
        self.calls.append(("create", repository, arguments["private"], arguments["exist_ok"]))

    def upload_folder(self, repo_id, folder_path, allow_patterns, **arguments):
        found = sorted(path.name for path in Path(folder_path).iterdir())
        self.calls.append(("upload", repo_id, found, sorted(allow_patterns)))
        return "https://example.org/commit"


def config(tmp_path, **changes):
    """The example of the embedded model, made small."""
    tree = yaml.safe_load((EXAMPLES / "embedded_flux.yaml").read_text())
    (tmp_path / "prompts.txt").write_text("a cat on plain gray\na dog on red dots\n")
    tree["data"] |= {"prompts": str(tmp_path / "prompts.txt"), "cache": str(tmp_path / "cache"), "batch": 2}
    tree["data"]["generate"] = {"steps": 4, "states": 2}
    tree["training"] |= {"steps": 2, "log_every": 1, "checkpoint_every": 1, "noise_range": {}}
    tree["output"] = {"folder": str(tmp_path / "out"), "trackers": []}
    for key, value in changes.items():
        section, name = key.split("__")
        tree[section][name] = value
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_a_run_from_file_to_adapter(tmp_path, monkeypatch, capsys):
    FakeHub.calls = []
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    replaced, move = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (replaced.append(Path(b).name), move(a, b)))
    path = config(
        tmp_path,
        output__sample_prompts=["a cat on plain gray"],
        output__sample_every=2,
        output__sample_steps=3,
        output__push_to_hub="someone/adapter",
    )
    assert main(["train", str(path)]) == 0, capsys.readouterr().err
    out = tmp_path / "out"
    said = capsys.readouterr().out
    assert "data: 4 samples" in said and "uploaded: https://example.org/commit" in said
    assert {"settings.json", "step-00000002.png", "adapter.json", "README.md"} < set(replaced)
    sheet = Image.open(out / "samples" / "step-00000002.png")
    assert sheet.size == (128, 64)
    pipe = ddit_ext.embedded.load("flux").pipeline
    adapter = Adapter.load(out / "adapter", pipe.transformer)
    assert adapter.scales == (2, 4) and adapter.training_record["base_model"] == "embedded:flux"
    card_text = (out / "adapter" / "README.md").read_text()
    assert yaml.safe_load(card_text.split("---")[1])["license"] == "apache-2.0"
    assert (
        "2 runs of the base itself on 2 prompts, 2 of 4 states each" in card_text
        and "| steps | 2 of 2 |" in card_text
    )
    assert FakeHub.calls == [
        ("create", "someone/adapter", True, True),
        (
            "upload",
            "someone/adapter",
            ["README.md", "adapter.json", "adapter.safetensors"],
            sorted([*card.FILES, *(f"*/{name}" for name in card.FILES)]),
        ),
    ]
    handle = ddit_ext.patch(pipe, out / "adapter", schedule=2)
    pipe("a cat on plain gray", num_inference_steps=1, true_cfg_scale=1.0, output_type="latent")
    assert handle.report().to_dict()["steps"][0]["scale"] == 2


def test_a_run_that_was_done_is_not_begun_again_but_resumed(tmp_path, capsys):
    path = config(tmp_path, training__schedule="constant")
    assert main(["train", str(path)]) == 0
    assert main(["train", str(path)]) == 1
    assert "output.folder: " in (said := capsys.readouterr().err) and "--resume" in said
    shards = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.safetensors")}
    assert main(["train", str(path), "--resume", "--set", "training.steps=3"]) == 0
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.safetensors")} == shards
    lines = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]


def test_a_run_that_fails_ends_its_trackers(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise TrainingDiverged("loss is nan")

    ended = []
    monkeypatch.setattr("ddit_ext.training.run.distill", fail)
    monkeypatch.setattr(Accelerator, "end_training", lambda self: ended.append(True))
    assert main(["train", str(config(tmp_path))]) == 1
    assert ended == [True]


def test_tensorboard_gets_the_log(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main(["train", str(config(tmp_path)), "--set", "output.trackers=auto"]) == 0
    (folder,) = (file.parent for file in (tmp_path / "out" / "tensorboard").rglob("events.*"))
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2]
    assert {"lr", "grad_norm"} < set(events.Tags()["scalars"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.path=no/such/folder/here", "model.path: no/such/folder/here is no diffusers model"),
        ("model.path=some/model", "ddit train: some/model is no folder here: looking it up on the hub"),
        (
            "training.autocast=float16",
            "training.autocast must be bfloat16 for a base in bfloat16, got float16",
        ),
        ("output.trackers=[wandb]", "output.trackers: wandb is not installed: pip install wandb"),
        (
            "data.prompts=absent.txt",
            "data.prompts must be a text file with one prompt a line, got absent.txt",
        ),
        ("training.stepss=1", "did you mean 'steps'"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(tmp_path, monkeypatch, capsys, override, message):
    monkeypatch.setattr("ddit_ext.training.tracking.AVAILABLE", {"wandb": lambda: False})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["train", str(config(tmp_path, model__dtype="bfloat16")), "--set", override]) == 1
    said = capsys.readouterr().err
    assert message in said and said.splitlines()[-1].startswith("ddit: ")


def settings_for(name):
    return read_settings(EXAMPLES / f"{name}.yaml")


def test_the_estimate_counts_the_real_models_parameters():
    flux = estimate(settings_for("flux_dev_80gb"), 1, 300.0, False)
    assert flux.base_parameters == 11_901_408_320  # as the model's card rounds it: 12 billion
    assert flux.tokens == {1: 4096, 2: 1024, 4: 256}
    # 57 blocks of 12·width² multiplications a token, and attention; the rest is small beside them.
    width, tokens = 3072, 4096 + 512
    by_hand = 57 * (24 * width**2 * tokens + 4 * tokens**2 * width)
    assert flux.flops[1] == pytest.approx(by_hand, rel=0.01)
    assert flux.flops_per_sample == flux.flops[1] + 3 * (flux.flops[2] + flux.flops[4])
    assert flux.samples == 10000 * 8 and "assumed, not measured" in str(flux)
    # 128 x 128 latent pixels of 16 channels; 512 rows of T5 and a pooled row of CLIP, in two bytes each.
    assert flux.cache_bytes == 2 * (
        16 * 128**2 + settings_for("flux_dev_80gb").data.max_sequence_length * 4096 + 768
    )


def test_the_estimate_weighs_scales_by_how_often_they_come_up():
    settings = settings_for("embedded_flux")
    chosen = replace(settings.training, scale_shares={2: 3.0, 4: 1.0})
    figures = estimate(replace(settings, training=chosen), 1, None, False)
    passes = 3 if settings.model.gradient_checkpointing else 2
    wanted = figures.flops[1] + passes * (0.75 * figures.flops[2] + 0.25 * figures.flops[4])
    assert figures.flops_per_sample == pytest.approx(wanted)


def test_the_estimate_of_wan():
    wan = estimate(settings_for("wan_1_3b"), 1, 300.0, False)
    assert wan.base_parameters == 1_418_996_800
    assert wan.tokens == {1: 21 * 30 * 52, 2: 21 * 15 * 26, 4: 21 * 8 * 13}


def test_the_estimates_of_flux2_klein_and_qwen_image():
    klein = estimate(settings_for("flux2_klein_80gb"), 1, None, False)
    assert klein.base_parameters == 3_875_544_576  # "4B"
    assert klein.tokens == {1: 4096, 2: 1024, 4: 256}
    # 25 blocks of 4·width² for attention and 9·width² for feed-forward layers of 3·width, 2 FLOPs each.
    width, tokens = 3072, 4096 + 512
    assert klein.flops[1] == pytest.approx(25 * (26 * width**2 * tokens + 4 * tokens**2 * width), rel=0.01)
    assert "80 GB yes" in str(klein)
    qwen = estimate(settings_for("qwen_image_8gpus"), 8, None, True)
    assert qwen.base_parameters == 20_430_401_088  # "20B"
    assert qwen.memory["base"] == qwen.base_parameters * 2 / 8
    assert qwen.flops[1] == pytest.approx(60 * (24 * width**2 * tokens + 4 * tokens**2 * width), rel=0.01)
    assert qwen.samples == 20000 * 2 * 8


def test_the_estimate_of_hunyuan_video_counts_texts_as_they_are_padded():
    tree = {
        "model": {"path": "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v"},
        "data": {
            "source": "generated",
            "prompts": "p",
            "cache": "c",
            "height": 480,
            "width": 848,
            "frames": 9,
        },
        "output": {"folder": "o"},
    }
    video = estimate(convert(tree, TrainSettings, ""), 1, None, False)
    assert video.base_parameters == 8_326_608_160
    assert video.tokens == {1: 3 * 30 * 53, 2: 3 * 15 * 27, 4: 3 * 8 * 14}
    width, tokens = 2048, video.tokens[1] + 1000 + 256 + 1
    assert video.flops[1] == pytest.approx(54 * (24 * width**2 * tokens + 4 * tokens**2 * width), rel=0.01)


@pytest.mark.parametrize(
    ("model", "side", "frames", "tokens"),
    [
        ("flux", 64, 1, {1: 256, 2: 64, 4: 16}),
        ("flux-128", 128, 1, {1: 1024, 2: 256, 4: 64}),
        ("wan", 96, 9, {1: 3 * 144, 2: 3 * 36, 4: 3 * 9}),
        ("wan", 104, 9, {1: 3 * 169, 2: 3 * 49, 4: 3 * 16}),
    ],
)
def test_the_estimate_asks_an_embedded_model_for_its_tokens(model, side, frames, tokens):
    settings = settings_for("embedded_flux")
    data = replace(settings.data, height=side, width=side, frames=frames, max_sequence_length=12)
    base = replace(settings.model, path=f"embedded:{model}")
    assert estimate(replace(settings, model=base, data=data), 1, None, False).tokens == tokens


@pytest.mark.parametrize(
    ("vae", "side"),
    [
        ({"scale_factor_spatial": 16}, 32),
        ({"spatial_compression_ratio": 16}, 32),
        ({"block_out_channels": [8, 8, 8]}, 8),
        ({}, 16),
    ],
)
def test_the_estimate_reads_a_local_vaes_factor(tmp_path, vae, side):
    transformer = (folder("wan") / "transformer" / "config.json").read_text()
    for name, text in (("transformer", transformer), ("vae", json.dumps(vae))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    settings = settings_for("wan_1_3b")
    data = replace(settings.data, height=64, width=128, frames=5)
    figures = estimate(
        replace(settings, model=replace(settings.model, path=str(tmp_path)), data=data), 1, None, False
    )
    assert figures.tokens[1] == 2 * (64 // side) * (128 // side)


def test_the_estimate_counts_the_adapter_as_it_is_made():
    settings = settings_for("embedded_flux")
    pipe = ddit_ext.embedded.load("flux").pipeline
    sharded = estimate(settings, 8, 1.0, True)
    made = Adapter.create(pipe.transformer, scales=(2, 4), rank=settings.adapter.rank)
    figures = estimate(settings, 1, 1.0, False)
    with torch.device("meta"):  # where attention is counted; the CPU's own kernel for it is not
        whole = type(pipe.transformer).from_config(pipe.transformer.config)
        call = {
            "hidden_states": torch.zeros(1, 256, 16),
            "encoder_hidden_states": torch.zeros(1, 12, 96),
            "pooled_projections": torch.zeros(1, 64),
            "timestep": torch.ones(1),
            "img_ids": torch.zeros(256, 3),
            "txt_ids": torch.zeros(12, 3),
            "guidance": torch.ones(1),
        }
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        whole(**call)
    assert figures.tokens[1] == 256 and figures.flops[1] == counter.get_total_flops()
    assert sharded.memory["base"] == figures.memory["base"] / 8
    assert sharded.hours(1.0) == pytest.approx(figures.hours(1.0))  # eight times the samples on eight GPUs
    assert figures.adapter_parameters == sum(p.numel() for p in made.parameters())
    assert figures.base_parameters == sum(p.numel() for p in pipe.transformer.parameters())


def test_a_dry_run_trains_nothing(tmp_path, capsys):
    assert main(["train", str(config(tmp_path)), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "adapter: " in said and "memory a GPU, estimated" in said and "disk: the cache takes" in said
    assert "24 GB yes, 40 GB yes" in said and "in hours: RTX 4090" in said and "before you train" in said
    assert "first calls of a short forecast" in said
    assert not (tmp_path / "out").exists() and not (tmp_path / "cache").exists()
    assert main(["train", str(config(tmp_path)), "--dry-run", "--set", "model.path=some/other"]) == 1
    assert "--dry-run: model.path must be a local folder" in capsys.readouterr().err


def card_of(tmp_path, model, **output):
    tree = {
        "model": {"path": model},
        "data": {"source": "generated", "prompts": "p", "cache": "c", "height": 64, "width": 64},
        "output": {"folder": "o"} | output,
    }
    write_card(
        tmp_path, Adapter.create(tiny_flux(), rank=2), convert(tree, TrainSettings, ""), "some pictures"
    )
    text = (tmp_path / "README.md").read_text()
    return yaml.safe_load(text.split("---")[1]), text


def test_the_card_carries_the_licence_of_the_base(tmp_path):
    head, text = card_of(tmp_path, "black-forest-labs/FLUX.1-dev")
    assert head["license_name"] == "flux-1-dev-non-commercial-license" and "license_link" in head
    assert head["base_model"] == "black-forest-labs/FLUX.1-dev" and "some pictures" in text
    assert card_of(tmp_path, "who/knows")[0]["license"] == "unknown"
    assert "name it with output.licence" in card_of(tmp_path, "who/knows")[1]
    assert card_of(tmp_path, "who/knows", licence="mit")[0]["license"] == "mit"
    assert all(card.licence_of(name)["license"] != "unknown" for name in published())


class TransportError(Exception):
    """As httpx has it: neither an OSError nor a ValueError."""


@pytest.mark.parametrize("kind", [OSError, TransportError])
def test_a_failed_upload_says_where_the_adapter_is(tmp_path, monkeypatch, kind):
    class Unreachable(FakeHub):
        def create_repo(self, repository, **arguments):
            raise kind("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi", Unreachable)
    with pytest.raises(RuntimeError, match=f"someone/x could not be uploaded: no route.*is in {tmp_path}"):
        card.push(tmp_path, "someone/x", True)


def test_samples_begin_coarse_and_end_fine():
    assert coarse_first((2, 4), 6) == [4, 4, 2, 2, 1, 1]
    assert coarse_first((2,), 3) == [2, 2, 1]
