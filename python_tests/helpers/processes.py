"""The test programs whose processes meet on this machine: how a test runs one, and how it forks."""

import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import ddit_ext


def import_path() -> str:
    """PYTHONPATH of a test program: the package that is under test, and what this process was given."""
    package = str(Path(ddit_ext.__file__).parents[1])
    return os.pathsep.join([package, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)


def run_together(program: Path, folder: Path, processes: int) -> None:
    """Run a program that forks so many processes and writes to the folder; its errors are the test's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {
        "PYTHONPATH": import_path(),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",  # they meet over gloo; a mesh of ranks would take a GPU that is there
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


def fork(take_part: Callable[[Path, int, int], None]) -> None:
    """What such a program is: take_part(folder, rank, processes) in each process; the status is 1 where one failed."""
    folder, processes = Path(sys.argv[1]), int(sys.argv[2])
    started = []
    for rank in range(processes):
        started.append(os.fork())
        if not started[-1]:
            try:
                take_part(folder, rank, processes)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
    raise SystemExit(max(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) != 0 for process in started))
