"""What frontier.py compares with: other solvers and published forecasts, and its measure of stripes."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from threads import one_thread

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from _solvers import FLOW, SOLVERS, Seen, Solver, growing, hicache, meancache, spectrum  # noqa: E402

TOTAL = 20


def velocity(x, sigma):
    return torch.cos(2 * x + 3 * sigma)


def sampled(scheduler, total=TOTAL):
    scheduler.set_timesteps(total)
    x, calls = torch.linspace(-1, 1, 7)[None, None], 0
    for time in scheduler.timesteps:
        x = scheduler.step(velocity(x, float(time) / 1000), time, x, return_dict=False)[0]
        calls += 1
    return x, calls


def test_solvers_are_diffusers_own():
    own = UniPCMultistepScheduler(solver_order=2, flow_shift=3.0, **FLOW)
    torch.testing.assert_close(sampled(Solver(own, "UniPC"))[0], sampled(own)[0])


@pytest.mark.parametrize("name", SOLVERS)
def test_each_converges_to_one_sample(name):
    """Four times as many calls, at places that grow: less than 0.4 of the error, where first order leaves 0.25."""
    own = FlowMatchEulerDiscreteScheduler(shift=3.0)
    exact = torch.linspace(-1, 1, 7).double()
    for k in range(4000, 0, -1):
        exact = exact - velocity(exact, (k - 0.5) / 4000) / 4000
    errors = []
    for steps in (16, 64):
        x, calls = sampled(Solver(own, name, growing(128, steps, 1.5)), 128)
        assert calls == (2 * steps - 1 if name == "Heun" else steps)
        errors.append(float((x - exact).norm()))
    assert errors[1] < 0.4 * errors[0]


@pytest.mark.parametrize(
    "rule", [spectrum(), spectrum(mix=0.5), hicache(), meancache(dict.fromkeys(range(TOTAL), 3))]
)
def test_a_rule_fills_the_gaps_of_a_run(rule):
    own = FlowMatchEulerDiscreteScheduler(shift=3.0)
    every, _ = sampled(Solver(own, "Euler"))
    some, calls = sampled(Solver(own, "Euler", growing(TOTAL, 10, 1.75), rule))
    assert calls == 10
    assert (some - every).norm() < 0.15 * every.norm()


LEVELS = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.0]


def seen(outputs):
    """Calls at steps 0, 2, 5 with noise levels 1, 0.8, 0.5."""
    return [Seen(step, LEVELS[step], torch.tensor([v])) for step, v in zip((0, 2, 5), outputs, strict=True)]


def test_spectrum_fits_polynomials():
    made = spectrum(degree=2, ridge=1e-9)(seen([3.0, 2.2, 1.3]), LEVELS)
    fitted = np.polynomial.Polynomial.fit([1.0, 0.8, 0.5], [3.0, 2.2, 1.3], 2)
    assert float(made) == pytest.approx(fitted(0.4), rel=1e-4)


def test_hicache_of_order_1_is_half_a_line():
    between = Seen(6, 0.4, torch.tensor([0.5]), called=False)
    made = hicache(order=1, scale=0.5)([*seen([9.0, 4.0, 1.0]), between], LEVELS)
    assert float(made) == pytest.approx(1.0 + 0.5 * 2 * (1.0 - 4.0) / 3)


def test_meancache_follows_half_of_a_lines_slope():
    """Outputs 10 sigma: of the last two steps the average velocity is 7.5 at a length of 0.2, the first output 8."""
    steps = [Seen(k, LEVELS[k], torch.tensor([10 * LEVELS[k]])) for k in range(4)]
    made = meancache({3: 2})(steps, LEVELS)
    assert float(made) == pytest.approx(7.0 - 0.1 * (8.0 - 7.5) / 0.2)
    assert float(meancache({3: 1})(steps, LEVELS)) == 7.0


def test_bent_stripes_are_less_straight():
    from _stripes import edge_width, measurable, straightness

    from ddit_ext.embedded import scenes

    with one_thread():
        drawn, described = scenes.pictures(24, 3)
        prompts = [scene.prompt for scene in described]
        chosen = measurable(prompts)
        clean, prompts = drawn[chosen], [prompts[index] for index in chosen]
        rows = np.arange(clean.shape[1])
        shifts = np.rint(3 * np.sin(rows / 6)).astype(int)
        bent = np.stack([np.stack([np.roll(p[r], shifts[r], 0) for r in rows]) for p in clean])
        assert straightness(clean, prompts).mean() > 0.75
        assert (straightness(clean, prompts) - straightness(bent, prompts)).mean() > 0.1
        soft = (0.5 * clean + 0.5 * np.roll(clean, 3, 2)).astype(np.uint8)
        assert edge_width(soft, prompts).mean() > edge_width(clean, prompts).mean() + 0.1


def test_multiply_adds_of_every_kind_of_product_are_counted():
    from frontier import multiply_adds

    from ddit_ext import ops
    from ddit_ext.modules.lora import LowRank, LowRankLinear

    x, layer = torch.randn(2, 5, 8), torch.nn.Linear(8, 3)
    beside = LowRankLinear(layer, LowRank(8, 3, rank=4))
    cells, tokens = torch.randn(1, 1, 4, 4, 2, 2, 2), torch.randn(1, 4, 6)
    into, out_of = torch.randn(6, 2, 4, 4), torch.randn(2, 4, 4, 6)
    for product, expected in (
        (lambda: layer(x), 10 * 8 * 3),
        (lambda: torch.nn.functional.linear(x, layer.weight), 10 * 8 * 3),
        (lambda: beside(x), 10 * (8 * 3 + 8 * 4 + 4 * 3)),
        (lambda: ops.patch_embed(cells, into, scale=2), 4 * 32 * 6),
        (lambda: ops.patch_deembed(tokens, out_of, scale=2, grid=[1, 4, 4]), 4 * 32 * 6),
    ):
        with torch.no_grad(), multiply_adds() as counted:
            product()
        assert counted.done == expected
