"""diffusers' caches on a patched transformer: each size has states of its own, and is entered with a full pass.

`enable_cache` (diffusers.hooks) puts hooks with states on a transformer: tokens of the last full pass, counters of steps.
Tokens of one size mean nothing at another. So while a call at a size is under way the hooks find the states of that size
(and, in a split batch, of those samples), and what a size had kept is dropped as soon as a step is taken without it.
A whole call at size 1 has the states that the hooks have without a patch. No class is changed: names of contexts,
`state` attributes and, for one call, one number of TaylorSeer's hooks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffusers.hooks import hooks as diffusers_hooks

from ..modules.diffusers_hooks import hooks_of
from ..modules.swap import Changes
from .sampler_run import Run

if TYPE_CHECKING:
    from diffusers.hooks.hooks import ModelHook, StateManager

    from ..families import Family

# By name: not every version of diffusers has all of them.
BY_CONTEXT = {
    "FBCSharedBlockState",
    "MagCacheState",
    "SeaCacheContextState",
    "TaylorSeerState",
    "TextKVCacheState",
}
"""States that a StateManager keeps by the name of the pipeline's `cache_context`."""

BY_HOOK = {"PyramidAttentionBroadcastHook", "FasterCacheBlockHook", "FasterCacheDenoiserHook"}
"""Hooks with one `state` for all contexts."""

WHOLE = ""
"""Label of a whole call at size 1."""

MARK = "@patch "
"""What all other labels begin with; they stand at the end of a context's name."""


class CacheContexts:
    """The caches of one transformer, whenever they were enabled, and the states of each size."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._hooks: list[tuple[Any, ModelHook]] = []  # stateful ones, with their modules
        self._managers: list[StateManager] = []
        self._states: dict[tuple[int, str, int], Any] = {}  # of BY_HOOK: by hook, label, call within the step
        self._config: Any = None
        self._run: Run | None = None
        self._index = -1  # of the step under way in the run
        self._steps = -1  # the same among the steps that this transformer took part in
        self._labels: set[str] = set()

    def begin_step(self, run: Run, labels: Mapping[int, str], skips: bool = False) -> None:
        """At each call: labels of the sizes of its step. States of all others are dropped.

        skips: whether steps of the run may be skipped, which no cache would notice.
        NotImplementedError, by name, for a cache that a coarse or a skipped call would silently get wrong.
        """
        config = getattr(self._family.transformer, "_cache_config", None)
        if run is not self._run:
            self._run, self._index, self._steps, self._labels = run, -1, -1, set()
        elif run.index == self._index and config is self._config:
            return
        if self._steps < 0 or config is not self._config:
            self._find(config)
        wanted = set(labels.values())
        if skips and self._hooks:
            raise NotImplementedError(
                f"{self._name(self._hooks[0][1])} with a schedule that skips steps: both use old features again, and "
                "the cache would not see the steps that are skipped; use one of them"
            )
        if wanted != {WHOLE}:
            self._check()
        if run.index != self._index:
            self._index = run.index
            self._steps += 1
        self._keep(wanted & self._labels)
        self._labels = wanted

    def enter(self, changes: Changes, label: str, call: int) -> None:
        """Until `changes.undo()` the hooks see the states of `label`; call: how many the step has had before this one."""
        for manager in self._managers:
            self._enter_context(changes, manager, label, call)
        if label != WHOLE:
            for place, (_, hook) in enumerate(self._hooks):
                if _kind(hook) in BY_HOOK:
                    self._enter_state(changes, place, hook, label, call)

    def end(self, run: Run) -> None:
        """A run is over."""
        if run is self._run:
            self.drop()

    def drop(self) -> None:
        """Forget the states of all labels but a whole call's at size 1."""
        for manager in self._managers:
            for name in [name for name in manager._state_cache if MARK in name]:
                del manager._state_cache[name]
        self._states.clear()
        self._hooks, self._managers, self._config, self._run = [], [], None, None

    def _find(self, config: Any) -> None:
        """Look for hooks. Not by diffusers' own list of registries, which misses those that came after a first run."""
        self._config = config
        self._states.clear()
        self._hooks, managers = [], {}
        for module in self._family.transformer.modules():
            for hook in hooks_of(module).values():
                found = _managers(hook)
                managers |= {id(manager): manager for manager in found}
                if found or hook._is_stateful:
                    self._hooks.append((module, hook))
        # Versions that name contexts otherwise are left alone: `_check` raises.
        if hasattr(diffusers_hooks, "CacheContext"):
            self._managers = list(managers.values())

    def _check(self) -> None:
        transformer = self._family.transformer
        replaced = {id(transformer.get_submodule(name)): name for name in self._family.replaced}
        for module, hook in self._hooks:
            kinds = {manager._state_cls.__name__ for manager in _managers(hook)}
            wrong = None
            if not hasattr(diffusers_hooks, "CacheContext"):
                wrong = "this version of diffusers has no CacheContext to keep sizes apart by"
            elif not (kinds <= BY_CONTEXT if kinds else _kind(hook) in BY_HOOK):
                wrong = "its states are not known, and may hold tokens of another size"
            elif id(module) in replaced:
                wrong = (
                    f"it caches {replaced[id(module)]}, which coarse patches replace; leave it off this layer"
                )
            elif _kind(hook) == "FasterCacheDenoiserHook" and not hook.is_guidance_distilled:
                wrong = "without is_guidance_distilled it halves the batch inside of a call"
            elif _kind(hook) == "MagCacheHeadHook" and hook.config.calibrate:
                wrong = "calibrate=True measures one run at one size: calibrate without coarse steps"
            if wrong:
                raise NotImplementedError(f"{self._name(hook)} with coarse patches: {wrong}")

    def _name(self, hook: ModelHook) -> str:
        """The name of the cache that a hook belongs to."""
        return type(hook).__name__ if self._config is None else type(self._config).__name__

    def _keep(self, labels: set[str]) -> None:
        """Drop all states but those of `labels`."""
        for manager in self._managers:
            for name in [name for name in manager._state_cache if _label_of(name) not in labels]:
                del manager._state_cache[name]
        self._states = {key: state for key, state in self._states.items() if key[1] in labels}
        if WHOLE not in labels:
            for _, hook in self._hooks:
                if _kind(hook) in BY_HOOK:
                    hook.state.reset()
                    if self._steps > 0:
                        _full_pass_next(hook)

    def _enter_context(self, changes: Changes, manager: StateManager, label: str, call: int) -> None:
        """Let the manager find the states of the label, beside the branch that the pipeline names."""
        own = manager._context
        # img2img, inpaint, Kontext and others name no branch; the calls of a step tell them apart as well.
        branch = diffusers_hooks.CacheContext(f"call {call}") if own is None else own
        context = dataclasses.replace(branch, name=branch.name + label)
        changes.put(vars(manager), "_context", context)
        if context.name in manager._state_cache:
            return
        state = manager.get_state()
        # What these count is steps of the run, not of the size.
        if _kind(state) == "MagCacheState":
            state.step_index = self._steps
        elif _kind(state) == "TaylorSeerState":
            state.current_step = self._steps - 1
            for _, hook in self._hooks:
                if _kind(hook) == "TaylorSeerCacheHook" and hook.state_manager is manager:
                    before = max(hook.disable_cache_before_step, self._steps + 1)
                    changes.put(vars(hook), "disable_cache_before_step", before)

    def _enter_state(self, changes: Changes, place: int, hook: Any, label: str, call: int) -> None:
        key = (place, label, call)
        known = key in self._states
        changes.put(vars(hook), "state", self._states.setdefault(key, type(hook.state)()))
        if not known:
            _full_pass_next(hook)


def _full_pass_next(hook: Any) -> None:
    """FasterCache computes when its counter says so, not when it has nothing to use again."""
    if _kind(hook.state) == "FasterCacheBlockState":
        hook.state.iteration = hook.block_skip_range


def _managers(hook: ModelHook) -> list[StateManager]:
    return [value for value in vars(hook).values() if isinstance(value, diffusers_hooks.StateManager)]


def _kind(thing: Any) -> str:
    return type(thing).__name__


def _label_of(name: str) -> str:
    """The label in the name of a context."""
    _, mark, rest = name.rpartition(MARK)
    return mark + rest if mark else WHOLE
