"""Steps without the blocks: what they give, what is kept for them, and that nothing of it stays."""

import copy
import math

import accelerate
import flux_pipelines
import pytest
import torch
import wan_pipelines
from adapters import trained_adapter
from cache_cases import arguments, make, run
from skip_cases import FAMILIES, STEPS, Given, counted, sizes_of

import ddit_ext
from ddit_ext import TeaCache
from ddit_ext.coarse import Adapter
from ddit_ext.families import family_for
from ddit_ext.families.model import check_here
from ddit_ext.modules.swap import Changes
from ddit_ext.runtime.denoisers import Part
from ddit_ext.runtime.residual_cache import ResidualCache

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")


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
    part = Part("transformer", pipe.transformer, family := family_for(pipe.transformer))
    weights = Adapter.training_free(pipe.transformer, (2,)).weights(2, calls[0]["hidden_states"])
    counts = counted(pipe.transformer)
    reuse = ResidualCache()
    reuse.begin_step(part, scale)

    def output(skipped):
        given = calls[0] | {"return_dict": False}
        changes = Changes()
        if scale == 2:
            given = family.enter_coarse(changes, given, weights, family.noise_level(given))
        seen = reuse.enter(changes, part, 0, skipped)
        with torch.no_grad():
            result = pipe.transformer(**given)[0]
        changes.undo()
        if seen is not None:
            reuse.keep(0, seen, copied=False)
        return result

    computed = output(skipped=False)
    assert counts == [1] * len(counts) and reuse.has(part, 0, len(computed))
    torch.testing.assert_close(output(skipped=True), computed)
    assert counts == [1] * len(counts)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_left_over(family):
    """Neither for the next run, nor after an error in the middle of one, nor after unpatch."""
    call = arguments(family, True, STEPS)
    pipe = make(family)
    expected = run(family, pipe, call)
    modules = list(pipe.transformer.named_modules(remove_duplicate=False))
    handle = ddit_ext.patch(pipe, schedule=TeaCache(math.inf))
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
    state = handle._hook.watch.run.state
    handle.unpatch()
    assert not state.residuals._residuals and state._inputs._last is None
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
            with handle.run(sampler=pipe.scheduler):
                pipe.transformer(**dict(seen))
        return original(*args, **kwargs)

    pipe.scheduler.step = step
    with pytest.warns(UserWarning, match=r"step 1 was skipped, but its call 1 \(from 0\) had nothing"):
        run("flux", pipe, call)
    assert counts == [3] * len(counts)  # steps 0 and 3, and the second call of step 1


@pytest.mark.parametrize("lora", ["beside", "merged"])
def test_a_lora_in_the_first_block_stays_in_it(lora):
    call = arguments("flux", True, 4)
    pipe = make("flux")
    adapter = trained_adapter(pipe.transformer)
    adapter.lora = lora
    handle = ddit_ext.patch(pipe, adapter, schedule=[1, 2, 4, 1])
    expected = run("flux", pipe, call)
    handle.unpatch()
    handle = ddit_ext.patch(pipe, adapter, schedule=Given([1, 2, 4, 1]))
    assert torch.equal(run("flux", pipe, call), expected)
    handle.unpatch()
    ddit_ext.patch(pipe, adapter, schedule=Given([1, 2, 0, 1]))
    assert not torch.equal(run("flux", pipe, call), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_sequential_offload(family):
    call = arguments(family, True, 4)
    pipe = make(family)
    ddit_ext.patch(pipe, schedule=TeaCache(math.inf))
    expected = run(family, pipe, call)
    pipe.vae = copy.deepcopy(pipe.vae)  # tests share it
    for module in (pipe.vae, pipe.transformer):  # as enable_sequential_cpu_offload does, but without a GPU
        accelerate.cpu_offload(module, execution_device=torch.device("cpu"))
    assert torch.equal(run(family, pipe, call), expected)


def test_weights_that_come_with_the_call_leave_a_step_without_a_signal(monkeypatch):
    away = torch.nn.Linear(2, 2, device="meta")
    with pytest.raises(ValueError, match="weights it is made with are on meta, the latent on cpu"):
        check_here(away, away, torch.zeros(1))
    here = torch.nn.Linear(2, 2)
    check_here(here, here, torch.zeros(1))
    accelerate.cpu_offload_with_hook(
        whole := torch.nn.Sequential(torch.nn.Linear(2, 2)), torch.device("meta")
    )
    check_here(whole, whole[0], torch.zeros(1, device="meta"))
    assert whole[0].weight.is_meta
    pipe = make("flux")
    handle = ddit_ext.patch(pipe, schedule=TeaCache(math.inf))
    original, calls = handle._hook.parts[0].family.first_input, [0]

    def first_input(arguments):
        calls[0] += 1
        if calls[0] == 1:
            check_here(away, away, arguments["hidden_states"])
        return original(arguments)

    monkeypatch.setattr(handle._hook.parts[0].family, "first_input", first_input)
    with pytest.warns(UserWarning, match="no signal: the first block's input can't be told before a call"):
        run("flux", pipe, arguments("flux", False, STEPS))
    assert sizes_of(handle) == [1, 1, 0, 0, 0, 1]


def test_nothing_of_another_transformer_is_used():
    pipe = wan_pipelines.make_pipeline("two")
    handle = ddit_ext.patch(pipe, schedule=Given([1, 0, 0, 0, 0, 0, 0, 1]))
    with pytest.warns(UserWarning, match="was computed: the schedule skips it, but there was nothing"):
        wan_pipelines.run(pipe, wan_pipelines.make_call("two", steps=8))
    levels = [step["noise_level"] for step in handle.report().to_dict()["steps"]]
    switch = next(i for i, level in enumerate(levels) if level < pipe.config.boundary_ratio)
    assert sizes_of(handle) == [int(i in (0, switch, 7)) for i in range(8)]
