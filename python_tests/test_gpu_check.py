"""benchmarks/gpu_check.py: a dry run of all of it on the CPU, and what its driver does with stages that go wrong."""

import json
import signal
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu_check.py"


@pytest.fixture(autouse=True)
def benchmarks_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    """Every stage of a dry run, here instead of a process each: importing torch seven times takes longer."""
    import torch

    folder = tmp_path_factory.mktemp("gpu_check")
    handler, limit = signal.getsignal(signal.SIGTERM), torch._dynamo.config.recompile_limit
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.syspath_prepend(str(SCRIPT.parent))
        import gpu_check
        from gpu.driver import Report

        report = Report(folder, {"command": "dry", "options": {"tiny": True}}, gpu_check.STAGES)
        report.out = folder / "out.json"
        for name in gpu_check.STAGES:
            arguments = [
                "--device",
                "cpu",
                "--tiny",
                "--work",
                str(folder),
                "--one",
                name,
                "--seconds",
                "600",
            ]
            assert gpu_check.run_one(gpu_check.parse(arguments)) == 0
            report.refresh([name])
    signal.signal(signal.SIGTERM, handler)
    torch._dynamo.config.recompile_limit = limit
    assert report.failed() == [], report.to_dict()
    return folder


def results(folder: Path, stage: str) -> dict:
    return json.loads((folder / "out.json").read_text())["stages"][stage]["results"]


def test_every_stage_ran_or_says_why_not(dry):
    record = json.loads((dry / "out.json").read_text())
    status = {name: stage["status"] for name, stage in record["stages"].items()}
    assert status == {
        "environment": "passed",
        "build": "skipped",
        "tests": "passed",
        "sanitizer": "skipped",
        "ceilings": "passed",
        "ops": "passed",
        "steps": "passed",
    }
    assert all(record["stages"][name]["reason"] for name, how in status.items() if how == "skipped")
    assert results(dry, "environment")["versions"]["torch"]
    assert results(dry, "tests")["outcomes"]["passed"] > 0


def test_every_op_is_checked_and_timed_at_every_scale(dry):
    cases = results(dry, "ops")["cases"]
    kinds = {(case["op"], str(case["scale"])) for case in cases}
    linear = {(op, str(scale)) for op in ("patch_embed", "patch_deembed") for scale in (1, 2, 4)}
    assert kinds == linear | {("acceleration_quantiles", "[1, 2, 4]")}
    assert {case["batch"] for case in cases} == {1, 4}
    for case in cases:
        assert case["error"] <= case["error_allowed"]
        assert case["floor_s"] > 0 and case["bound"] in ("bytes", "flops")
        assert {"ddit_ext", "eager"} <= case["timed"].keys()
        for timed in case["timed"].values():
            assert timed["low_s"] <= timed["median_s"] <= timed["high_s"]
    assert {entry["op"] for entry in results(dry, "ops")["compiled"]} == {case["op"] for case in cases}


def test_steps_of_both_models(dry):
    steps = results(dry, "steps")
    flux = steps["tiny FLUX"]
    assert flux["tokens"] == {"1": 48, "2": 12}
    assert {"p", "2p", "2p, LoRA"} <= flux["eager"].keys()
    assert {"p", "2p"} <= flux["compiled"].keys() and {"p", "2p, LoRA"} <= flux["compiled, LoRA"].keys()
    for label, compared in (("compiled", {"p", "2p"}), ("compiled, LoRA", {"p", "2p, LoRA"})):
        assert flux[label]["difference"].keys() == compared
        assert max(flux[label]["difference"].values()) < 1e-5  # the same float32 operations
    assert {"unpatched", "schedule=1", "dynamic, threshold=0"} <= flux["pipeline"].keys()
    assert flux["decision"]["scores on the host"]["median_s"] > 0
    assert steps["tiny Wan"]["eager"]["p"]["median_s"] > 0
    assert "2p" in steps["tiny Wan"]["eager"] or "not available" in steps["tiny Wan"]["coarse"]


def test_the_table_names_everything(dry):
    table = (dry / "out.md").read_text()
    for text in ("A dry run", "## Tests", "## Ceilings", "### patch_embed", "### tiny FLUX", "| pipeline |"):
        assert text in table


def test_the_command(tmp_path):
    """A stage in a process of its own, in the checkout's own package."""
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--tiny", "--stages", "ceilings"]
    command += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out.json"), "--total", "900"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["date"] and "gpu_check.py --device cpu --tiny" in record["command"]
    assert {name: stage["status"] for name, stage in record["stages"].items()} == {
        "environment": "passed",
        "ceilings": "passed",
    }
    assert record["stages"]["ceilings"]["results"]["copy"]["bytes_per_s"] > 0
    assert (tmp_path / "out.md").read_text() in done.stdout


def resumed(folder: Path, device: str, stages: str):
    """What `--resume` makes of a record with ceilings passed and ops failed, read on the device "one"."""
    import gpu_check
    from gpu.driver import Report

    options = gpu_check.parse(["--out", str(folder / "out.json"), "--resume", "--stages", stages])
    before = Report(folder, {}, gpu_check.STAGES)
    before.out = options.out
    before.stages = {
        "environment": {"status": "passed", "results": {"device_name": "one"}},
        "ceilings": {"status": "passed", "results": {"copy": {"bytes_per_s": 1.0, "low": 1.0, "high": 1.0}}},
        "ops": {"status": "failed", "results": {}},
    }
    before.write()
    now = Report(folder, {}, stages.split(","))
    now.out = options.out
    now.stages["environment"] = {"status": "passed", "results": {"device_name": device}}
    return gpu_check._keep(options, now), now.stages


def test_resuming_keeps_what_has_passed(tmp_path):
    from gpu.part import Part

    passed, stages = resumed(tmp_path, "one", "ceilings,ops,steps")
    assert passed == {"environment", "ceilings"}
    assert [stages[name]["status"] for name in ("ceilings", "ops", "steps")] == [
        "passed",
        "not run",
        "not run",
    ]
    assert Part(tmp_path, "ops", "cpu", True, 1.0).of("ceilings")["copy"]["bytes_per_s"] == 1.0
    _, stages = resumed(tmp_path, "one", "steps")
    assert [stages[name]["status"] for name in ("ceilings", "ops", "steps")] == [
        "passed",
        "failed",
        "not run",
    ]


def test_resuming_on_another_device_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="was read on one, this is another"):
        resumed(tmp_path, "another", "ops")


def test_arguments_that_mean_nothing(tmp_path):
    from gpu_check import parse

    with pytest.raises(SystemExit):
        parse(["--stages", "ops,everything"])
    with pytest.raises(SystemExit):
        parse(["--device", "cpu"])


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
    assert linear_flops(shape, 1, 2) == 2 * (1024 * 256 * 3072 + 32 * 256 * 3072)


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
