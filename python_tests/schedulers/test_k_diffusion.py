"""sample_forecast: the scheduler's arithmetic as a sampler of k-diffusion."""

import importlib.util
import sys
import types

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import ddit_ext
from ddit_ext.k_diffusion import sample_forecast

SIGMAS = torch.cat([torch.linspace(1, 0.04, 12), torch.zeros(1)])


def denoiser(x, sigma, scale=1.0):
    """Bent enough that a forecast is not exact; each sample by its own sigma."""
    sigma = sigma.view(-1, *[1] * (x.ndim - 1))
    return torch.tanh(scale * x / (0.3 + sigma)) * (1 - 0.4 * sigma**2)


class Counted:
    def __init__(self):
        self.sigmas = []

    def __call__(self, x, sigma, **extra):
        assert sigma.shape == (len(x),)
        self.sigmas.append(float(sigma[0]))
        return denoiser(x, sigma, **extra)


def noise(dtype=torch.float32):
    return torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0)).to(dtype)


def euler(model, x, sigmas):
    """Algorithm 2 of Karras et al. 2022 without noise, as k-diffusion's sample_euler."""
    for sigma, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        x = x + (x - model(x, sigma * x.new_ones(len(x)))) / sigma * (after - sigma)
    return x


def test_all_steps_are_eulers_bit_for_bit():
    model = Counted()
    x = sample_forecast(model, noise(), SIGMAS, calls=12, slope=0, corrector=0, disable=True)
    assert torch.equal(x, euler(denoiser, noise(), SIGMAS))
    assert model.sigmas == SIGMAS[:-1].tolist()


@pytest.mark.parametrize(
    "settings", [{"calls": 5}, {"speedup": 3.0, "target": "exact"}, {"calls": 4, "slope": 0.5}]
)
def test_it_is_the_scheduler(settings):
    model = Counted()
    x = sample_forecast(model, noise(), SIGMAS, disable=True, **settings)
    scheduler = ddit_ext.ForecastScheduler.from_scheduler(FlowMatchEulerDiscreteScheduler(), **settings)
    scheduler.set_timesteps(sigmas=SIGMAS[:-1].tolist())
    y = noise()
    for time, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        output = (y - denoiser(y, sigma * y.new_ones(len(y)))) / sigma
        y = scheduler.step(output, time, y, return_dict=False)[0]
    assert torch.equal(x, y)
    assert len(model.sigmas) == scheduler.num_inference_steps


def test_callback_extra_arguments_and_dtype():
    told, model = [], Counted()
    x = noise(torch.bfloat16)
    made = sample_forecast(
        model, x, SIGMAS, extra_args={"scale": 2.0}, callback=told.append, disable=True, speedup=2
    )
    assert made.dtype == torch.bfloat16 and made.shape == x.shape
    assert [each["i"] for each in told] == list(range(6)) == list(range(len(model.sigmas)))
    assert [float(each["sigma"].bfloat16()) for each in told] == model.sigmas
    assert [SIGMAS[each["step"]] for each in told] == [each["sigma"] for each in told]
    assert told[0]["x"] is x and set(told[0]) == {"x", "i", "step", "sigma", "sigma_hat", "denoised"}


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "sample_forecast: give one of calls and speedup"),
        ({"calls": 13}, "sample_forecast: calls=13 is more than the pipeline's 12 steps"),
        ({"speedup": 9.0}, "sample_forecast: speedup=9 of 12 steps leaves 1 model calls"),
        ({"calls": 5, "target": "all"}, 'sample_forecast: target must be "run" or "exact"'),
    ],
)
def test_settings_that_are_not_meant(settings, message):
    with pytest.raises(ValueError, match=message):
        sample_forecast(denoiser, noise(), SIGMAS, disable=True, **settings)


def test_sigmas_that_rise():
    with pytest.raises(ValueError, match="sigmas must"):
        sample_forecast(denoiser, noise(), torch.tensor([1.0, 0.2, 0.5, 0.0]), calls=2, disable=True)


@pytest.fixture
def k_diffusion_sampling(monkeypatch):
    """k-diffusion's sampling module alone: the package imports training code with many dependencies."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        pytest.skip("k-diffusion is not installed")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations)
    monkeypatch.setitem(sys.modules, "k_diffusion", package)
    return pytest.importorskip("k_diffusion.sampling", exc_type=ImportError)


def test_all_steps_are_k_diffusions_euler(k_diffusion_sampling):
    levels = k_diffusion_sampling.get_sigmas_karras(10, 0.03, 14.6)
    x = 14.6 * noise()
    ours = sample_forecast(denoiser, x, levels, calls=10, slope=0, corrector=0, disable=True)
    theirs = k_diffusion_sampling.sample_euler(denoiser, x, levels, disable=True)
    assert torch.equal(ours, theirs)
