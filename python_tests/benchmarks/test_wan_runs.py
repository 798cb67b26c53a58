"""The studies' loop of the embedded Wan takes the pipeline's own steps."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("skimage", reason="the benchmarks' measures need it")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench():
    from ddit_ext.embedded import load

    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(BENCHMARKS))
        patched.syspath_prepend(str(BENCHMARKS / "studies"))
        from _wan_runs import BENCHES

        yield BENCHES["wan"](load("wan"), 96, ["a spinning pizza on red checks"], seed=3)


def test_a_run_without_coarse_steps_is_the_pipelines_own(bench):
    from _coarse_runs import Plan
    from _runs import Method, batches, run

    own = bench.run(Plan.sizes([1, 1, 1]), sigmas=bench.levels(3))
    batch = batches(bench.pipe, bench.prompts, 1, seed=3)[0]
    assert torch.equal(own, run(bench.pipe, batch, Method("3 steps", 3))[0])


def test_the_oracle_keeps_the_means_of_the_guided_velocity_and_nothing_else(bench):
    from _coarse_runs import spread

    full = bench.unpack(bench.velocity(bench.noise, 0.9))
    given = bench.unpack(bench.velocity(bench.noise, 0.9, 2, "oracle"))
    torch.testing.assert_close(spread(given, 2), spread(full, 2), atol=1e-5, rtol=1e-5)
    assert (given - full).abs().max() > 0.1


def test_a_plan_that_leaves_steps_out_is_refused(bench):
    from _coarse_runs import Plan

    with pytest.raises(ValueError, match="call at each of 28 steps, got 2 calls"):
        bench.run(Plan({0: 1, 9: 1}))
