"""TeaCache's rule on top of sizes: each policy with scores of its own source in one run."""

import copy
import math

import pytest
import torch
from cache_cases import arguments, make, run
from skip_cases import FAMILIES, STEPS, sizes_of
from test_signal_options import by_hand

import ddit_ext
from ddit_ext import policies
from ddit_ext.runtime.patched_call import find_hook

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")

LONG = 14
SCALES = (1, 2, 4)
NEVER = policies.TeaCachePolicy(0.0)
ALWAYS = policies.TeaCachePolicy(math.inf)


def steps_of(pipe, family, schedule, call, **options):
    """Result and steps of one run."""
    handle = ddit_ext.patch(pipe, schedule=schedule, **options)
    try:
        result = run(family, pipe, call)
        return result, handle.report().to_dict()["steps"]
    finally:
        handle.unpatch()


def sizes(steps):
    return [step["scale"] for step in steps]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_alone_is_what_it_was(family):
    """Without skipping it is the policy of sizes, with one size TeaCache: the same runs, bit for bit."""
    call, pipe = arguments(family, True, STEPS), make(family)
    paper = policies.PatchScheduler((1, 2), [1e9], order=1)
    alone, expected = steps_of(pipe, family, paper, call)
    stacked, steps = steps_of(pipe, family, policies.Stacked(NEVER, paper), call)
    assert torch.equal(stacked, alone) and sizes(steps) == sizes(expected) == [1] + [2] * (STEPS - 1)
    assert [step["scores"] for step in steps] == [step["scores"] for step in expected]
    assert all("changes" not in step for step in steps)

    changes = [step["scores"] for step in steps_of(pipe, family, policies.TeaCachePolicy(1e-30), call)[1]]
    threshold = 1.5 * sorted(rows[0][0] for rows in changes[1:])[len(changes) // 2]
    tea_cache = policies.TeaCachePolicy(threshold)
    alone, expected = steps_of(pipe, family, tea_cache, call)
    stacked, steps = steps_of(pipe, family, policies.Stacked(tea_cache, 1), call)
    assert torch.equal(stacked, alone) and sizes(steps) == sizes(expected)
    assert 0 in sizes(steps) and 1 in sizes(steps[1:-1])
    told = [[change for (change,) in step["scores"]] if step["scores"] else None for step in expected]
    assert [step["changes"] for step in steps] == told and all(step["scores"] is None for step in steps)


@pytest.mark.parametrize("source", ["latents", "outputs"])
def test_scores_of_a_run_with_skipped_steps_are_those_of_its_trajectory(source):
    """The sampler steps on at skipped steps: differences are over all steps, scored where one is computed."""
    pipe, seen = make("flux"), {"latents": [], "outputs": []}
    step = pipe.scheduler.step

    def watched(model_output, timestep, sample, **kwargs):
        seen["outputs"].append(model_output)
        seen["latents"].append(sample)
        return step(model_output, timestep, sample, **kwargs)

    pipe.scheduler.step = watched
    changes = steps_of(pipe, "flux", policies.TeaCachePolicy(1e-30), arguments("flux", False, LONG))[1]
    mean = sum(step["scores"][0][0] for step in changes[1:]) / (LONG - 1)
    for kept in seen.values():
        kept.clear()
    paper = policies.PatchScheduler(SCALES, [0.0, 0.0], order=2, source=source)
    stacked = policies.Stacked(policies.TeaCachePolicy(2 * mean), paper)
    _, steps = steps_of(pipe, "flux", stacked, arguments("flux", False, LONG))
    first = 2 + (source == "outputs")
    assert 0 in sizes(steps) and 1 in sizes(steps[first:-1])
    total = 0.0
    for index, step in enumerate(steps):
        total += step["changes"][0] if step["changes"] else 0.0
        skipped = 0 < index < LONG - 1 and total < 2 * mean
        assert step["scale"] == (0 if skipped else 1)
        assert (step["scores"] is None) == (skipped or index < first)
        if step["scores"]:
            newest = index if source == "latents" else index - 1
            used = seen[source][newest - 2 : newest + 1][::-1]
            scores = torch.tensor(step["scores"])
            torch.testing.assert_close(scores, by_hand(used, 2), rtol=1e-3, atol=1e-5)
        total = total if skipped else 0.0


def test_a_skipped_step_is_a_size_of_its_own_where_differences_are_held():
    class Skips(policies.Policy):
        """Skips step 4 alone."""

        source, skips, scales = "input", True, (1,)

        def begin(self, total_steps):
            pass

        def decide(self, step, scores):
            return 0 if step == 4 and scores else 1

    held = policies.PatchScheduler((1, 2), [0.0], order=2, mixed="hold")
    steps = steps_of(make("flux"), "flux", policies.Stacked(Skips(), held), arguments("flux", False, 10))[1]
    assert sizes(steps) == [1] * 4 + [0] + [1] * 5
    assert [step["index"] for step in steps if step["scores"]] == [2, 3, 7, 8, 9]


def test_protected_steps_of_both():
    pipe, call = make("flux"), arguments("flux", True, STEPS)
    late = policies.TeaCachePolicy(math.inf, protect_first=3)
    ramp = policies.LinearRamp((1, 2), 0.5)
    assert sizes(steps_of(pipe, "flux", policies.Stacked(late, ramp), call)[1]) == [2, 2, 2, 0, 0, 1]
    fine_ends = policies.FixedSchedule((1, 2), 2, 2, 2)
    steps = steps_of(pipe, "flux", policies.Stacked(ALWAYS, fine_ends), call)[1]
    assert sizes(steps) == [1, 1, 0, 0, 1, 1]
    steps = steps_of(pipe, "flux", policies.Stacked(ALWAYS, 2), call, scales=(1, 2), protect=(0, 3))[1]
    assert sizes(steps) == [2, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (lambda step: 1 + step % 2, [1, 0, 0, 0, 0, 2]),
        ([2, 1, 1, 1, 1, 1], [2, 0, 0, 0, 0, 1]),
        (None, [1, 0, 0, 0, 0, 4]),
        (policies.BudgetPolicy(SCALES, [0.4, 0.2], 1.5), [4, 0, 0, 0, 0, 1]),
    ],
    ids=["function", "list", "paper", "budget"],
)
def test_any_schedule_gives_the_sizes(given, expected):
    paper = {"threshold": 1e9} if given is None else {}
    steps = steps_of(
        make("flux"), "flux", policies.Stacked(ALWAYS, given), arguments("flux", False, STEPS), **paper
    )[1]
    assert sizes(steps) == expected


def test_report_copies_and_a_second_run(tmp_path):
    pipe, call = make("flux"), arguments("flux", False, STEPS)
    given = policies.Stacked(
        policies.TeaCachePolicy(math.inf, protect_last=2),
        policies.PatchScheduler((1, 2), [1e9], order=2),
    )
    handle = ddit_ext.patch(pipe, schedule=given)
    first = run("flux", pipe, call)
    data = handle.report().to_dict()
    assert torch.equal(run("flux", pipe, call), first)
    again = handle.report().to_dict()["steps"]
    assert [dict(step, seconds=0) for step in data["steps"]] == [dict(step, seconds=0) for step in again]
    assert sizes_of(handle) == [1, 0, 0, 0, 2, 2]
    assert (data["source"], data["thresholds"], data["dynamic"]) == ("latents", [1e9], True)
    assert data["policy"].startswith("Stacked(skip=TeaCachePolicy(threshold=inf")
    assert "sizes=PatchScheduler(scales=[1, 2]" in data["policy"]
    assert data["steps_per_scale"] == {1: 1, 2: 2, 0: 3}
    assert data["steps"][0]["changes"] is None and all(step["changes"] for step in data["steps"][1:])
    assert f"change of the input {data['steps'][4]['changes'][0]:.1e}" in str(handle.report())
    handle.report().to_json(tmp_path / "run.json")
    handle.report().html(tmp_path / "run.html")
    assert "3 skipped" in (tmp_path / "run.html").read_text()
    # A copy is in use: the given one stands at its beginning, and takes steps from 0 on.
    assert handle.policy.skip is not given.skip and handle.policy.sizes is not given.sizes
    assert copy.deepcopy(given).decide(0, None) == given.decide(0, None) == 1
    assert not handle._hook.reuse._steps and handle._hook.inputs._last is None


def test_what_cannot_work_says_so():
    paper, coarse = policies.PatchScheduler(SCALES, [1.0, 1.0]), policies.TeaCachePolicy(0.1, (1, 2), (0.2,))
    with pytest.raises(TypeError, match="Stacked: skip must be a policy with source 'input'.* got Patch"):
        policies.Stacked(paper, paper)
    with pytest.raises(ValueError, match=r"Stacked: skip must have no scales but \(1,\).* got \(1, 2\)"):
        policies.Stacked(coarse, paper)
    with pytest.raises(ValueError, match="Stacked: sizes must skip no steps and not look at the input"):
        policies.Stacked(ALWAYS, coarse)
    pipe = make("flux")
    with pytest.raises(NotImplementedError, match=r"batch='split' with a schedule that skips.*Stacked"):
        ddit_ext.patch(pipe, schedule=policies.Stacked(ALWAYS, paper), batch="split")
    with pytest.raises(ValueError, match=r"scales: the policy in schedule has \(1, 2, 4\), got \(1, 2\)"):
        ddit_ext.patch(pipe, schedule=policies.Stacked(ALWAYS, paper), scales=(1, 2))
    with pytest.raises(TypeError, match="schedule must be None, an int"):
        ddit_ext.patch(pipe, schedule=policies.Stacked(ALWAYS, "coarse"))
    assert find_hook(pipe.transformer) is None
