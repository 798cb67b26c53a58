"""The report: its data, its file, its picture, its table."""

import json

import pytest
from flux_pipelines import make_call, make_pipeline, run

import ddit_ext
from ddit_ext.policies import BudgetPolicy
from ddit_ext.reports.report import Report, RunRecord, StepRecord

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")

FIELDS = {"index", "noise_level", "scores", "scale", "scales", "tokens", "seconds"}


@pytest.fixture(scope="module")
def handle():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, threshold=(1e9, 0.0))
    run(pipe, make_call(rows=6, columns=5, steps=6, batch=2))
    return handle


def test_data(handle):
    data = handle.report().to_dict()
    assert all(set(step) == FIELDS for step in data["steps"])
    assert [step["index"] for step in data["steps"]] == list(range(6))
    assert [step["tokens"] for step in data["steps"]] == [30] * 3 + [9] * 3
    assert [step["scales"] for step in data["steps"]] == [[1, 1]] * 3 + [[2, 2]] * 3
    levels = [step["noise_level"] for step in data["steps"]]
    assert levels[0] == 1.0 and levels == sorted(levels, reverse=True) and levels[-1] > 0
    assert all(step["seconds"] > 0 for step in data["steps"])
    assert data["seconds"] == pytest.approx(sum(step["seconds"] for step in data["steps"]))
    assert data["steps_per_scale"] == {1: 3, 2: 3, 4: 0}
    assert data["scales"] == [1, 2, 4] and data["thresholds"] == [1e9, 0.0]
    # Tokens with the text's 6, width 32: n·(6·32 + n) a step.
    fine, coarse = 36 * (192 + 36), 15 * (192 + 15)
    assert data["speedup_estimate"] == pytest.approx(6 * fine / (3 * fine + 3 * coarse))


def test_a_forecast_of_the_users_own_under_another_patch():
    pipe = make_pipeline()
    pipe.scheduler = ddit_ext.ForecastScheduler.from_scheduler(pipe.scheduler, calls=4)
    with ddit_ext.patch(pipe, schedule=1) as handle:
        run(pipe, make_call(steps=8))
    data = handle.report().to_dict()
    assert data["uncomputed"] == "forecast" and data["steps_per_scale"] == {
        1: 4,
        0: 4,
        **dict.fromkeys(data["scales"][1:], 0),
    }
    assert str(handle.report()).count("  forecast  ") == 4


def test_before_any_run():
    report = ddit_ext.patch(make_pipeline()).report()
    assert str(report) == "no run yet: call the pipeline, then ask for the report"
    assert report.to_dict()["summary"] == [str(report)] and report.to_dict()["steps"] == []


def test_a_report_is_a_snapshot():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, schedule=1)
    assert handle.report().to_dict()["steps"] == []
    run(pipe, make_call(steps=2))
    report = handle.report()
    run(pipe, make_call(steps=3))
    assert len(report.to_dict()["steps"]) == 2 and len(handle.report().to_dict()["steps"]) == 3
    handle.unpatch()
    assert len(handle.report().to_dict()["steps"]) == 3


def test_a_report_taken_within_a_run_stays_what_it_was():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, schedule=[1, 1, 1, 1, 2, 2, 4, 4])
    taken = []

    def look(pipe, step, t, kept):
        report = handle.report()
        taken.append((report, report.to_dict(), str(report)))
        return kept

    run(pipe, make_call(rows=8, columns=8, steps=8) | {"callback_on_step_end": look})
    assert taken[6][1]["speedup_measured"] is not None and len(taken[6][1]["steps"]) == 7
    assert all((report.to_dict(), str(report)) == (data, text) for report, data, text in taken)


def test_steps_last_as_long_as_the_loop():
    """A ControlNet runs before the transformer, a callback after the sampler: both are of the loop."""
    pipe = make_pipeline("controlnet")
    passed = [0.0]

    def takes(seconds):
        return lambda *_: passed.__setitem__(0, passed[0] + seconds)

    pipe.controlnet.register_forward_pre_hook(takes(0.5))
    pipe.transformer.transformer_blocks[0].register_forward_pre_hook(takes(1.0))
    handle = ddit_ext.patch(pipe, schedule=[1, 1, 1, 0, 1, 0])
    handle.time_by(lambda: passed[0])
    call = make_call("controlnet", steps=6)
    call["callback_on_step_end"] = lambda pipe, step, t, kept: takes(0.25)() or kept
    for _ in range(2):  # what passes between two runs is of neither
        passed[0] += 100
        before = passed[0]
        run(pipe, call)
        data = handle.report().to_dict()
        assert [step["seconds"] for step in data["steps"]] == [1.0, 1.75, 1.75, 0.75, 1.75, 0.75]
        assert (
            data["seconds"] == passed[0] - before - 0.5 - 0.25
        )  # before the first call, after the last step
        assert data["speedup_measured"] == pytest.approx(6 * 1.75 / (4 * 1.75 + 2 * 0.75))


def test_json(handle, tmp_path):
    report = handle.report()
    report.to_json(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["steps"] == report.to_dict()["steps"]
    assert read["steps"][0]["scores"] is None and len(read["steps"][3]["scores"]) == 2


def test_json_without_numbers_that_json_lacks(tmp_path):
    step = StepRecord(3, 0.5, [[0.1, float("nan"), float("inf")]], 1, [1], 24)
    report = Report(RunRecord((1, 2, 4), (float("inf"), 1.0), True, 32 * 6.0, steps=[step]))
    report.to_json(str(tmp_path / "report.json"))
    read = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert read["steps"][0]["scores"] == [[0.1, None, None]]


def test_plot(handle, tmp_path):
    pytest.importorskip("matplotlib")
    handle.report().plot(tmp_path / "report.png")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_plot_of_a_run_without_scores(tmp_path):
    pytest.importorskip("matplotlib")
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, schedule=[1, 2])
    with pytest.raises(ValueError, match="no run"):
        handle.report().plot(tmp_path / "report.png")

    def fail(module, args):
        raise ArithmeticError("broken")

    hook = pipe.transformer.single_transformer_blocks[0].register_forward_pre_hook(fail)
    with pytest.raises(ArithmeticError):
        run(pipe, make_call(steps=2))
    hook.remove()
    with pytest.raises(ValueError, match="nothing to plot: no step of this run came to its end"):
        handle.report().plot(tmp_path / "report.png")
    run(pipe, make_call(steps=2))
    handle.report().plot(str(tmp_path / "report.png"))
    assert (tmp_path / "report.png").stat().st_size > 1000


def test_table(handle):
    lines = str(handle.report()).splitlines()
    assert lines[0].startswith("6 of 6 steps computed, 3 at scale 1, 3 at scale 2, ")
    assert lines[1].endswith("; Threshold(threshold=(1000000000.0, 0.0))")
    assert lines[2].split() == ["step", "sigma", "scale", "tokens", "seconds", "scores"]
    assert lines[3].split()[:4] == ["0", "1.000", "1", "30"] and lines[3].endswith("-")
    assert lines[6].split()[2] == "2"


def record(*steps, **settings):
    """A run whose steps are (scale, seconds)."""
    made = [StepRecord(i, 0.5, None, scale, [scale], 4, seconds) for i, (scale, seconds) in enumerate(steps)]
    return RunRecord((1, 2), (), False, fine_tokens=4, steps=made, **settings)


def test_the_first_line_says_what_was_done_and_how_fast_it_was():
    forecast = record(
        (1, 1.0), (1, 1.0), (0, 0.0), (1, 1.0), (0, 0.0), (0, 0.0), forecasts=True, target_speedup=2.5
    )
    line, second = Report(forecast).to_dict()["summary"]
    assert line == "3 of 6 steps computed, 3 at scale 1, 2.00 times as fast by step times, 2.5 asked for"
    assert second.startswith("3.00 s, 2.00 times less arithmetic in the transformer")


def test_the_first_line_says_where_nothing_was_saved():
    line = Report(record((1, 1.0), (1, 1.0), (1, 1.0))).to_dict()["summary"][0]
    assert line.endswith("next to nothing was saved; try patch(pipe, target_speedup=2)")


def test_the_first_line_warns_of_larger_patches_without_training():
    steps = [(1, 1.0), (1, 1.0), (1, 1.0), (2, 0.2), (2, 0.2)]
    line = Report(record(*steps, untrained=True)).to_dict()["summary"][0]
    assert "2 steps at larger patches without a trained adapter, so expect another image" in line
    assert "adapter" not in Report(record(*steps)).to_dict()["summary"][0]


@pytest.mark.parametrize(("threshold", "text"), [(0.0, "no step was coarse"), (1e9, "largest size")])
def test_remarks(threshold, text):
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, threshold=threshold)
    run(pipe, make_call(steps=6))
    assert [text in warning for warning in handle.report().to_dict()["warnings"]] == [True]
    assert f"warning: {text}" in str(handle.report()) or text in str(handle.report())


def test_no_advice_on_thresholds_where_there_are_none():
    pipe = make_pipeline()
    call = make_call(rows=8, columns=8, steps=8)
    handle = ddit_ext.patch(pipe, schedule=ddit_ext.Budget(1))
    run(pipe, call)
    data = handle.report().to_dict()
    assert {step["scale"] for step in data["steps"]} == {1} and data["steps"][-1]["scores"]
    assert not any("threshold" in text for text in data["warnings"])
    handle.unpatch()
    handle = ddit_ext.patch(pipe, schedule=BudgetPolicy([1, 2], [0.5], 1.99))
    run(pipe, call)
    data = handle.report().to_dict()
    assert {step["scale"] for step in data["steps"][3:]} == {2} and data["warnings"] != []
    assert not any("threshold" in text for text in data["warnings"])


def test_no_remarks_where_there_is_one_size():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, scales=(1,))
    run(pipe, make_call(steps=6))
    assert handle.report().to_dict()["warnings"] == []
    assert len(handle.report().to_dict()["steps"][3]["scores"][0]) == 1


def test_no_remarks_on_a_schedule_that_was_asked_for():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, schedule=4)
    run(pipe, make_call(steps=6))
    assert handle.report().to_dict()["warnings"] == []
