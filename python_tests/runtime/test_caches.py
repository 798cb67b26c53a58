"""diffusers' caches on a patched transformer: each size has its own states; none of another size is ever used."""

import flux_pipelines
import pytest
import torch
import wan_pipelines
from cache_cases import CONFIGS, RATIOS, SIZES, arguments, by_hand, enable, make, run
from diffusers import FasterCacheConfig, FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig
from diffusers.hooks import HookRegistry, ModelHook, apply_first_block_cache
from diffusers.hooks.hooks import BaseState, StateManager

import ddit_ext
from ddit_ext import policies
from ddit_ext.coarse import Adapter
from ddit_ext.families import family_for
from ddit_ext.modules.diffusers_hooks import hooks_of

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")


CASES = [("flux", cache) for cache in CONFIGS if cache != "sea"] + [("wan", cache) for cache in CONFIGS]
"""Without SeaCache on FLUX, for which diffusers has none."""

RUNS = [(family, cache, True) for family, cache in CASES] + [("flux", "mag", False), ("wan", "sea", False)]


def left_over(transformer):
    """Names of the contexts of a size that are still in the caches' states."""
    hooks = [hook for module in transformer.modules() for hook in hooks_of(module).values()]
    managers = [value for hook in hooks for value in vars(hook).values() if isinstance(value, StateManager)]
    return [name for manager in managers for name in manager._state_cache if "patch" in name]


@pytest.mark.parametrize(("family", "cache", "guided"), RUNS)
def test_each_stay_at_a_size_is_a_cache_of_its_own(family, cache, guided):
    call = arguments(family, guided)
    pipe = make(family)
    handle = ddit_ext.patch(pipe, schedule=SIZES)
    without = run(family, pipe, call)
    handle.unpatch()
    pipe, clock = enable(family, cache)
    ddit_ext.patch(pipe, schedule=SIZES)
    stacked = run(family, pipe, call, clock)
    assert torch.equal(stacked, by_hand(family, cache, call, SIZES, guided))
    assert not torch.equal(stacked, without)  # the cache did skip something
    assert not left_over(pipe.transformer)
    assert torch.equal(run(family, pipe, call, clock), stacked)


@pytest.mark.parametrize(("family", "cache"), CASES)
def test_at_size_one_and_after_unpatch_a_cache_is_what_it_was(family, cache):
    call = arguments(family, guided=True, steps=7)
    pipe, clock = enable(family, cache)
    before = run(family, pipe, call, clock)
    handle = ddit_ext.patch(pipe, schedule=1)
    assert torch.equal(run(family, pipe, call, clock), before)
    handle.unpatch()
    handle = ddit_ext.patch(pipe, schedule=[1, 1, 2, 2, 4, 4, 1])
    assert not torch.equal(run(family, pipe, call, clock), before)
    handle.unpatch()
    assert torch.equal(run(family, pipe, call, clock), before)


@pytest.mark.parametrize("family", ["flux", "wan"])
def test_a_threshold_of_zero_changes_nothing(family):
    """Neither with fixed nor with dynamic sizes; the cache is enabled after patching."""
    call = arguments(family, guided=True, steps=8)
    for schedule in ([1, 2, 2, 4, 4, 1, 2, 1], policies.BudgetPolicy((1, 2, 4), (0.4, 0.2), 1.6)):
        pipe = make(family)
        ddit_ext.patch(pipe, schedule=schedule)
        expected = run(family, pipe, call)
        pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
        assert torch.equal(run(family, pipe, call), expected)


def test_two_transformers_count_their_own_steps():
    """Wan 2.2: what MagCache counts of the second one begins with it, as without a patch."""
    call = wan_pipelines.make_call("two", steps=8)

    def cached():
        pipe = wan_pipelines.make_pipeline("two", num_layers=2)
        for transformer in (pipe.transformer, pipe.transformer_2):
            transformer.enable_cache(
                MagCacheConfig(mag_ratios=RATIOS[:8], num_inference_steps=8, threshold=0.5)
            )
        return pipe

    expected = run("wan", cached(), call)
    pipe = cached()
    handle = ddit_ext.patch(pipe, schedule=1)
    assert torch.equal(run("wan", pipe, call), expected)
    handle.unpatch()
    ddit_ext.patch(pipe, schedule=[2, 2, 1, 1, 1, 4, 4, 4])
    run("wan", pipe, call)
    assert not left_over(pipe.transformer) and not left_over(pipe.transformer_2)


class InTurn(policies.Policy):
    """Fixed sizes for each sample: the policies that a split batch asks for are dealt the lists in turn."""

    def __init__(self, lists):
        self.lists, self.started = lists, 0
        self.mine = lists[0]

    def begin(self, total_steps):
        pass

    def decide(self, step, scores):
        return self.mine[step]

    def start(self):
        """The first is the whole batch's, until there is a signal."""
        made = InTurn(self.lists)
        made.mine = self.lists[max(self.started - 1, 0)]
        self.started += 1
        return made


def test_a_split_batch_has_states_for_each_group_of_samples():
    """Both samples change size at the same steps, so that each is alone with its cache from the first signal on."""
    sizes = [[1, 1, 1, 2, 2, 2, 1, 1, 1], [1, 1, 1, 4, 4, 4, 2, 2, 2]]
    call = arguments("flux", guided=True, steps=9)
    both = {
        name: value if not isinstance(value, torch.Tensor) else torch.cat([value, value.flip(1) * 1.5])
        for name, value in call.items()
    }
    both["latents"] = torch.randn(2, 24, 16, generator=torch.Generator().manual_seed(9))

    def one(sample):
        return {
            name: value[sample : sample + 1] if isinstance(value, torch.Tensor) else value
            for name, value in both.items()
        }

    pipe = make("flux")
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    handle = ddit_ext.patch(pipe, schedule=InTurn(sizes), batch="split")
    together = run("flux", pipe, both)
    taken = [step["scales"] for step in handle.report().to_dict()["steps"]]
    handle.unpatch()
    assert taken[3:] == [[a, b] for a, b in zip(*sizes, strict=True)][3:]
    for sample in range(2):
        handle = ddit_ext.patch(pipe, schedule=sizes[sample])
        torch.testing.assert_close(run("flux", pipe, one(sample))[0], together[sample], rtol=1e-4, atol=1e-4)
        handle.unpatch()
    assert not left_over(pipe.transformer)


def test_calls_without_a_context_are_given_one():
    """img2img names no branch, so that FirstBlockCache alone raises there; the calls of a step stand in."""
    pipe = flux_pipelines.make_pipeline("img2img")
    call = flux_pipelines.make_call("img2img", steps=6, true_cfg=True)
    handle = ddit_ext.patch(pipe, schedule=[1, 2, 2, 1, 1, 1])
    expected = run("flux", pipe, call)
    handle.unpatch()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    with pytest.raises(ValueError, match="No cache context is set"):
        run("flux", pipe, call)
    ddit_ext.patch(pipe, schedule=[1, 2, 2, 1, 1, 1])
    assert torch.equal(run("flux", pipe, call), expected)
    pipe.transformer.disable_cache()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    assert not torch.equal(run("flux", pipe, call), expected)


def test_a_run_that_was_interrupted_leaves_nothing_for_the_next():
    call = arguments("flux", guided=False, steps=6)
    pipe, _ = enable("flux", "first_block")
    handle = ddit_ext.patch(pipe, schedule=[1, 1, 2, 2, 2, 2])
    expected = run("flux", pipe, call)

    def interrupt(pipe, step, timestep, tensors):
        if step == 3:
            raise KeyboardInterrupt
        return tensors

    with pytest.raises(KeyboardInterrupt):
        run("flux", pipe, call | {"callback_on_step_end": interrupt})
    assert torch.equal(run("flux", pipe, call), expected)
    with pytest.raises(KeyboardInterrupt):
        run("flux", pipe, call | {"callback_on_step_end": interrupt})
    handle.unpatch()
    assert not left_over(pipe.transformer)


class UnknownState(BaseState):
    def reset(self):
        pass


class UnknownHook(ModelHook):
    _is_stateful = True

    def __init__(self):
        super().__init__()
        self.manager = StateManager(UnknownState)

    def reset_state(self, module):
        return module


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TaylorSeerCacheConfig(use_lite_mode=True), "TaylorSeerCacheConfig .* proj_out"),
        (MagCacheConfig(calibrate=True, num_inference_steps=2), "MagCacheConfig .* calibrate"),
        (
            FasterCacheConfig(current_timestep_callback=lambda: 900, attention_weight_callback=lambda _: 0.5),
            "FasterCacheConfig .* is_guidance_distilled",
        ),
        (None, "UnknownHook .* not known"),
    ],
)
def test_what_cannot_work_raises_by_name(config, message):
    pipe, call = make("flux"), arguments("flux", guided=False, steps=2)
    handle = ddit_ext.patch(pipe, schedule=[1, 2])
    expected = run("flux", pipe, call)
    registry = HookRegistry.check_if_exists_or_initialize(pipe.transformer.transformer_blocks[0])
    if config is None:
        registry.register_hook(UnknownHook(), "unknown")
    else:
        pipe.transformer.enable_cache(config)
    single = isinstance(
        config, FasterCacheConfig
    )  # halves the batch, so that a single sample fails without a patch
    if not single:
        with pytest.raises(NotImplementedError, match=message):
            run("flux", pipe, call)
    handle.unpatch()
    ddit_ext.patch(pipe, schedule=2)
    with pytest.raises(NotImplementedError, match=message):
        run("flux", pipe, call)
    if config is None:
        registry.remove_hook("unknown")
    else:
        pipe.transformer.disable_cache()
    ddit_ext.unpatch(pipe)
    ddit_ext.patch(pipe, schedule=[1, 2])
    assert torch.equal(run("flux", pipe, call), expected)


def test_hooks_that_were_applied_without_enable_cache_count_too():
    call = arguments("flux", guided=False, steps=4)
    pipe = make("flux")
    ddit_ext.patch(pipe, schedule=[1, 2, 2, 4])
    expected = run("flux", pipe, call)
    apply_first_block_cache(pipe.transformer, FirstBlockCacheConfig(threshold=0.0))
    assert torch.equal(run("flux", pipe, call), expected)


def test_family_by_hand_does_not_separate_caches():
    pipe = make("flux")
    pipe.transformer.enable_cache(FirstBlockCacheConfig())
    family = family_for(pipe.transformer)
    weights = Adapter.training_free(pipe.transformer, (2,)).weights(2, torch.zeros(1))
    with (
        pytest.raises(NotImplementedError, match="FirstBlockCacheConfig"),
        family.coarse({}, weights, None),
    ):
        pass
