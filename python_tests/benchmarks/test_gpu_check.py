"""benchmarks/gpu_check.py: a dry run of all of it on the CPU, and the command. No time is asserted."""

import json
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_check.py"


@pytest.fixture(autouse=True)
def benchmarks_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    """Every stage of a dry run, here instead of a process each: importing torch seven times takes longer."""
    import torch

    pytest.importorskip("diffusers", reason="the steps need it")
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
        "flux": "passed",
        "ncu": "skipped",
        "wan": "passed",
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
    assert [case["scale"] for case in cases[:6]] == [2, 2, 4, 4, 1, 1] and not any(
        case["lora"] for case in cases[:6]
    )
    assert any(case["lora"] for case in cases)
    for case in cases:
        assert case["error"] <= case["error_allowed"]
        assert case["floor_s"] > 0 and case["bound"] in ("bytes", "flops")
        assert {"ddit_ext", "eager"} <= case["timed"].keys()
        for timed in case["timed"].values():
            assert timed["low_s"] <= timed["median_s"] <= timed["high_s"]
    assert {entry["op"] for entry in results(dry, "ops")["compiled"]} == {case["op"] for case in cases}


def test_calls_of_both_models(dry):
    flux = results(dry, "flux")["tiny FLUX"]
    assert flux["tokens"] == {"1": 48, "2": 12}
    assert flux["eager"].keys() >= {"p", "2p"} and flux["queued_s"].keys() == {"p", "2p"}
    compared_in = {
        "compiled": {"p", "2p"},
        "compiled, LoRA": {"p", "2p, LoRA"},
        "compiled, LoRA merged": {"p", "2p, LoRA merged"},
        "compiled with CUDA graphs": {"p", "2p"},
    }
    for how in ("eager", "compiled"):
        assert flux[f"LoRA over none, {how}"].keys() == {"2p, LoRA", "2p, LoRA merged"}
    for label, compared in compared_in.items():
        assert flux[label]["difference"].keys() == compared
        assert max(flux[label]["difference"].values()) < 1e-5  # the same float32 operations
    assert flux["decision"]["scores on the host"]["median_s"] > 0
    wan = results(dry, "wan")["tiny Wan"]
    assert wan["eager"]["p"]["median_s"] > 0 and "2p" in wan["eager"]


def test_where_a_call_s_time_goes(dry):
    for call in ("p", "2p"):
        seen = results(dry, "flux")["tiny FLUX"]["profile"][call]
        assert 0 < seen["busy_ms"] <= seen["wall_ms"] and seen["launches"] > 50
    names = [name for name, _, _ in results(dry, "flux")["tiny FLUX"]["profile"]["2p"]["kernels"]]
    assert "ddit_ext::patch_embed" in names


@pytest.mark.parametrize("label", ["runs", "runs with graphs"])
def test_runs_end_to_end(dry, label):
    found = results(dry, "flux")["tiny FLUX"][label]
    assert found["steps"] == 5
    ways = found["ways"]
    assert ways["full"]["speedup"] == 1.0
    assert ways["2p at every step"]["scales"] == {"2": 5}
    assert ways["Forecast, 3 calls"]["scales"] == {"1": 3, "0": 2}
    assert sum(ways["dynamic"]["scales"].values()) == 5


def test_the_table_names_everything(dry):
    table = (dry / "out.md").read_text()
    for text in (
        "A dry run",
        "## Tests",
        "## Ceilings",
        "### patch_embed",
        "### tiny FLUX",
        "end to end, runs with graphs",
        "A call at 2p",
        "### tiny Wan",
    ):
        assert text in table


def test_plans_fit_into_their_time():
    """What a lent machine has: 15 minutes in all, the start and a second try included."""
    from gpu_check import PLANS, TOTAL

    for plan, groups in PLANS.items():
        assert sum(max(group.values()) for group in groups) <= TOTAL[plan]
    assert TOTAL["first"] <= 420 and TOTAL["second"] <= 200


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

    passed, stages = resumed(tmp_path, "one", "ceilings,ops,flux")
    assert passed == {"environment", "ceilings"}
    assert [stages[name]["status"] for name in ("ceilings", "ops", "flux")] == [
        "passed",
        "not run",
        "not run",
    ]
    assert Part(tmp_path, "ops", "cpu", True, 1.0).of("ceilings")["copy"]["bytes_per_s"] == 1.0
    _, stages = resumed(tmp_path, "one", "flux")
    assert [stages[name]["status"] for name in ("ceilings", "ops", "flux")] == [
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
        parse(["--plan", "second", "--stages", "flux"])
    with pytest.raises(SystemExit):
        parse(["--against", str(tmp_path / "missing.json")])
    with pytest.raises(SystemExit):
        parse(["--device", "cpu"])


def test_an_op_against_an_earlier_run(dry):
    from gpu import table
    from gpu_check import _ops_of

    record = json.loads((dry / "out.json").read_text())
    before = _ops_of(dry / "out.json")
    for case in before["cases"]:
        case["timed"]["ddit_ext"]["median_s"] = 123e-6
    assert "| 123 |" not in table.markdown(record)
    assert "| 123 |" in table.markdown(record | {"against": before})
