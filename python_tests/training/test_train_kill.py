"""kill -9 at random moments: what is on disk is whole, and the run comes to the same end, bit for bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from processes import import_path
from safetensors.torch import load_file

PROGRAM = Path(__file__).parents[1] / "helpers" / "kill_moments.py"
MOMENTS = int(os.environ.get("DDIT_KILL_MOMENTS", "2"))


def test_a_killed_run_comes_to_the_same_end(tmp_path):
    where = {"PYTHONPATH": import_path(), "OMP_NUM_THREADS": "1"}
    where |= {"CUDA_VISIBLE_DEVICES": ""}  # bit for bit holds on a CPU
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path), str(MOMENTS), "7"],
        env=os.environ | where,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout.splitlines()[-1])["killed"]) == MOMENTS
    files = ("adapter/adapter.safetensors", "checkpoints/step-00000006.safetensors")
    wanted = {name: load_file(tmp_path / "through" / name) for name in files}
    for number in range(MOMENTS):
        folder = tmp_path / f"killed-{number}"
        for name in files:  # tensors, not bytes: safetensors writes a file's metadata in any order
            found = load_file(folder / name)
            assert found.keys() == wanted[name].keys()
            assert all(torch.equal(tensor, wanted[name][key]) for key, tensor in found.items())
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [2, 4, 6]
        assert not list(folder.rglob(".*.partial"))
