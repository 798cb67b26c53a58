"""TeaCache's rule on pipelines: which steps are skipped, and what a skipped step gives."""

import math

import flux_pipelines
import pytest
import torch
import wan_pipelines
from cache_cases import arguments, make, run
from diffusers import FirstBlockCacheConfig

import ddit_ext
from ddit_ext import policies
from ddit_ext.models import steering_for
from ddit_ext.multiscale import Adapter
from ddit_ext.patching.parts import Part
from ddit_ext.patching.reuse import BlockReuse

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")

STEPS = 6
FAMILIES = ["flux", "wan"]
RUNS = [(family, guided) for family in FAMILIES for guided in (False, True)]


def blocks_of(transformer):
    lists = ("transformer_blocks", "single_transformer_blocks", "blocks", "vace_blocks")
    return [block for name in lists for block in getattr(transformer, name, ())]


def counted(transformer):
    """The number of calls of each block so far."""
    blocks = blocks_of(transformer)
    counts = [0] * len(blocks)

    def count(place):
        def hook(*_):
            counts[place] += 1

        return hook

    for place, block in enumerate(blocks):
        block.register_forward_hook(count(place))
    return counts


def sizes_of(handle):
    return [step["scale"] for step in handle.report().to_dict()["steps"]]


class Given(policies.Policy):
    """Sizes as they are given; 0 skips."""

    needs_signal = False
    skips = True

    def __init__(self, sizes):
        self.sizes = sizes

    def begin(self, total_steps):
        pass

    def decide(self, step, scores):
        return self.sizes[step]


def middle_threshold(family, call):
    """One that some steps of a run are above and some below."""
    pipe = make(family)
    handle = ddit_ext.patch(pipe, schedule=policies.TeaCachePolicy(1e-30))
    run(family, pipe, call)
    changes = [step["scores"][0][0] for step in handle.report().to_dict()["steps"][1:]]
    return 1.5 * max(changes[:-1])


@pytest.mark.parametrize(("family", "guided"), RUNS)
def test_where_nothing_is_skipped_nothing_changes(family, guided):
    call = arguments(family, guided, STEPS)
    expected = run(family, make(family), call)
    for policy in (policies.TeaCachePolicy(0.0), policies.TeaCachePolicy(1e-30)):
        pipe = make(family)
        handle = ddit_ext.patch(pipe, schedule=policy)
        assert torch.equal(run(family, pipe, call), expected)
        assert sizes_of(handle) == [1] * STEPS


@pytest.mark.parametrize(("family", "guided"), RUNS)
def test_above_all_changes_only_the_ends_are_computed(family, guided):
    pipe = make(family)
    counts = counted(pipe.transformer)
    handle = ddit_ext.patch(pipe, schedule=policies.TeaCachePolicy(math.inf, protect_first=2))
    run(family, pipe, arguments(family, guided, STEPS))
    assert sizes_of(handle) == [1, 1, 0, 0, 0, 1]
    assert counts == [3 * (1 + guided)] * len(counts)
    assert not handle._hook.reuse._added and handle._hook.inputs._last is None


def test_the_scores_are_the_changes_of_the_modulated_input():
    call = arguments("flux", False, STEPS)
    pipe = make("flux")
    seen = []
    norm = pipe.transformer.transformer_blocks[0].norm1
    remove = norm.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    run("flux", pipe, call)
    remove.remove()
    handle = ddit_ext.patch(pipe, schedule=policies.TeaCachePolicy(1e-30))
    run("flux", pipe, call)
    scores = [step["scores"] for step in handle.report().to_dict()["steps"]]
    assert scores[0] is None
    for score, before, after in zip(scores[1:], seen, seen[1:], strict=False):
        change = (after - before).abs().mean() / before.abs().mean()
        assert score == [[pytest.approx(change.item(), rel=1e-5)]]


def test_wan_is_compared_by_what_modulates_it():
    call = arguments("wan", True, STEPS)
    pipe = make("wan")
    handle = ddit_ext.patch(pipe, schedule=policies.TeaCachePolicy(1e-30))
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
    handle = ddit_ext.patch(pipe, schedule=policies.TeaCachePolicy(threshold, coefficients=(0.5, 1.0, 0.0)))
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


def flux_by_hand(sizes, call, branches):
    """A run of the pipeline whose skipped steps are put together out of the model's layers."""
    pipe = make("flux")
    model = pipe.transformer
    original, seen, added, calls = model.forward, {}, {}, [0]
    model.x_embedder.register_forward_hook(lambda module, args, output: seen.update(first=output))
    model.norm_out.register_forward_pre_hook(lambda module, args: seen.update(last=args[0]))

    def forward(**kwargs):
        step, branch = divmod(calls[0], branches)
        calls[0] += 1
        if sizes[step]:
            output = original(**kwargs)
            added[branch] = seen["last"] - seen["first"]
            return output
        told = model.time_text_embed(kwargs["timestep"] * 1000, kwargs["pooled_projections"])
        tokens = model.x_embedder(kwargs["hidden_states"]) + added[branch]
        return (model.proj_out(model.norm_out(tokens, told)),)

    model.forward = forward
    return run("flux", pipe, call)


@pytest.mark.parametrize("guided", [False, True])
def test_a_skipped_step_adds_what_the_blocks_of_its_branch_added(guided):
    call = arguments("flux", guided, STEPS)
    sizes = [1, 0, 1, 0, 0, 1]
    pipe = make("flux")
    handle = ddit_ext.patch(pipe, schedule=Given(sizes))
    given = run("flux", pipe, call)
    assert sizes_of(handle) == sizes
    assert torch.equal(given, flux_by_hand(sizes, call, 1 + guided))
    assert not torch.equal(given, run("flux", make("flux"), call))


CALLS = [
    ("flux", kind, scale) for kind in ("text", "kontext", "controlnet", "ip_adapter") for scale in (1, 2)
] + [("wan", kind, scale) for kind in ("text", "ti2v_image", "i2v_21", "vace", "animate") for scale in (1, 2)]


@pytest.mark.parametrize(("family", "kind", "scale"), CALLS)
def test_on_a_constant_input_a_skipped_call_gives_what_was_computed(family, kind, scale):
    pipelines = flux_pipelines if family == "flux" else wan_pipelines
    pipe = pipelines.make_pipeline(kind)
    calls = []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(dict(kwargs)), with_kwargs=True
    )
    pipelines.run(pipe, pipelines.make_call(kind, rows=4, columns=4, steps=2))
    hook.remove()
    part = Part("transformer", pipe.transformer, steering := steering_for(pipe.transformer))
    weights = Adapter.training_free(pipe.transformer, (2,)).weights(2, calls[0]["hidden_states"])
    counts = counted(pipe.transformer)
    reuse = BlockReuse()
    reuse.begin_step(part, scale)

    def output(skipped):
        given = calls[0] | {"return_dict": False}
        if scale == 1:
            with torch.no_grad(), reuse.call(part, 0, skipped):
                return pipe.transformer(**given)[0]
        sigma = steering.noise_level(given)
        with torch.no_grad(), steering.coarse(given, weights, sigma) as rewritten:
            with reuse.call(part, 0, skipped):
                return pipe.transformer(**rewritten)[0]

    computed = output(skipped=False)
    assert counts == [1] * len(counts) and reuse.has(part, 0)
    torch.testing.assert_close(output(skipped=True), computed)
    assert counts == [1] * len(counts)


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
    handle = ddit_ext.patch(pipe, schedule=policies.TeaCachePolicy(math.inf))
    wan_pipelines.run(pipe, wan_pipelines.make_call("two", steps=8))
    levels = [step["noise_level"] for step in handle.report().to_dict()["steps"]]
    switch = next(i for i, level in enumerate(levels) if level < pipe.config.boundary_ratio)
    assert sizes_of(handle) == [int(i in (0, switch, 7)) for i in range(8)]
    assert counts == [2] and second == [4]


def test_a_batch_skips_only_what_all_samples_would():
    call = flux_pipelines.make_call(batch=2, steps=8)
    call["latents"] = torch.randn(2, 24, 16, generator=torch.Generator().manual_seed(9))
    pipe = make("flux")
    handle = ddit_ext.patch(pipe, schedule=policies.TeaCachePolicy(math.inf))
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
    assert "skip" in str(report) and "2 at 1, 0 at 2, 4 skipped" in str(report)
    assert not data["warnings"]
    report.html(tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text()
    assert "4 skipped" in page and "change of the input" in page and "threshold of" not in page
    pytest.importorskip("matplotlib")
    report.plot(tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 0


def test_a_report_says_that_nothing_was_skipped():
    pipe = make("flux")
    handle = ddit_ext.patch(pipe, schedule=policies.TeaCachePolicy(1e-30))
    run("flux", pipe, arguments("flux", False, 3))
    assert handle.report().to_dict()["warnings"] == ["no step was skipped: a larger threshold skips more"]


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_left_over(family):
    """Neither for the next run, nor after an error in the middle of one, nor after unpatch."""
    call = arguments(family, True, STEPS)
    pipe = make(family)
    expected = run(family, pipe, call)
    modules = list(pipe.transformer.named_modules(remove_duplicate=False))
    handle = ddit_ext.patch(pipe, schedule=policies.TeaCachePolicy(math.inf))
    first = run(family, pipe, call)
    assert not torch.equal(first, expected)

    def stop(pipe, step, *_):
        if step == 3:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        run(family, pipe, call | {"callback_on_step_end": stop})
    assert torch.equal(run(family, pipe, call), first)
    with pytest.raises(KeyboardInterrupt):
        run(family, pipe, call | {"callback_on_step_end": stop})
    handle.unpatch()
    assert not handle._hook.reuse._added and handle._hook.inputs._last is None
    assert list(pipe.transformer.named_modules(remove_duplicate=False)) == modules
    assert torch.equal(run(family, pipe, call), expected)


def test_a_skip_with_nothing_to_use_again_is_computed():
    pipe = make("flux")
    handle = ddit_ext.patch(pipe, schedule=Given([0, 0, 1]))
    with pytest.warns(UserWarning, match="step 0 was computed: the schedule skips it, but there was nothing"):
        run("flux", pipe, arguments("flux", False, 3))
    assert sizes_of(handle) == [1, 0, 1]


def test_a_branch_that_was_not_called_before_is_computed():
    """A second call in a skipped step only: guidance that begins within a run."""
    pipe = make("flux")
    call = arguments("flux", False, 4)
    counts = counted(pipe.transformer)
    handle = ddit_ext.patch(pipe, schedule=Given([1, 0, 0, 1]))
    original = pipe.scheduler.step
    seen = {}
    pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )

    def step(*args, **kwargs):
        if handle._hook.watch.run.index in (1, 2) and not handle._hook.watch.run.repeats:
            pipe.transformer(**dict(seen))
        return original(*args, **kwargs)

    pipe.scheduler.step = step
    with pytest.warns(UserWarning, match=r"step 1 was skipped, but its call 1 \(from 0\) had nothing"):
        run("flux", pipe, call)
    assert counts == [3] * len(counts)  # steps 0 and 3, and the second call of step 1


def test_what_cannot_work_says_so():
    pipe = make("flux")
    with pytest.raises(
        NotImplementedError, match=r"batch='split' with a schedule that skips.*TeaCachePolicy"
    ):
        ddit_ext.patch(pipe, schedule=policies.TeaCachePolicy(0.1), batch="split")
    with pytest.raises(ValueError, match=r"scales: the policy in schedule has \(1,\), got \(1, 2\)"):
        ddit_ext.patch(pipe, schedule=policies.TeaCachePolicy(0.1), scales=(1, 2))
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
