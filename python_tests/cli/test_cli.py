"""The `ddit` command."""

import argparse
import re
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from flux_pipelines import make_pipeline
from presets import make_preset

import ddit_ext
from ddit_ext import calibration, cli
from ddit_ext.cli import calibrate as command
from ddit_ext.embedded import weights
from ddit_ext.training.data.prepare import read_prompts

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\n\n  a dog on blue dots  \n", encoding="utf-8")
    return path


def test_info(capsys):
    assert cli.main(["info"]) == 0
    shown = capsys.readouterr().out
    assert ddit_ext.__version__ in shown and torch.__version__ in shown


def test_the_command_is_declared():
    declared = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    assert re.search(r'^\[project.scripts\]\nddit = "ddit_ext.cli:main"$', declared, flags=re.MULTILINE)


def test_help_names_the_subcommands(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "calibrate" in shown and "info" in shown


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["calibrate"], ["calibrate", "x", "--prompts", "y"]])
def test_arguments_that_cannot_be_read(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "usage: ddit" in capsys.readouterr().err


def test_prompts(prompts, tmp_path):
    assert read_prompts(prompts) == ["a cat", "a dog on blue dots"]
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ValueError, match="empty.txt holds no prompt"):
        read_prompts(tmp_path / "empty.txt")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model": "no/such/folder"}, "model must be .*no/such/folder"),
        ({"model": "embedded:nothing"}, "nothing"),
        ({"model": str(Path(__file__).parent)}, "model must be .*a folder with a model_index.json"),
        (
            {"model": "nobody/no-such-model"},
            "in the hub's local cache.*not in the cache: hf download nobody/no-such-model",
        ),
        (
            {"--device": "cpu", "--offload": None},
            "--offload needs a CUDA device to bring models to, got --device cpu",
        ),
        ({"--device": "cuda:0"}, "--device cuda:0: this torch finds no CUDA device here"),
        (
            {"--prompts": "no/such/file"},
            "--prompts must be a text file with one prompt a line, got no/such/file",
        ),
        ({"--out": "no/such/folder/preset.json"}, "there is no folder .*no/such/folder"),
        ({"--html": "no/such/folder/page.html"}, "there is no folder"),
        ({"--out": str(Path(__file__).parent)}, "--out and --html must be files, got the folder .*cli"),
    ],
)
def test_errors_go_to_stderr_before_anything_runs(prompts, tmp_path, changes, text, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(calibration, "calibrate", lambda *args, **settings: pytest.fail("it ran"))
    given = {
        "model": "embedded:flux",
        "--prompts": str(prompts),
        "--out": str(tmp_path / "p.json"),
        **changes,
    }
    arguments = ["calibrate", given.pop("model"), *(word for pair in given.items() for word in pair if word)]
    assert cli.main(arguments) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("ddit: ")
    assert re.search(text, shown.err)
    assert not (tmp_path / "p.json").exists()


def test_calibrate_passes_everything_on(prompts, tmp_path, monkeypatch, capsys):
    pipe = make_pipeline()
    preset = make_preset(pipe)
    seen = {}

    def record(pipe, prompts, **settings):
        seen.update(settings, pipe=pipe, prompts=prompts)
        return preset

    monkeypatch.setattr(calibration, "calibrate", record)
    monkeypatch.setattr(command, "load", lambda arguments: (pipe, "folder"))
    out, page = tmp_path / "preset.json", tmp_path / "page.html"
    assert (
        cli.main(
            f"calibrate model --prompts {prompts} --target-speedup 2.5 --out {out} --html {page} --steps 20 --height 32 "
            "--guidance-scale 3.5 --batch-size 2 --seed 7 --scales 1 2 --target exact".split()
        )
        == 0
    )
    assert seen == dict(
        pipe=pipe,
        prompts=["a cat", "a dog on blue dots"],
        adapter="folder",
        target_speedup=2.5,
        target="exact",
        scales=[1, 2],
        batch_size=2,
        seed=7,
        num_inference_steps=20,
        height=32,
        guidance_scale=3.5,
    )
    assert ddit_ext.Preset.load(out) == preset
    assert page.read_text().startswith("<!doctype html>")
    told = capsys.readouterr().out
    assert (
        preset.explanation in told
        and f"wrote {out}, {page}. Use it with ddit_ext.patch(pipe, 'folder'" in told
    )


def test_an_embedded_model_brings_its_adapter():
    settings = dict(model="embedded:flux", dtype=None, device=None, offload=False)
    pipe, adapter = command.load(argparse.Namespace(**settings, adapter=None))
    assert adapter.is_dir() and pipe.transformer.dtype == torch.float32
    _, adapter = command.load(argparse.Namespace(**settings, adapter="none"))
    assert adapter is None


@pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated")
def test_a_folder_of_a_model():
    folder = weights.folder("flux")
    arguments = argparse.Namespace(
        model=str(folder), dtype="bfloat16", device="cpu", adapter=None, offload=False
    )
    pipe, adapter = command.load(arguments)
    assert type(pipe) is FluxPipeline and adapter is None and pipe.transformer.dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated")
def test_a_model_of_the_local_cache(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--somebody--tiny" / "snapshots" / "0123"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(weights.folder("flux"), target_is_directory=True)
    (tmp_path / "models--somebody--tiny" / "refs").mkdir()
    (tmp_path / "models--somebody--tiny" / "refs" / "main").write_text("0123")
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    arguments = argparse.Namespace(
        model="somebody/tiny", dtype=None, device="cpu", adapter=None, offload=False
    )
    pipe, _ = command.load(arguments)
    assert type(pipe) is FluxPipeline


def test_offloading_is_left_to_the_pipeline(monkeypatch):
    pipe, brought = make_pipeline(), []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(command, "_pretrained", lambda model, dtype: pipe)
    monkeypatch.setattr(pipe, "enable_model_cpu_offload", lambda device: brought.append(device))
    arguments = argparse.Namespace(model="folder", dtype=None, device=None, adapter=None, offload=True)
    assert command.load(arguments) == (pipe, None) and brought == ["cuda"]
    assert pipe.transformer.device == torch.device("cpu")
