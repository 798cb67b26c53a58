"""examples/cpp: a run of the exported embedded FLUX in C++ is the run that Python made."""

import importlib.util
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from flux_pipelines import make_call, make_pipeline, make_transformer
from safetensors import safe_open
from test_cpp_package import ROOT, configure, run

import ddit_ext
from ddit_ext import embedded
from ddit_ext.cmake_prefix import CMAKE_PREFIX_PATH
from ddit_ext.coarse import Adapter

EXAMPLE = ROOT / "examples" / "cpp"
PROMPT, STEPS = "a panda on a green gradient", 8


@pytest.fixture(scope="module")
def export_module():
    spec = importlib.util.spec_from_file_location("cpp_example_export", EXAMPLE / "export.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("guidance", [False, True])
@pytest.mark.parametrize("true_cfg", [False, True])
def test_exported_modules_compute_the_calls_of_the_pipeline(export_module, guidance, true_cfg):
    pipe = make_pipeline()
    pipe.transformer = make_transformer(guidance_embeds=guidance)
    adapter = Adapter.training_free(pipe.transformer, (2,))
    outputs = []
    hook = pipe.transformer.register_forward_hook(lambda module, args, output: outputs.append(output[0]))
    settings = dict(scales=(1, 2), threshold=1e9, **make_call(true_cfg=true_cfg, steps=5))
    settings.pop("output_type", None)
    _, report, calls = export_module.record_run(pipe, adapter, **settings)
    hook.remove()
    scales = [step["scale"] for step in report["steps"]]
    assert set(scales) == {1, 2} and len(calls) == len(outputs) == 5 * (1 + true_cfg)

    modules, _ = export_module.transformer_calls(pipe, adapter, (1, 2), calls[0])
    assert ("guidance" in modules[1].conditions) == guidance
    for index, (call, output) in enumerate(zip(calls, outputs, strict=True)):
        step = index // (1 + true_cfg)
        sigma = pipe.scheduler.sigmas[step].expand(1)
        conditions = [call[name] for name in modules[1].conditions]
        with torch.no_grad():
            ours = modules[scales[step]](call["hidden_states"], sigma, *conditions)
        torch.testing.assert_close(ours, output, rtol=0, atol=0)


def read_ppm(path) -> np.ndarray:
    magic, size, most, data = path.read_bytes().split(b"\n", 3)
    assert (magic, most) == (b"P6", b"255")
    width, height = map(int, size.split())
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def threshold_that_takes_both_sizes() -> float:
    """Between the two lowest scores of a run at base size: that of the lowest is the first step at 2p, at least."""
    model = embedded.load("flux")
    handle = ddit_ext.patch(model.pipeline, model.adapter, scales=(1, 2), threshold=0.0)
    generator = torch.Generator().manual_seed(0)
    model.pipeline(PROMPT, num_inference_steps=STEPS, generator=generator, output_type="latent")
    handle.unpatch()
    steps = handle.report().to_dict()["steps"]
    lowest, second = sorted(step["scores"][0][1] for step in steps if step["scores"])[:2]
    return math.sqrt(lowest * second)


@pytest.mark.slow
def test_run_in_cpp_is_that_of_python(tmp_path):
    folder, build = tmp_path / "run", tmp_path / "build"
    options = ("--prompt", PROMPT, "--steps", str(STEPS), "--scales", "1", "2")
    options += ("--threshold", repr(threshold_that_takes_both_sizes()))
    subprocess.run([sys.executable, str(EXAMPLE / "export.py"), str(folder), *options], check=True)
    configure(EXAMPLE, build, f"-DCMAKE_PREFIX_PATH={CMAKE_PREFIX_PATH}")
    run("cmake", "--build", str(build))

    lines = run(f"{build}/denoise", str(folder), str(tmp_path / "dynamic.ppm")).splitlines()
    with safe_open(folder / "run.safetensors", "np") as file:
        scales, expected = file.get_tensor("expected.scales"), file.get_tensor("expected.picture")
    assert [int(line.split()[2]) for line in lines] == scales.tolist()
    assert set(scales.tolist()) == {1, 2}
    expected = np.rint(expected[0].transpose(1, 2, 0) * 255)
    dynamic = read_ppm(tmp_path / "dynamic.ppm")
    # Compiled arithmetic in another order: a value at a half may round the other way.
    assert np.abs(dynamic - expected).max() <= 1

    fine = ["1"] * len(lines)
    run(f"{build}/denoise", str(folder), str(tmp_path / "fine.ppm"), *fine)
    assert np.abs(read_ppm(tmp_path / "fine.ppm") - expected).max() > 1  # so the sizes did matter

    said = run(f"{build}/denoise", str(folder), "unused.ppm", "1", "2", fails=True)
    assert said == "denoise: expected one scale a step, 8, got 2\n"
