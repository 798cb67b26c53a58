"""The node of ComfyUI, against ComfyUI's own samplers where COMFYUI_PATH names a checkout."""

import ast
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "integrations" / "comfyui"
STEPS = 12


@pytest.fixture(scope="module")
def node():
    """Loaded as ComfyUI loads the folders in custom_nodes."""
    spec = importlib.util.spec_from_file_location("ddit_ext_comfyui", FOLDER / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.NODE_CLASS_MAPPINGS["DDiTForecastSampler"]


@pytest.fixture(scope="module")
def comfy():
    """ComfyUI's samplers, on the CPU."""
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        pytest.skip("COMFYUI_PATH names no checkout of ComfyUI")
    sys.path.insert(0, path)
    cli = pytest.importorskip("comfy.cli_args", exc_type=ImportError)
    cli.args.cpu = True
    return pytest.importorskip("comfy.samplers", exc_type=ImportError)


class Flow:
    """A flow-matching model of a few numbers, wrapped as ComfyUI wraps its own; counts its calls."""

    def __init__(self):
        from comfy.model_sampling import CONST, ModelSamplingDiscreteFlow

        sampling = type("Sampling", (ModelSamplingDiscreteFlow, CONST), {})
        made = sampling()

        def scale_latent_inpaint(sigma, noise, latent_image, **_):
            return made.noise_scaling(sigma.view(-1, 1, 1, 1), noise, latent_image)

        self.inner_model = SimpleNamespace(model_sampling=made, scale_latent_inpaint=scale_latent_inpaint)
        self.calls = 0

    def __call__(self, x, sigma, model_options=None, seed=None):
        self.calls += 1
        at = sigma.view(-1, 1, 1, 1)
        return self.inner_model.model_sampling.calculate_denoised(sigma, torch.tanh(x) * (1 + at) - 0.3, x)


def drawn(comfy, sampler, **further):
    model = Flow()
    sigmas = comfy.calculate_sigmas(model.inner_model.model_sampling, "simple", STEPS)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latent = torch.full_like(noise, 0.25)
    told = []
    made = sampler.sample(
        model,
        sigmas,
        {"model_options": {}, "seed": 1},
        lambda *given: told.append(given),
        noise,
        latent_image=latent,
        disable_pbar=True,
        **further,
    )
    return made, model.calls, told


def test_the_workflow_uses_the_node_as_it_is(node):
    workflow = json.loads((FOLDER / "workflow_flux.json").read_text())
    (used,) = (each for each in workflow.values() if each["class_type"] == "DDiTForecastSampler")
    inputs = node.INPUT_TYPES()
    known = inputs["required"] | inputs["optional"]
    assert set(used["inputs"]) == set(known)
    for each in workflow.values():
        for value in each["inputs"].values():
            assert not isinstance(value, list) or value[0] in workflow


def test_the_workflows_other_nodes_are_comfyuis(comfy):
    files = [Path(os.environ["COMFYUI_PATH"], "nodes.py")]
    files += Path(os.environ["COMFYUI_PATH"], "comfy_extras").glob("nodes_*.py")
    names = {
        part.value
        for file in files
        for part in ast.walk(ast.parse(file.read_text()))
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    }
    workflow = json.loads((FOLDER / "workflow_flux.json").read_text())
    assert {each["class_type"] for each in workflow.values()} - names == {"DDiTForecastSampler"}


@pytest.mark.parametrize(
    "told, calls", [({"calls": 5, "speedup": 2.5}, 5), ({"calls": 0, "speedup": 3.0}, 4)]
)
def test_calls_and_previews(node, comfy, told, calls):
    (sampler,) = node().get_sampler(target="exact", **told)
    made, counted, previews = drawn(comfy, sampler)
    assert counted == calls == len(previews)
    assert torch.isfinite(made).all()


def test_all_steps_are_comfyuis_euler(node, comfy):
    (sampler,) = node().get_sampler(speedup=1.0, calls=STEPS, target="run", slope=0.0, corrector=0.0)
    assert torch.equal(drawn(comfy, sampler)[0], drawn(comfy, comfy.sampler_object("euler"))[0])


def test_fewer_calls_are_closer_to_all_steps_than_fewer_steps(node, comfy):
    full, _, _ = drawn(comfy, comfy.sampler_object("euler"))
    (sampler,) = node().get_sampler(speedup=2.0, calls=0, target="run")
    forecast, calls, _ = drawn(comfy, sampler)
    assert calls == STEPS // 2
    assert (forecast - full).norm() < 0.2 * full.norm()


def test_a_mask_keeps_the_latent_outside(node, comfy):
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., 4:] = 1
    (sampler,) = node().get_sampler(speedup=2.0, calls=0, target="run")
    made, _, _ = drawn(comfy, sampler, denoise_mask=mask)
    torch.testing.assert_close(made[..., :4], torch.full_like(made[..., :4], 0.25))
    assert (made[..., 4:] - 0.25).abs().mean() > 0.05
