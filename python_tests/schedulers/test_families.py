"""ForecastScheduler in tiny random pipelines of every flow-matching family, and the table in docs that says which.

``DDIT_WRITE_TABLES=1 pytest python_tests/schedulers/test_families.py`` writes the table; without, it must be what ran.
"""

import functools
import os
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from diffusers.utils import logging
from flow_families import FAMILIES

import ddit_ext

STEPS, CALLS = 8, 4
DOC = Path(__file__).resolve().parents[2] / "docs" / "forecast-families.md"
WAYS = ("float32", "bfloat16", "batch, generators", "changed latents", "interrupt", "img2img", "inpaint")
NAMES = [family.name for family in FAMILIES]
WITH_VARIANTS = [(family.name, kind) for family in FAMILIES for kind in family.variants]
RAN = defaultdict(set)  # family -> the ways that a test has run it

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*CPU [aA]utocast.*"),
    pytest.mark.filterwarnings("ignore:.*FluxPosEmbed.*:FutureWarning"),
]


@pytest.fixture(autouse=True)
def quietly():
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(before)


def named(name):
    (family,) = (each for each in FAMILIES if each.name == name)
    return family


@functools.cache
def built(name, kind="", dtype=torch.float32):
    """A family and its pipeline, made once; `fresh` gives it its own scheduler back."""
    family = named(name).variant(kind) if kind else named(name)
    pipe = family.build(dtype)
    calls = []
    pipe.transformer.register_forward_pre_hook(lambda *_: calls.append(None))
    return family, pipe, pipe.scheduler, calls


def fresh(*which, **further):
    family, pipe, own, calls = built(*which, **further)
    pipe.scheduler = own
    calls.clear()
    return family, pipe, calls


def forecast(pipe, calls=CALLS, **settings):
    pipe.scheduler = ddit_ext.ForecastScheduler.from_scheduler(pipe.scheduler, calls=calls, **settings)


def all_steps_and_some(name, kind="", dtype=torch.float32, **further):
    """The plain run, the same with calls = all steps, that with CALLS of STEPS; and their model calls."""
    family, pipe, calls = fresh(name, kind, dtype)
    plain, counts = family.run(pipe, steps=STEPS, **further), [len(calls)]
    forecast(pipe, STEPS, slope=0, corrector=0)
    results = [plain, family.run(pipe, steps=STEPS, **further)]
    counts.append(len(calls) - sum(counts))
    _, pipe, calls = fresh(name, kind, dtype)
    forecast(pipe)
    results.append(family.run(pipe, steps=STEPS, **further))
    return family, results, [*counts, len(calls)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_calls_and_all_steps(name, dtype):
    if dtype is torch.bfloat16 and not named(name).bfloat16:
        pytest.skip("diffusers' pipeline does not run in it")
    family, (plain, every, some), counts = all_steps_and_some(name, dtype=dtype)
    assert counts == [STEPS * family.branches, STEPS * family.branches, CALLS * family.branches]
    assert torch.equal(plain, every)
    assert torch.isfinite(some).all() and not torch.equal(plain, some)
    assert some.dtype == plain.dtype and some.shape == plain.shape
    RAN[name].add(str(dtype).removeprefix("torch."))


@pytest.mark.parametrize("name", [family.name for family in FAMILIES if family.batches])
def test_a_batch_with_generators_is_its_samples(name):
    family, pipe, calls = fresh(name)
    forecast(pipe)
    both = family.run(
        pipe, batch=2, steps=STEPS, generator=[torch.Generator().manual_seed(s) for s in (3, 4)]
    )
    assert len(calls) == CALLS * family.branches
    first = family.run(pipe, steps=STEPS, generator=[torch.Generator().manual_seed(3)])
    torch.testing.assert_close(both[:1], first, rtol=1e-3, atol=1e-3)  # sums of another batch size
    assert not torch.allclose(both[:1], both[1:], atol=0.1)
    RAN[name].add("batch, generators")


@pytest.mark.parametrize(
    "name", [family.name for family in FAMILIES if family.heeds and family.takes("callback_on_step_end")]
)
def test_latents_that_a_callback_replaces_begin_the_history_anew(name):
    family, pipe, calls = fresh(name)
    forecast(pipe)

    def run(seed):
        def replaced(_, step, timestep, given):
            return {"latents": torch.full_like(given["latents"], 0.5)} if step == CALLS - 2 else {}

        generator = torch.Generator().manual_seed(seed)
        return family.run(pipe, steps=STEPS, generator=generator, callback_on_step_end=replaced)

    assert torch.equal(run(1), run(2))
    assert len(calls) == 2 * CALLS * family.branches
    RAN[name].add("changed latents")


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_run_leaves_nothing_to_the_next(name):
    family, pipe, calls = fresh(name)
    if not (hasattr(pipe, "interrupt") and family.takes("callback_on_step_end")):
        pytest.skip(f"{family.pipeline} has no interrupt")
    forecast(pipe)
    whole = family.run(pipe, steps=STEPS)
    calls.clear()

    def stop(pipe, step, *_):
        pipe._interrupt = step >= 1
        return {}

    family.run(pipe, steps=STEPS, callback_on_step_end=stop)
    assert len(calls) == 2 * family.branches
    assert torch.equal(family.run(pipe, steps=STEPS), whole)
    RAN[name].add("interrupt")


@pytest.mark.parametrize("name, kind", WITH_VARIANTS)
def test_from_a_picture_the_share_of_calls_is_kept(name, kind):
    family, (plain, every, some), counts = all_steps_and_some(name, kind, strength=0.5)
    assert counts == [
        STEPS // 2 * family.branches,
        STEPS // 2 * family.branches,
        CALLS // 2 * family.branches,
    ]
    assert torch.equal(plain, every)
    assert torch.isfinite(some).all() and not torch.equal(plain, some)
    RAN[name].add(kind)


def table():
    heads = ["family", "pipeline", "model calls a step", *WAYS]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for family in sorted(FAMILIES, key=lambda family: family.name.lower()):
        ways = ["yes" if way in RAN[family.name] else "" for way in WAYS]
        lines.append(f"| {family.name} | {family.pipeline} | {family.branches} | {' | '.join(ways)} |")
    return "\n".join(lines) + "\n"


def test_the_table_in_docs_is_what_ran(request):
    here = [item for item in request.session.items if item.path == Path(__file__)]
    if len(here) < 5 * len(FAMILIES):
        pytest.skip("only some of this file's tests were asked for")
    before, _, rest = DOC.read_text().partition("| family |")
    after = rest.partition("\n\n")[2]
    written = before + table() + (f"\n{after}" if after else "")
    if os.environ.get("DDIT_WRITE_TABLES") == "1":
        DOC.write_text(written)
    assert DOC.read_text() == written
