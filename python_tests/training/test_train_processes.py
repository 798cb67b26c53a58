"""Two processes train as one does with the whole batch, with the base whole or sharded."""

import json
from pathlib import Path

import pytest
import torch
from processes import run_together
from tiny_flux import tiny_flux
from training_process import mixed_sizes, train

from ddit_ext.coarse import Adapter
from ddit_ext.training.checkpoint import checkpoints

PROGRAM = Path(__file__).parents[1] / "helpers" / "training_process.py"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of all runs."""
    folder = tmp_path_factory.mktemp("runs")
    threads = torch.get_num_threads()
    train(folder / "alone")
    train(folder / "alone_mixed", data=mixed_sizes(folder / "alone_cache"))
    torch.set_num_threads(threads)
    run_together(PROGRAM, folder, 2)
    return folder


@pytest.mark.parametrize(
    ("one", "several"), [("alone", "whole"), ("alone_mixed", "mixed"), ("alone", "sharded")]
)
def test_two_processes_train_as_one_with_the_whole_batch(runs, one, several):
    names = (one, several)
    logs = [
        [json.loads(line) for line in (runs / name / "log.jsonl").read_text().splitlines()] for name in names
    ]
    assert [[line["step"] for line in log] for log in logs] == [[1, 2, 3]] * 2
    for alone, together in zip(*logs, strict=True):
        assert together["loss"] == pytest.approx(alone["loss"], rel=1e-5)
        assert together["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-4)
        assert together["scales"].keys() == alone["scales"].keys()
        for scale, entry in together["scales"].items():
            assert entry["levels"] == pytest.approx(alone["scales"][scale]["levels"], rel=1e-5)
    stored = [Adapter.load(runs / name / "adapter", tiny_flux()) for name in names]
    for ours, theirs in zip(*(adapter.parameters() for adapter in stored), strict=True):
        apart = ~torch.isclose(ours, theirs, atol=1e-4, rtol=1e-3)
        # Adam divides by the gradient's own size: where that is all rounding, so is the step.
        assert apart.sum() <= ours.numel() / 10_000
        torch.testing.assert_close(ours, theirs, atol=5e-4, rtol=1e-3)  # a sixth of one step


def test_a_sharded_run_that_was_stopped_ends_as_one_that_was_not(runs):
    stopped = checkpoints(runs / "resumed")
    assert [path.name for path in stopped] == ["step-00000003.safetensors", "step-00000002.safetensors"]
    lines = [(runs / name / "log.jsonl").read_text().splitlines() for name in ("sharded", "resumed")]
    for through, resumed in zip(*([json.loads(line) for line in log] for log in lines), strict=True):
        assert resumed | {"seconds": 0} == through | {"seconds": 0}
    stored = [Adapter.load(runs / name / "adapter", tiny_flux()) for name in ("sharded", "resumed")]
    for ours, theirs in zip(*(adapter.parameters() for adapter in stored), strict=True):
        assert torch.equal(ours, theirs)


def test_processes_that_do_not_share_the_folder_are_told(runs):
    for rank in range(2):
        told = (runs / f"unshared-{rank}.txt").read_text()
        assert told.startswith("out_dir: expected a folder that all processes share")
        assert "checkpoints of step 0 for one process and of step 3 for another" in told
