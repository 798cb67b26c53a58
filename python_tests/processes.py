"""Runs one of the test programs whose processes meet on this machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import ddit_ext


def run_together(program: Path, folder: Path, processes: int) -> None:
    """Run a program that forks so many processes and writes to the folder; its errors are the test's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {
        "PYTHONPATH": str(Path(ddit_ext.__file__).parents[1]),  # the package that is under test
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    done = subprocess.run(
        [sys.executable, str(program), str(folder), str(processes)],
        env=os.environ | place,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
