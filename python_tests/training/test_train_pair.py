"""Wan 2.2's two transformers: each over its own noise levels, one folder that `patch` reads."""

import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch
import yaml
from wan_pipelines import make_call, make_pipeline, make_text, run, size

import ddit_ext
from ddit_ext.cli import main
from ddit_ext.coarse import Adapter
from ddit_ext.training import DistillConfig
from ddit_ext.training.checkpoint import checkpoints
from ddit_ext.training.estimate import estimate
from ddit_ext.training.pair import config_of
from ddit_ext.training.settings_file import read_settings
from ddit_ext.training.trainer import Trainer


def test_ranges_are_cut_to_what_each_transformer_is_used_at():
    config = DistillConfig(noise_range={2: (0.3, 1.0), 4: (0.9, 1.0)})
    high, low = (config_of(name, config, (2, 4), 0.8) for name in ("transformer", "transformer_2"))
    assert high.noise_range == {2: (0.8, 1.0), 4: (0.9, 1.0)}
    assert low.noise_range == {2: (0.3, 0.8), 4: (0.02, 0.8)}  # 4p lies wholly with the other one
    assert config_of("transformer", config, (2, 4), None) is config


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The tiny pair as a folder of diffusers; its boundary is 0.8."""
    folder = tmp_path_factory.mktemp("wan22")
    pipe = make_pipeline("two")
    pipe.register_modules(**make_text())
    pipe.save_pretrained(folder)
    return folder


def config(tmp_path, model, **output):
    (tmp_path / "prompts.txt").write_text("a pizza\na cat on red\n")
    tree = {
        "model": {"path": str(model), "dtype": "float32"},
        "adapter": {"scales": [2], "rank": 2},
        "data": size(2, 2)
        | {
            "source": "generated",
            "prompts": str(tmp_path / "prompts.txt"),
            "cache": str(tmp_path / "cache"),
            "frames": 5,
            "max_sequence_length": 6,
            "batch": 4,
            "generate": {"steps": 6, "states": 6, "guidance_scale": 3.0},
        },
        "training": {"steps": 2, "log_every": 1},
        "output": {"folder": str(tmp_path / "out"), "trackers": []} | output,
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def levels(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {float(level) for line in lines for entry in line["scales"].values() for level in entry["levels"]}


def test_a_pair_is_trained_and_read_as_one_folder(tmp_path, model, capsys):
    path = config(tmp_path, model)
    assert main(["train", str(path)]) == 0, capsys.readouterr().err
    out = tmp_path / "out"
    assert min(levels(out / "transformer")) >= 0.8 > max(levels(out / "transformer_2"))
    assert (out / "adapter" / "README.md").is_file()
    pipe = make_pipeline("two")
    for name in ("transformer", "transformer_2"):
        trained = Adapter.load(out / "adapter" / name, getattr(pipe, name))
        fresh = Adapter.create(getattr(pipe, name), scales=(2,), rank=2)
        assert not torch.equal(trained.own(2).embed_weight, fresh.own(2).embed_weight)
    ddit_ext.patch(pipe, out / "adapter", scales=(1, 2), schedule=2)
    assert run(pipe, make_call("two")).isfinite().all()
    assert main(["train", str(path)]) == 1 and "--resume" in capsys.readouterr().err
    assert main(["train", str(path), "--resume", "--set", "training.steps=3"]) == 0
    for name in ("transformer", "transformer_2"):
        assert checkpoints(out / name)[0].name == "step-00000003.safetensors"


def test_the_estimate_counts_both_transformers(tmp_path, model):
    settings = read_settings(config(tmp_path, model))
    alone = tmp_path / "alone"
    shutil.copytree(model, alone)
    index = json.loads((alone / "model_index.json").read_text())
    (alone / "model_index.json").write_text(json.dumps(index | {"transformer_2": [None, None]}))
    both = estimate(settings, 1, None, False)
    one = estimate(replace(settings, model=replace(settings.model, path=str(alone))), 1, None, False)
    assert both.hours(1.0) == 2 * one.hours(1.0) > 0 and both.memory == one.memory
    assert "two transformers, trained one after the other" in str(both)
    assert "two transformers" not in str(one)


def test_a_signal_in_the_last_step_of_the_first_ends_the_second_too(tmp_path, model, monkeypatch):
    step = Trainer.step

    def interrupted(self, number, batches):
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, number, batches)

    monkeypatch.setattr(Trainer, "step", interrupted)
    assert main(["train", str(config(tmp_path, model))]) == 143
    last = [checkpoints(tmp_path / "out" / name)[0].name for name in ("transformer", "transformer_2")]
    assert last == ["step-00000002.safetensors", "step-00000001.safetensors"]


def test_what_a_pair_cannot_have_is_said(tmp_path, model, capsys):
    assert main(["train", str(config(tmp_path, model, sample_every=1, sample_prompts=["a cat"]))]) == 1
    assert "output.sample_every must be 0 for a model of two transformers" in capsys.readouterr().err
    index = json.loads((model / "model_index.json").read_text())
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model_index.json").write_text(json.dumps(index | {"boundary_ratio": None}))
    assert main(["train", str(config(tmp_path, broken))]) == 1
    assert "two transformers, but boundary_ratio of its pipeline" in capsys.readouterr().err
    (broken / "model_index.json").write_text(
        json.dumps(index | {"transformer": ["diffusers", "MochiTransformer3DModel"]})
    )
    assert main(["train", str(config(tmp_path, broken))]) == 1
    said = capsys.readouterr().err
    assert "model.path: expected a model of the families FLUX (FluxTransformer2DModel); " in said
    assert "is a MochiTransformer3DModel" in said
