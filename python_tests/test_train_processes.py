"""Several processes, accumulation and sharding train as one process does with the whole batch."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_flux import tiny_flux

from ddit_ext.multiscale import Adapter

PROGRAM = Path(__file__).with_name("training_process.py")
CONFIG = {"steps": 4, "lr": 3e-3, "warmup": 2, "log_every": 1, "ema": 0.9, "normalise": "level"}


def train(folder, *, processes=1, shard=False, **changes):
    """The log and the adapter of a run of ``processes`` processes on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        str(PROGRAM),
        str(folder),
        json.dumps(CONFIG | changes),
        *(["--shard"] * shard),
    ]
    started = []
    for rank in range(processes):
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        if processes > 1:
            place |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        started.append(
            subprocess.Popen(
                command, env=os.environ | place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    said = [process.communicate(timeout=300)[0] for process in started]
    assert all(process.returncode == 0 for process in started), "\n".join(said)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return log, Adapter.load(folder / "adapter", tiny_flux())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return train(tmp_path_factory.mktemp("alone"), noise_range={4: (0.6, 1.0)})


@pytest.mark.parametrize("shard", [False, True], ids=["whole base", "sharded base"])
def test_two_processes_train_as_one_with_the_whole_batch(tmp_path, alone, shard):
    log, adapter = train(tmp_path, processes=2, shard=shard, noise_range={4: (0.6, 1.0)})
    assert [line["step"] for line in log] == [1, 2, 3, 4]
    for ours, theirs in zip(log, alone[0], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
        assert ours["scales"].keys() == theirs["scales"].keys()
    for a, b in zip(adapter.parameters(), alone[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
