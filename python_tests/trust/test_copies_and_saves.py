"""What a user saves, pickles or copies of a patched pipeline is his own: it works where ddit_ext is not installed."""

import copy
import json
import pickle
import subprocess
import sys

import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline
from flux_pipelines import make_call, make_pipeline, run

import ddit_ext
from ddit_ext import Forecast, ForecastScheduler

pytestmark = pytest.mark.filterwarnings("ignore")

CALL = make_call(steps=6)
WITHOUT = dict.fromkeys(
    ["text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "image_encoder", "feature_extractor"]
)
SETTINGS = {
    "forecast": dict(schedule=Forecast(calls=3)),
    "forecast with larger patches": dict(schedule=Forecast(calls=3, sizes=2)),
    "skipped": dict(schedule=[1, 1, 0, 1, 0, 1]),
    "coarse": dict(schedule=[1, 1, 2, 2, 1, 1]),
}
ALONE = """
import builtins, pickle, sys
real = builtins.__import__
def without(name, *rest, **more):
    assert not name.startswith("ddit_ext"), name
    return real(name, *rest, **more)
builtins.__import__ = without
with open(sys.argv[1], "rb") as file:
    pipe = pickle.load(file)
assert type(pipe.scheduler).__module__.startswith("diffusers."), type(pipe.scheduler)
assert not any(name.startswith("ddit_ext") for name in sys.modules)
"""


@pytest.fixture(params=SETTINGS)
def patched(request):
    """A pipeline that has run, patched; and what it gives without."""
    pipe = make_pipeline()
    plain = run(pipe, CALL)
    ddit_ext.patch(pipe, **SETTINGS[request.param])
    run(pipe, CALL)
    return pipe, plain


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def load(folder):
    loaded = DiffusionPipeline.from_pretrained(folder, **WITHOUT)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_saved_files_are_those_of_the_plain_pipeline(patched, tmp_path):
    make_pipeline().save_pretrained(tmp_path / "plain")
    pipe, plain = patched
    pipe.save_pretrained(tmp_path / "patched")
    ddit_ext.unpatch(pipe)
    pipe.save_pretrained(tmp_path / "unpatched")
    assert files(tmp_path / "patched") == files(tmp_path / "unpatched") == files(tmp_path / "plain")
    torch.testing.assert_close(run(load(tmp_path / "patched"), CALL), plain)


@pytest.mark.parametrize("unpatched", [False, True], ids=["patched", "unpatched"])
@pytest.mark.parametrize(
    "made", [lambda pipe: FluxPipeline(**pipe.components), FluxPipeline.from_pipe], ids=["init", "from_pipe"]
)
def test_a_pipeline_that_is_made_from_it_saves_the_same_files(patched, made, unpatched, tmp_path):
    pipe, plain = patched
    second = made(pipe)
    assert b"ddit_ext" not in pickle.dumps(second)
    assert torch.equal(run(copy.deepcopy(second), CALL), plain)
    if unpatched:
        ddit_ext.unpatch(pipe)
    second.save_pretrained(tmp_path / "second")
    made(make_pipeline()).save_pretrained(tmp_path / "plain")
    assert files(tmp_path / "second") == files(tmp_path / "plain")
    torch.testing.assert_close(run(load(tmp_path / "second"), CALL), plain)


def test_a_pickle_knows_nothing_of_the_patch(patched, tmp_path):
    pipe, plain = patched
    data = pickle.dumps(pipe)
    assert b"ddit_ext" not in data
    assert torch.equal(run(pickle.loads(data), CALL), plain)
    path = tmp_path / "pipe.pickle"
    path.write_bytes(data)
    subprocess.run([sys.executable, "-c", ALONE, str(path)], check=True)


def test_a_deep_copy_is_as_unpatched(patched):
    pipe, plain = patched
    want = run(pipe, CALL)
    copied = copy.deepcopy(pipe)
    assert torch.equal(run(copied, CALL), plain)
    with pytest.raises(RuntimeError, match="not patched"):
        ddit_ext.unpatch(copied)
    assert torch.equal(run(pipe, CALL), want)


def test_a_deep_copy_in_the_middle_of_a_run(patched):
    pipe, plain = patched
    want, copies = run(pipe, CALL), []

    def keep(pipe, index, timestep, kwargs):
        copies.append(copy.deepcopy(pipe))
        return kwargs

    assert torch.equal(run(pipe, CALL | {"callback_on_step_end": keep}), want)
    assert all(torch.equal(run(each, CALL), plain) for each in copies)


def test_a_request_with_a_copy_of_the_sampler_goes_on_forecasting():
    pipe = make_pipeline()
    ddit_ext.patch(pipe, **SETTINGS["forecast"])
    want = run(pipe, CALL)
    for copying in (copy.copy, copy.deepcopy):
        request = copy.copy(pipe)
        request.scheduler = copying(pipe.scheduler)
        assert torch.equal(run(request, CALL), want)


@pytest.mark.parametrize("schedule", [[1, 1, 2, 1, 1, 1], Forecast(calls=2)], ids=["coarse", "forecast"])
def test_a_scheduler_of_the_users_own_saves_itself(tmp_path, schedule):
    pipe = make_pipeline()
    pipe.scheduler = ForecastScheduler.from_scheduler(pipe.scheduler, calls=3)
    want = run(pipe, CALL)
    with ddit_ext.patch(pipe, schedule=schedule):
        pipe = FluxPipeline(**pipe.components)
        pipe.save_pretrained(tmp_path)
        copied, pickled = copy.deepcopy(pipe), pickle.loads(pickle.dumps(pipe))
    assert json.loads((tmp_path / "model_index.json").read_text())["scheduler"][1] == "ForecastScheduler"
    for each in (copied, pickled, load(tmp_path)):
        assert isinstance(each.scheduler, ForecastScheduler)
        torch.testing.assert_close(run(each, CALL), want)


def test_the_patched_sampler_alone(tmp_path):
    """Saved by itself it is the user's own; a copy that was taken for a request saves itself."""
    pipe = make_pipeline()
    ddit_ext.patch(pipe, **SETTINGS["forecast"])
    pipe.scheduler.save_pretrained(tmp_path / "patched")
    copy.deepcopy(pipe.scheduler).save_pretrained(tmp_path / "copy")
    saved = json.loads((tmp_path / "patched" / "scheduler_config.json").read_text())
    assert saved["_class_name"] == "FlowMatchEulerDiscreteScheduler" and "calls" not in saved
    assert ForecastScheduler.from_pretrained(tmp_path / "copy").config["calls"] == 3
