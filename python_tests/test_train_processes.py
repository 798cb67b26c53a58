"""Two processes train as one does with the whole batch, with the base whole or sharded."""

import json
from pathlib import Path

import pytest
import torch
from processes import run_together
from tiny_flux import tiny_flux
from training_process import train

from ddit_ext.multiscale import Adapter

PROGRAM = Path(__file__).with_name("training_process.py")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of all three runs."""
    folder = tmp_path_factory.mktemp("runs")
    threads = torch.get_num_threads()
    train(folder / "alone")
    torch.set_num_threads(threads)
    run_together(PROGRAM, folder, 2)
    return folder


@pytest.mark.parametrize("base", ["whole", "sharded"])
def test_two_processes_train_as_one_with_the_whole_batch(runs, base):
    logs = [
        [json.loads(line) for line in (runs / name / "log.jsonl").read_text().splitlines()]
        for name in ("alone", base)
    ]
    assert [[line["step"] for line in log] for log in logs] == [[1, 2, 3]] * 2
    for alone, together in zip(*logs, strict=True):
        assert together["loss"] == pytest.approx(alone["loss"], rel=1e-5)
        assert together["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-4)
        assert together["scales"].keys() == alone["scales"].keys()
        for scale, entry in together["scales"].items():
            assert entry["levels"] == pytest.approx(alone["scales"][scale]["levels"], rel=1e-5)
    stored = [Adapter.load(runs / name / "adapter", tiny_flux()) for name in ("alone", base)]
    for ours, theirs in zip(*(adapter.parameters() for adapter in stored), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
