"""TeaCache's rule on pipelines: which steps are skipped, and what the report says of it."""

import math

import flux_pipelines
import pytest
import torch
import wan_pipelines
from cache_cases import arguments, make, run
from diffusers import FirstBlockCacheConfig
from loops import Loop
from skip_cases import FAMILIES, STEPS, counted, sizes_of

import ddit_ext
from ddit_ext import Fixed, TeaCache, Threshold, cells, ops, policies
from ddit_ext.coarse import Adapter

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")

RUNS = [(family, guided) for family in FAMILIES for guided in (False, True)]


def middle_threshold(family, call):
    """One that some steps of a run are above and some below."""
    pipe = make(family)
    handle = ddit_ext.patch(pipe, schedule=TeaCache(1e-30))
    run(family, pipe, call)
    changes = [step["scores"][0][0] for step in handle.report().to_dict()["steps"][1:]]
    return 1.5 * max(changes[:-1])


@pytest.mark.parametrize(("family", "guided"), RUNS)
def test_where_nothing_is_skipped_nothing_changes(family, guided):
    call = arguments(family, guided, STEPS)
    expected = run(family, make(family), call)
    for policy in (TeaCache(0.0), TeaCache(1e-30)):
        pipe = make(family)
        handle = ddit_ext.patch(pipe, schedule=policy)
        assert torch.equal(run(family, pipe, call), expected)
        assert sizes_of(handle) == [1] * STEPS


@pytest.mark.parametrize(("family", "guided"), RUNS)
def test_above_all_changes_only_the_ends_are_computed(family, guided):
    pipe = make(family)
    counts = counted(pipe.transformer)
    handle = ddit_ext.patch(pipe, schedule=TeaCache(math.inf, protect=(2, 1)))
    run(family, pipe, arguments(family, guided, STEPS))
    assert sizes_of(handle) == [1, 1, 0, 0, 0, 1]
    assert counts == [3 * (1 + guided)] * len(counts)
    state = handle._hook.watch.run.state
    assert not state.residuals._residuals and state._inputs._last is None


def test_the_scores_are_the_changes_of_the_modulated_input():
    call = arguments("flux", False, STEPS)
    pipe = make("flux")
    seen = []
    norm = pipe.transformer.transformer_blocks[0].norm1
    remove = norm.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    run("flux", pipe, call)
    remove.remove()
    handle = ddit_ext.patch(pipe, schedule=TeaCache(1e-30))
    run("flux", pipe, call)
    scores = [step["scores"] for step in handle.report().to_dict()["steps"]]
    assert scores[0] is None
    for score, before, after in zip(scores[1:], seen, seen[1:], strict=False):
        change = (after - before).abs().mean() / before.abs().mean()
        assert score == [[pytest.approx(change.item(), rel=1e-5)]]


def test_wan_is_compared_by_what_modulates_it():
    call = arguments("wan", True, STEPS)
    pipe = make("wan")
    handle = ddit_ext.patch(pipe, schedule=TeaCache(1e-30))
    run("wan", pipe, call)
    steps = handle.report().to_dict()["steps"]
    embedder = pipe.transformer.condition_embedder
    # UniPC's timesteps are whole numbers of thousandths.
    seen = [
        embedder(pipe.scheduler.timesteps[i : i + 1], call["prompt_embeds"])[1].flatten()
        for i in range(STEPS)
    ]
    for step, before, after in zip(steps[1:], seen, seen[1:], strict=False):
        change = (after - before).abs().mean() / before.abs().mean()
        assert step["scores"] == [[pytest.approx(change.item(), rel=1e-4)]]


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_are_skipped_by_the_sum_of_the_changes(family):
    call = arguments(family, True, 12)
    threshold = middle_threshold(family, call)
    pipe = make(family)
    handle = ddit_ext.patch(pipe, schedule=TeaCache(threshold, coefficients=(0.5, 1.0, 0.0)))
    run(family, pipe, call)
    expected, total = [], 0.0
    for step in handle.report().to_dict()["steps"]:
        if step["scores"] is not None:
            change = step["scores"][0][0]
            total += 0.5 * change**2 + change
        computed = step["scores"] is None or step["index"] == 11 or total >= threshold
        expected.append(int(computed))
        total = 0.0 if computed else total
    assert sizes_of(handle) == expected
    assert 0 in expected and 1 in expected[1:-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_between_skipping_and_fine_a_step_is_coarse(family):
    call = arguments(family, True, 10)
    threshold = middle_threshold(family, call)
    pipe = make(family)
    tokens = []
    pipe.transformer.norm_out.register_forward_pre_hook(lambda _, args: tokens.append(args[0].shape[1]))
    handle = ddit_ext.patch(pipe, schedule=policies.TeaCachePolicy(threshold, (1, 2), (1e9,)))
    run(family, pipe, call)
    sizes = sizes_of(handle)
    assert sizes[0] == sizes[-1] == 1 and set(sizes[1:-1]) == {0, 2}
    # A skipped step has the tokens of the one whose blocks it uses.
    record = handle._hook.record
    last, expected = 1, []
    for size in sizes:
        last = size or last
        expected += [record.tokens_at[last]] * 2
    assert tokens == expected
    assert 0 in sizes[sizes.index(2) :]


def test_the_second_transformer_computes_its_first_step():
    pipe = wan_pipelines.make_pipeline("two")
    counts, second = counted(pipe.transformer), counted(pipe.transformer_2)
    handle = ddit_ext.patch(pipe, schedule=TeaCache(math.inf))
    wan_pipelines.run(pipe, wan_pipelines.make_call("two", steps=8))
    levels = [step["noise_level"] for step in handle.report().to_dict()["steps"]]
    switch = next(i for i, level in enumerate(levels) if level < pipe.config.boundary_ratio)
    assert sizes_of(handle) == [int(i in (0, switch, 7)) for i in range(8)]
    assert counts == [2] and second == [4]


def test_a_batch_skips_only_what_all_samples_would():
    call = flux_pipelines.make_call(batch=2, steps=8)
    call["latents"] = torch.randn(2, 24, 16, generator=torch.Generator().manual_seed(9))
    pipe = make("flux")
    handle = ddit_ext.patch(pipe, schedule=TeaCache(math.inf))
    flux_pipelines.run(pipe, call)
    steps = handle.report().to_dict()["steps"]
    assert all(len(step["scores"]) == 2 and step["scales"] == [0, 0] for step in steps[1:-1])
    assert all(step["scores"][0] != step["scores"][1] for step in steps[1:])


def test_report(tmp_path):
    pipe = make("flux")
    policy = policies.TeaCachePolicy(math.inf, (1, 2), (math.inf,))
    handle = ddit_ext.patch(pipe, schedule=policy)
    run("flux", pipe, arguments("flux", False, STEPS))
    report = handle.report()
    data = report.to_dict()
    assert data["steps_per_scale"] == {1: 2, 2: 0, 0: 4} and data["source"] == "input"
    assert [step["tokens"] for step in data["steps"]] == [24, 0, 0, 0, 0, 24]
    assert data["speedup_estimate"] == pytest.approx(3.0)
    assert data["policy"].startswith("TeaCachePolicy(threshold=inf, scales=[1, 2]")
    assert "skipped" in str(report) and "2 of 6 steps computed, 2 at scale 1, " in str(report)
    assert not data["warnings"]
    report.html(tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text()
    assert "2 of 6 steps computed" in page and "change of the input" in page and "threshold of" not in page
    pytest.importorskip("matplotlib")
    report.plot(tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 0


def test_a_report_says_that_nothing_was_skipped():
    pipe = make("flux")
    handle = ddit_ext.patch(pipe, schedule=TeaCache(1e-30))
    run("flux", pipe, arguments("flux", False, 3))
    assert handle.report().to_dict()["warnings"] == ["no step was skipped: a larger threshold skips more"]


def test_what_cannot_work_says_so():
    pipe = make("flux")
    with pytest.raises(NotImplementedError, match=r"batch='split' with a strategy that skips.*TeaCache"):
        ddit_ext.patch(pipe, schedule=policies.TeaCachePolicy(0.1), batch="split")
    with pytest.raises(ValueError, match=r"scales: the policy in schedule has \(1,\), got \(1, 2\)"):
        ddit_ext.patch(pipe, schedule=policies.TeaCachePolicy(0.1), scales=(1, 2))
    with pytest.raises(ValueError, match="give schedule or scales, not both: TeaCache has its own"):
        ddit_ext.patch(pipe, schedule=TeaCache(0.1), scales=(1, 2))
    with pytest.raises(ValueError, match=r"scales: the adapter has weights for \(2,\), not for \[4\]"):
        ddit_ext.patch(
            pipe,
            Adapter.training_free(pipe.transformer, (2,)),
            schedule=policies.TeaCachePolicy(0.1, (1, 4), (0.2,)),
        )
    ddit_ext.patch(pipe, schedule=lambda step: 0)
    with pytest.raises(ValueError, match=r"schedule at step 0: expected one of the scales .* got 0"):
        run("flux", pipe, arguments("flux", False, 2))
    ddit_ext.unpatch(pipe)
    ddit_ext.patch(pipe, schedule=policies.TeaCachePolicy(0.1))
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(NotImplementedError, match="FirstBlockCacheConfig with a schedule that skips steps"):
        run("flux", pipe, arguments("flux", False, 2))


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        (ddit_ext.Budget(2), r"Budget\(speedup=2\): the length of this run is not known"),
        (Fixed(2, protect=(0, 1)), "the last steps, here 1, are protected, but the length"),
    ],
)
def test_sizes_that_need_the_length_of_a_run_say_so(sizes, text):
    pipe = make("flux")
    handle = ddit_ext.patch(pipe, schedule=TeaCache(0.1, sizes=sizes, protect=(1, 0)))
    with pytest.raises(ValueError, match=text):
        Loop(pipe).by_hand([0.9, 0.6, 0.3], handle=handle)


def test_words():
    policy = policies.TeaCachePolicy(0.25, (1, 2), (0.5,), coefficients=(2.0, 1.0, 0.0), protect_first=2)
    assert (policy.threshold, policy.thresholds, policy.coefficients) == (0.25, [0.5], [2.0, 1.0, 0.0])
    assert (policy.protect_first, policy.protect_last, policy.scales) == (2, 1, [1, 2])
    assert (policy.source, policy.skips, policy.needs_signal) == ("input", True, True)
    policy.begin(5)
    assert policy.decide(2, [[0.125]]) == 0 and policy.accumulated == [0.15625]
    with pytest.raises(ValueError, match="scores must hold one number, the relative change, .* got 2"):
        policy.decide(3, [[0.0, 0.0]])
    with pytest.raises(TypeError, match="coefficients"):
        policies.TeaCachePolicy(0.25, coefficients=1.0)
    plain = policies.TeaCachePolicy(0.25)
    assert (plain.scales, plain.thresholds, plain.coefficients) == ([1], [], [1.0, 0.0])
    assert not policies.PatchScheduler([1, 2], [1.0]).skips


def steps_of(pipe, family, schedule, call):
    """Result and steps of one run."""
    with ddit_ext.patch(pipe, schedule=schedule) as handle:
        return run(family, pipe, call), handle.report().to_dict()["steps"]


def sizes(steps):
    return [step["scale"] for step in steps]


@pytest.mark.parametrize("family", FAMILIES)
def test_with_sizes_each_alone_is_what_it_was(family):
    """Without skipping it is the strategy of sizes, with one scale TeaCache: the same runs, bit for bit."""
    call, pipe = arguments(family, True, STEPS), make(family)
    paper = Threshold(1e9, scales=(1, 2))
    alone, expected = steps_of(pipe, family, paper, call)
    both, steps = steps_of(pipe, family, TeaCache(0.0, sizes=paper), call)
    assert torch.equal(both, alone) and sizes(steps) == sizes(expected) == [1] * 3 + [2] * (STEPS - 3)
    assert [step["scores"] for step in steps] == [step["scores"] for step in expected]

    changes = [step["scores"] for step in steps_of(pipe, family, TeaCache(1e-30), call)[1]]
    threshold = 1.5 * sorted(rows[0][0] for rows in changes[1:])[len(changes) // 2]
    alone, expected = steps_of(pipe, family, TeaCache(threshold), call)
    both, steps = steps_of(pipe, family, TeaCache(threshold, sizes=1), call)
    assert torch.equal(both, alone) and sizes(steps) == sizes(expected)
    assert 0 in sizes(steps) and 1 in sizes(steps[1:-1])
    told = [[change for (change,) in step["scores"]] if step["scores"] else None for step in expected]
    assert [step["changes"] for step in steps] == told and all(step["scores"] is None for step in steps)


def test_scores_of_a_run_with_skipped_steps_are_those_of_its_trajectory():
    """The sampler steps on at skipped steps: differences are over all steps, scored where one is computed."""
    pipe, seen, long = make("flux"), [], 14
    step = pipe.scheduler.step

    def watched(model_output, timestep, sample, **kwargs):
        seen.append(sample)
        return step(model_output, timestep, sample, **kwargs)

    pipe.scheduler.step = watched
    changes = steps_of(pipe, "flux", TeaCache(1e-30), arguments("flux", False, long))[1]
    mean = sum(step["scores"][0][0] for step in changes[1:]) / (long - 1)
    seen.clear()
    strategy = TeaCache(2 * mean, sizes=Threshold(0.0))
    _, steps = steps_of(pipe, "flux", strategy, arguments("flux", False, long))
    assert 0 in sizes(steps) and 1 in sizes(steps[3:-1])
    total = 0.0
    for index, step in enumerate(steps):
        total += step["changes"][0] if step["changes"] else 0.0
        skipped = 0 < index < long - 1 and total < 2 * mean
        assert step["scale"] == (0 if skipped else 1)
        assert (step["scores"] is None) == (skipped or index < 3)
        if step["scores"]:
            views = [cells.from_packed(latent.float(), 6, 4) for latent in seen[index - 3 : index + 1][::-1]]
            expected = ops.acceleration_quantiles(*views, [1, 2, 4], 0.4)
            torch.testing.assert_close(torch.tensor(step["scores"]), expected, rtol=1e-3, atol=1e-5)
        total = total if skipped else 0.0


def test_protected_steps_of_both():
    pipe, call = make("flux"), arguments("flux", True, STEPS)
    steps = steps_of(pipe, "flux", TeaCache(math.inf, sizes=[2, 2, 2, 1, 1, 1], protect=(3, 1)), call)[1]
    assert sizes(steps) == [2, 2, 2, 0, 0, 1]
    steps = steps_of(pipe, "flux", TeaCache(math.inf, sizes=Fixed(2, protect=(2, 2))), call)[1]
    assert sizes(steps) == [1, 1, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (lambda step: 1 + step % 2, [1, 0, 0, 0, 0, 2]),
        ([2, 1, 1, 1, 1, 1], [2, 0, 0, 0, 0, 1]),
        (Threshold(1e9), [1, 0, 0, 0, 0, 4]),
        (ddit_ext.Budget(1.5, costs=[0.4, 0.2]), [4, 0, 0, 0, 0, 1]),
    ],
    ids=["function", "list", "paper", "budget"],
)
def test_any_schedule_gives_the_sizes(given, expected):
    steps = steps_of(make("flux"), "flux", TeaCache(math.inf, sizes=given), arguments("flux", False, STEPS))[
        1
    ]
    assert sizes(steps) == expected


def test_with_sizes_a_report_and_a_second_run():
    pipe, call = make("flux"), arguments("flux", False, STEPS)
    handle = ddit_ext.patch(
        pipe, schedule=TeaCache(math.inf, sizes=Threshold(1e9, scales=(1, 2)), protect=(1, 2))
    )
    first = run("flux", pipe, call)
    data = handle.report().to_dict()
    assert torch.equal(run("flux", pipe, call), first)
    again = handle.report().to_dict()["steps"]
    assert [dict(step, seconds=0) for step in data["steps"]] == [dict(step, seconds=0) for step in again]
    assert sizes_of(handle) == [1, 0, 0, 0, 2, 2]
    assert (data["source"], data["thresholds"], data["dynamic"]) == ("latents", [1e9], True)
    assert data["steps_per_scale"] == {1: 1, 2: 2, 0: 3}
    assert data["steps"][0]["changes"] is None and all(step["changes"] for step in data["steps"][1:])
    assert f"change of the input {data['steps'][4]['changes'][0]:.1e}" in str(handle.report())
    state = handle._hook.watch.run.state
    assert not state.residuals._residuals and state._inputs._last is None
