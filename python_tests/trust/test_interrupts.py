"""Ctrl-C at every line of a patched call: the model is whole as soon as control is back, and the next run is as ever."""

import copy
import dis
import linecache
import sys
import threading

import pytest
import torch
from adapters import trained_adapter
from flux_pipelines import make_call, make_pipeline, run

import ddit_ext
from ddit_ext.runtime.patched_call import find_hook

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 5
CASES = {
    "skipped": dict(schedule=[1, 1, 0, 1, 1]),
    "coarse": dict(schedule=[1, 1, 2, 1, 1]),
    "split": dict(threshold=1e9, batch="split"),
}
"""The step after the second one is interrupted; in a split batch of one sample the fourth, the first that is coarse."""


class Interrupt:
    """Raises at event number `at` in frames of ddit_ext, and of torch.compile's wrappers around them."""

    def __init__(self, at, kind, opcodes=False):
        self.at, self.kind, self.opcodes = at, kind, opcodes
        self.events = 0
        self.raised = self.locking = False

    def __call__(self, frame, event, argument):
        if "/ddit_ext/" not in frame.f_code.co_filename and "/torch/_dynamo/" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = self.opcodes, not self.opcodes
        return self.inside

    def inside(self, frame, event, argument):
        # What is raised in front of a bytecode counts as raised by the one before it.
        locking, self.locking = self.locking, event == "opcode" and taking_the_lock(frame)
        meant = not taking_the_lock(frame)  # a line's event comes again where the block is left
        if event == "opcode":
            meant = not (locking or self.locking or doing_nothing(frame))
        if meant and event in ("line", "opcode"):
            self.events += 1
            if self.events == self.at:
                self.raised = True
                sys.settrace(None)
                raise self.kind
        return self.inside


def taking_the_lock(frame):
    """Whether the bytecode is one of `with hook.lock:` itself, between which Python handles no signal."""
    return frame.f_code.co_name == "_call_impl" and "lock" in linecache.getline(
        frame.f_code.co_filename, frame.f_lineno
    )


def doing_nothing(frame):
    """Whether the bytecode is a NOP, as `try:` is one: nothing is raised there, and none of the blocks around it would see it."""
    return frame.f_code.co_code[frame.f_lasti] == dis.opmap["NOP"]


class Story:
    """One patched pipeline that is interrupted again and again."""

    def __init__(self, case):
        self.pipe = make_pipeline()
        self.modules = dict(self.pipe.transformer.named_modules())
        self.tensors = {
            name: id(value) for name, value in self.pipe.transformer.state_dict(keep_vars=True).items()
        }
        adapter = None if case == "skipped" else trained_adapter(self.pipe.transformer)
        self.handle = ddit_ext.patch(self.pipe, adapter, **CASES[case])
        self.step = 2 if case == "split" else 1  # whose end starts the tracing
        self.call = make_call(steps=STEPS, rows=4, columns=4)
        self.want = run(self.pipe, self.call)

    def interrupted(self, at, kind, opcodes=False):
        """Whether there is such an event."""
        interrupt = Interrupt(at, kind, opcodes)

        def trace(pipe, index, timestep, kwargs):
            if index == self.step:
                sys.settrace(interrupt)
            elif index > self.step:
                sys.settrace(None)
            return kwargs

        try:
            run(self.pipe, self.call | {"callback_on_step_end": trace})
        except kind:
            pass
        finally:
            sys.settrace(None)
        return interrupt

    def check(self, what):
        model = self.pipe.transformer
        now = dict(model.named_modules())
        assert now.keys() == self.modules.keys() and all(now[k] is self.modules[k] for k in now), what
        assert {k: id(v) for k, v in model.state_dict(keep_vars=True).items()} == self.tensors, what
        free = []
        other = threading.Thread(target=lambda: free.append(find_hook(model).lock.acquire(blocking=False)))
        other.start()
        other.join()
        assert free == [True], f"{what}: the lock is held"
        find_hook(model).lock = threading.RLock()


def each(story, case, kinds, opcodes, stride, first):
    """All interrupts, and how many there were."""
    at, count = first, 0
    while True:
        kind = kinds[count % len(kinds)]
        interrupt = story.interrupted(at, kind, opcodes)
        if not interrupt.raised:
            return count
        story.check(f"{case}: {kind.__name__} at event {at}")
        at, count = at + stride, count + 1


@pytest.mark.parametrize("case", CASES)
def test_at_lines(case):
    story = Story(case)
    assert each(story, case, (KeyboardInterrupt, SystemExit), False, 23, len(case)) > 10
    assert torch.equal(run(story.pipe, story.call), story.want)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_at_every_bytecode(case):
    story = Story(case)
    count = each(story, case, (KeyboardInterrupt, SystemExit, MemoryError), True, 1, 1)
    print(f"{case}: {count} points")
    assert count > 1000
    assert torch.equal(run(story.pipe, story.call), story.want)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, torch.OutOfMemoryError])
def test_at_every_module(case, kind):
    """Inside of the forward, before each module of the transformer; then what one does in a notebook."""
    story = Story(case)
    model = story.pipe.transformer
    points = 0
    for name, module in list(story.modules.items()):
        if name == "":
            continue
        calls = []

        def press(*_, calls=calls):
            calls.append(1)
            if len(calls) == 3:
                raise kind

        hook = module.register_forward_pre_hook(press)
        try:
            run(story.pipe, story.call)
        except kind:
            points += 1
        hook.remove()
        story.check(f"{case}: {kind.__name__} before {name}")
    assert points > 20
    copied = copy.deepcopy(model)
    assert copied.state_dict().keys() == story.tensors.keys()
    assert torch.equal(run(story.pipe, story.call), story.want)
    story.handle.unpatch()
    assert not {"_call_impl", "_compiled_call_impl"} & set(vars(model))
