"""Forecast and TeaCache in every pipeline: how often the model is called, and that nothing is left behind.

TeaCache in a family's first pipeline: test_block_contract.py.
"""

import flux_pipelines
import pytest
import torch
import wan_pipelines
from family_cases import BY_NAME
from skip_cases import called
from tiny_edits import EDITS

import ddit_ext
from ddit_ext import Forecast, TeaCache
from ddit_ext.families import family_for

FIRST = {name: (BY_NAME, name, 8) for name in BY_NAME}
VARIANTS = {name: (EDITS, name, 8) for name in EDITS}
for kind in (*flux_pipelines.KINDS, *flux_pipelines.COMBINED):
    VARIANTS[f"FLUX.1 {kind}"] = flux_pipelines, kind, 8
for kind in wan_pipelines.KINDS:
    # With ten calls or more UniPC goes through every level of a gap.
    VARIANTS[f"Wan {kind}"] = wan_pipelines, kind, 20


def made(source, name, steps):
    """What the table calls its family, a pipeline, and a function that runs it; where there is a strength, half of the steps."""
    if source in (BY_NAME, EDITS):
        case = source[name]
        pipe, further = case.build(), {"strength": 0.5} if case.takes("strength") else {}
        return case.name, pipe, lambda: case.run(pipe, steps=steps, **further)
    pipe, call = source.make_pipeline(name), source.make_call(name, steps=steps)
    call |= {"strength": 0.5} if "strength" in call else {}
    family = wan_pipelines.FAMILY[name] if source is wan_pipelines else "FLUX.1"
    return family, pipe, lambda: source.run(pipe, call)


def first_block(transformer):
    return transformer.get_submodule(f"{family_for(transformer).BLOCKS[0]}.0")


@pytest.mark.parametrize(
    ("source", "name", "steps"), [*FIRST.values(), *VARIANTS.values()], ids=[*FIRST, *VARIANTS]
)
def test_half_of_the_steps_call_the_model(source, name, steps, supports):
    family, pipe, run = made(source, name, steps)
    calls = called(pipe)
    plain = run()
    every = len(calls)
    calls.clear()
    with ddit_ext.patch(pipe, schedule=Forecast(calls=steps, slope=0, corrector=0)):
        assert torch.equal(run(), plain)
    assert len(calls) == every
    calls.clear()
    with ddit_ext.patch(pipe, schedule=Forecast(calls=steps // 2)) as handle:
        few = run()
    assert len(calls) == every // 2
    report = handle.report().to_dict()
    scales = [step["scale"] for step in report["steps"]]
    assert scales[0] == 1 and scales.count(1) == scales.count(0) == len(scales) // 2
    assert not report["warnings"]
    assert few.isfinite().all() and not torch.equal(few, plain)
    assert torch.equal(run(), plain)
    supports(family, type(pipe).__name__, "Forecast")


@pytest.mark.parametrize(("source", "name", "steps"), VARIANTS.values(), ids=VARIANTS)
def test_between_the_ends_no_block_is_called(source, name, steps, supports):
    family, pipe, run = made(source, name, steps)
    calls = called(pipe, first_block)
    plain = run()
    every = len(calls)
    with ddit_ext.patch(pipe, schedule=TeaCache(0.0)):
        assert torch.equal(run(), plain)
    calls.clear()
    with ddit_ext.patch(pipe, schedule=TeaCache(1e9)) as handle:
        skipped = run()
    report = handle.report().to_dict()
    taken = report["steps"]
    levels = pipe.scheduler.sigmas[-len(taken) - 1 : -1].tolist()
    assert [step["noise_level"] for step in taken] == pytest.approx(levels)
    # A second transformer computes its first step, too.
    boundary = getattr(pipe.config, "boundary_ratio", None) or 0.0
    second = [index for index, level in enumerate(levels) if level < boundary][:1]
    computed = [step["index"] for step in taken if step["scale"]]
    assert computed == [0, *second, len(taken) - 1]
    assert len(calls) == len(computed) * every // len(taken)
    assert not report["warnings"]
    assert skipped.isfinite().all() and not torch.equal(skipped, plain)
    assert torch.equal(run(), plain)
    supports(family, type(pipe).__name__, "TeaCache")
