"""The parts of benchmarks/gpu_check.py: its driver with stages that go wrong, and what it reads, chooses and counts."""

import json
import sys
import zipfile
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


WRITES = """
import json, pathlib, sys, time
file = pathlib.Path({folder!r}) / ({name!r} + ".json")
file.write_text(json.dumps({{"status": "running", "results": {{"found": 1}}, "problems": []}}))
{then}
"""


def stage(folder: Path, name: str, then: str, limit: float = 60.0):
    from gpu.driver import Stage

    code = WRITES.format(folder=str(folder), name=name, then=then)
    return Stage(name, limit, lambda seconds: [sys.executable, "-S", "-c", code])


PASS = "file.write_text(file.read_text().replace('running', 'passed'))"


def run_stages(folder: Path, *groups, total: float = 60.0):
    from gpu.driver import Report, run_groups

    report = Report(folder, {}, [each.name for group in groups for each in group])
    report.out = folder / "out.json"
    run_groups(groups, report, total, {})
    return report, json.loads(report.out.read_text())["stages"]


def test_a_stage_that_crashes_keeps_what_it_found_and_stops_nothing(tmp_path):
    crash = stage(tmp_path, "crash", "import os; os.abort()")
    report, stages = run_stages(tmp_path, [crash], [stage(tmp_path, "next", PASS)])
    assert stages["crash"]["status"] == "failed" and stages["crash"]["reason"] == "ended with status -6"
    assert stages["crash"]["results"] == {"found": 1}
    assert stages["next"]["status"] == "passed"
    assert report.failed() == ["crash"]


def test_a_stage_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    child = "import time; time.sleep(100)"
    then = f"""
import subprocess
child = subprocess.Popen([sys.executable, "-S", "-c", {child!r}])
pathlib.Path({str(tmp_path / "child")!r}).write_text(str(child.pid))
child.wait()
"""
    groups = [stage(tmp_path, "hang", then, limit=4.0)], [stage(tmp_path, "next", PASS, limit=60.0)]
    report, stages = run_stages(tmp_path, *groups, total=64.0)
    assert stages["hang"]["status"] == "timeout" and stages["hang"]["results"] == {"found": 1}
    assert stages["next"]["status"] == "passed"
    assert report.failed() == ["hang"]
    assert not alive(int((tmp_path / "child").read_text()))


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


def test_a_kill_in_the_middle_loses_nothing(tmp_path):
    """The JSON on the disk has what a stage that is still running has written."""
    from gpu.driver import Report

    report = Report(tmp_path, {}, ["ops", "steps"])
    report.out = tmp_path / "out.json"
    (tmp_path / "ops.json").write_text('{"status": "running", "results": {"found": 1}}')
    report.refresh(["ops"])
    stages = json.loads(report.out.read_text())["stages"]
    assert stages == {
        "ops": {"status": "running", "results": {"found": 1}},
        "steps": {"status": "not run"},
    }
    assert report.failed() == ["ops", "steps"]


def test_a_problem_fails_the_stage_that_goes_on(tmp_path):
    from gpu.part import Part, read

    part = Part(tmp_path, "ops", "cpu", True, 10.0)
    part.problem("patch_embed: wrong")
    part.add(cases=[1])
    part.finish()
    record = read(tmp_path / "ops.json")
    assert (record["status"], record["problems"]) == ("failed", ["patch_embed: wrong"])
    assert record["results"] == {"cases": [1]}


LOG = """\
python_tests/test_a.py::test_one PASSED                                  [ 20%]
python_tests/test_a.py::test_two[a b-cuda] FAILED                        [ 40%]
python_tests/test_a.py::test_three SKIPPED (this build has no GPU)       [ 60%]
[gw1] [ 80%] PASSED python_tests/test_b.py::test_four[x-1]
[gw0] [100%] ERROR python_tests/test_b.py::test_five
=========================== short test summary info ============================
FAILED python_tests/test_a.py::test_two[a b-cuda] - AssertionError: no
"""


def test_outcomes_are_read_from_the_log_of_a_suite_that_was_stopped():
    from gpu.tests import counts

    whole = counts(LOG)
    assert whole["outcomes"] == {"passed": 2, "failed": 1, "skipped": 1, "error": 1}
    assert whole["failures"] == [
        "python_tests/test_a.py::test_two[a b-cuda]",
        "python_tests/test_b.py::test_five",
    ]
    assert whole["reasons"] == ["python_tests/test_a.py::test_two[a b-cuda] - AssertionError: no"]
    assert counts(LOG[: LOG.index("[gw1]")])["outcomes"] == {"passed": 1, "failed": 1, "skipped": 1}


def test_the_sanitizer_gets_tests_that_run_kernels_on_the_gpu():
    from gpu.sanitizer import select

    file = "python_tests/test_patch_embed.py"
    cuda = [f"{file}::test_grids[{grid}-cuda]" for grid in range(10)]
    others = [f"{file}::test_grids[0-cpu]", f"{file}::test_compile[cuda]", f"{file}::test_threads_agree"]
    assert select(cuda + others, [file], 3) == [cuda[0], cuda[3], cuda[6]]
    assert select(others, [file], 3) == []
    many = f"{file}::test_many_blocks[patch_embed-cuda]"
    assert select([*cuda, many, *others], [file], 1) == [cuda[0], many]


def test_wheels_are_unpacked_in_front_of_the_path(tmp_path):
    from gpu.wheels import unpack

    folder, site = tmp_path / "wheels", tmp_path / "site"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match="expected a folder with .*whl files, got"):
        unpack(folder, site)
    with zipfile.ZipFile(folder / "thing-1-py3-none-any.whl", "w") as archive:
        archive.writestr("thing/__init__.py", "answer = 42\n")
    assert unpack(folder, site) == ["thing-1-py3-none-any.whl"]
    assert (site / "thing" / "__init__.py").read_text() == "answer = 42\n"
    (folder / "broken-1-py3-none-any.whl").write_text("no archive")
    with pytest.raises(zipfile.BadZipFile, match="broken-1.* is not a wheel"):
        unpack(folder, site)


def test_architectures():
    from gpu.build import arch_of

    assert [arch_of(c) for c in ("8.0", "8.9", "9.0", "12.0")] == ["8.0", "8.9", "9.0a", "12.0a"]


def test_the_interval_of_a_median_holds_with_95_percent():
    """Checked against the binomial distribution by counting all orders of heads and tails."""
    from math import comb

    from _timing import median_interval

    for count in (6, 9, 20, 31):
        low, high = median_interval(list(range(count)))
        assert low + high == count - 1
        beyond = 2 * sum(comb(count, k) for k in range(low + 1)) / 2**count
        one_closer = 2 * sum(comb(count, k) for k in range(low + 2)) / 2**count
        assert beyond <= 0.05 < one_closer
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)


def test_floors_take_the_larger_of_bytes_and_operations():
    import torch
    from gpu.floors import floor, linear_flops
    from gpu.shapes import Shape

    ceilings = {"copy": {"bytes_per_s": 1e12}, "bfloat16": {"flops_per_s": 1e14}}
    assert floor(ceilings, 10**9, 10**9, torch.bfloat16) == {
        "bytes": 10**9,
        "flops": 10**9,
        "floor_s": 1e-3,
        "bound": "bytes",
    }
    assert floor(ceilings, 10**6, 10**12, torch.bfloat16)["bound"] == "flops"
    assert floor({}, 1, 1, torch.bfloat16)["floor_s"] is None
    shape = Shape("FLUX 1024x1024", 1, 64, 64, 3072, True)
    assert linear_flops(shape, 1, 2, lora=False) == 2 * 1024 * 256 * 3072
    assert linear_flops(shape, 1, 2, lora=True) == 2 * (1024 * 256 * 3072 + 32 * 256 * 3072)


class FakeCuda:
    """A device whose clock is told by hand: sleeping takes cycles, a call takes `host` on the host."""

    def __init__(self, host: int, waits: bool) -> None:
        self.host, self.waits, self.busy_until, self.now = host, waits, 0, 0

    def call(self) -> None:
        self.now += self.host
        if self.waits:
            self.now = max(self.now, self.busy_until) + 1


def test_the_device_clock_sleeps_until_the_host_has_queued_a_call(monkeypatch):
    from gpu import clock

    def sleeps_for(host: int, waits: bool) -> int:
        fake, used = FakeCuda(host, waits), []
        timer = object.__new__(clock.DeviceClock)
        timer._sleeps = clock.WeakKeyDictionary()

        def once(call, sleep):
            fake.busy_until = fake.now + sleep
            call()
            used.append(sleep)
            return 1.0, fake.now < fake.busy_until

        monkeypatch.setattr(timer, "_once", once)

        def call():
            fake.call()

        assert timer(call) == 1.0
        return used[-1]

    assert sleeps_for(host=1000, waits=False) == 2 * clock.FIRST_SLEEP
    slow = sleeps_for(host=5 * clock.FIRST_SLEEP, waits=False)
    assert slow == 16 * clock.FIRST_SLEEP
    assert sleeps_for(host=1000, waits=True) == clock.FIRST_SLEEP


def test_the_environment_is_told_before_the_package_is_built(tmp_path, monkeypatch):
    from gpu import environment
    from gpu.part import Part

    monkeypatch.setitem(sys.modules, "ddit_ext", None)  # an import of it raises ImportError
    part = Part(tmp_path, "environment", "cpu", True, 60.0)
    environment.run(part)
    assert part.results["device_name"].startswith("CPU, ") and part.results["versions"]["torch"]
    assert part.results["cpu"] == part.results["device_name"]


def test_the_kernels_tests_are_there_to_be_run_first():
    from gpu.part import ROOT
    from gpu.tests import KERNEL_FILES, kernel_files

    files = kernel_files()
    assert len(files) >= len(KERNEL_FILES) and all((ROOT / file).is_file() for file in files)


def test_eager_runs_come_before_blocks_are_compiled():
    """They stay compiled; and what matters most comes first, since the time may be up."""
    from types import SimpleNamespace

    from gpu.flux import _order

    def call():
        return None

    case = SimpleNamespace(fine=call, coarse={"2p": call, "2p, LoRA": call})
    order = [name for name, _ in _order(SimpleNamespace(tiny=True), case)]
    assert order[:5] == ["profile", "eager", "runs", "graphs", "runs with graphs"]
    assert order.index("eager, LoRA") < order.index("compiled, LoRA")


NCU = """==PROF== Connected to process 7
==PROF== Disconnected from process 7
"ID","Process ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"
"0","7","move_patches<true, 4, 2>(Moves)","GPU Speed Of Light Throughput","Duration","us","2.43"
"0","7","move_patches<true, 4, 2>(Moves)","Occupancy","Achieved Occupancy","%","41.2"
"0","7","move_patches<true, 4, 2>(Moves)","Occupancy","","",""
"1","7","acceleration_quantiles_kernel<float, 2, 1>(Task)","Occupancy","Achieved Occupancy","%","20.1"
"""


def test_counters_are_read_from_ncu():
    from gpu.ncu import metrics

    assert metrics(NCU) == [
        {"kernel": "move_patches<true, 4, 2>", "Duration, us": "2.43", "Achieved Occupancy, %": "41.2"},
        {"kernel": "acceleration_quantiles_kernel<float, 2, 1>", "Achieved Occupancy, %": "20.1"},
    ]
    assert metrics("==ERROR== no permission") == []


def test_the_share_of_time_that_the_device_works():
    from gpu.device_time import summary

    # Two calls: a gap of 4 µs, and two kernels beside each other.
    events = [("a", 0, 4), ("b", 8, 12), ("a", 10, 14), ("b", 14, 16)]
    seen = summary(reversed(events), 2)
    assert seen["busy"] == 12 / 16 and seen["wall_ms"] == 8e-3 and seen["launches"] == 2
    assert seen["kernels"] == [["a", 1.0, 4e-3], ["b", 1.0, 3e-3]]
    assert summary([], 2)["busy"] is None
