"""The embedded FLUX as files for a C++ program: see docs/cpp.md.

    python examples/cpp/export.py build/flux_cpp --prompt "a panda on a green gradient"

Writes transformer_1.pt2, transformer_2.pt2, ... (one AOTInductor package a patch size, each a whole call of the
transformer), decoder.pt2 (packed latents to pictures) and run.safetensors: everything that one run starts with,
and what Python made of it. Tokenizers and text encoders stay in Python.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import ddit_ext
from ddit_ext import embedded
from ddit_ext.coarse import Adapter
from ddit_ext.families import FluxFamily

LATENT = ("hidden_states", "timestep")  # what changes from step to step
CONSTANT = ("img_ids", "txt_ids")  # positions, fixed when exported


class TransformerCall(nn.Module):
    """One call of the transformer at one patch size: latent, noise level and conditions in, velocity out.

    forward(latent [B, N, C*p*p], sigma [B], *conditions in the order of `conditions`) -> [B, N, C*p*p]
    """

    def __init__(
        self, transformer: nn.Module, weights: nn.Module | None, constant: dict[str, Tensor], conditions
    ):
        super().__init__()
        self.transformer = transformer
        self.weights = weights  # None: the base patch size
        self.constant = constant
        self.conditions = conditions
        self.family = FluxFamily(transformer)

    def forward(self, latent: Tensor, sigma: Tensor, *conditions: Tensor) -> Tensor:
        arguments = dict(zip(self.conditions, conditions, strict=True)) | self.constant
        # The pipeline's own arithmetic: its sampler counts to 1000.
        arguments |= {"hidden_states": latent, "timestep": sigma * 1000 / 1000, "return_dict": False}
        if self.weights is None:
            return self.transformer(**arguments)[0]
        with self.family.coarse(arguments, self.weights, sigma) as coarse:
            return self.transformer(**coarse)[0]


class Decoder(nn.Module):
    """Packed latents [B, N, C*p*p] -> pictures [B, 3, H, W] in [0, 1]."""

    def __init__(self, pipe: Any, height: int, width: int):
        super().__init__()
        self.vae = pipe.vae
        self.unpack = lambda packed: pipe._unpack_latents(packed, height, width, pipe.vae_scale_factor)

    def forward(self, packed: Tensor) -> Tensor:
        config = self.vae.config
        latents = self.unpack(packed) / config.scaling_factor + config.shift_factor
        return (self.vae.decode(latents, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)


class Recorder:
    """Notes with what the pipeline calls its transformer, while it runs as ever."""

    def __init__(self, transformer: nn.Module):
        self.calls: list[dict[str, Any]] = []
        self._handle = transformer.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.calls.append({name: value for name, value in kwargs.items() if isinstance(value, Tensor)})

    def remove(self) -> None:
        self._handle.remove()


def export(module: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    """Compile `module` for inputs of these shapes into one package."""
    module.eval()
    with torch.no_grad():
        expected = module(*inputs)  # the family reads its grid once, from real ids
        program = torch.export.export(module, inputs, strict=False)
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
        error = (torch._inductor.aoti_load_package(str(path))(*inputs) - expected).abs().max()
    print(f"{path.name}: off by at most {float(error):.1e}", flush=True)


def record_run(pipe: Any, adapter: Adapter, *, scales: Sequence[int], threshold: float, **call: Any):
    """One patched run: its packed latents [B, N, C*p*p], its report and the transformer's arguments, call by call."""
    recorder = Recorder(pipe.transformer)
    handle = ddit_ext.patch(pipe, adapter, scales=scales, threshold=threshold)
    try:
        packed = pipe(output_type="latent", **call).images
    finally:
        handle.unpatch()
        recorder.remove()
    return packed, handle.report().to_dict(), recorder.calls


def transformer_calls(pipe: Any, adapter: Adapter, scales: Sequence[int], first: dict[str, Any]):
    """A TransformerCall for each scale, and example inputs for them, after the arguments of a pipeline's call."""
    conditions = sorted(set(first) - set(LATENT) - set(CONSTANT))
    constant = {name: first[name] for name in CONSTANT}
    modules = {}
    for scale in scales:
        weights = None if scale == 1 else adapter.weights(scale, first["hidden_states"])
        modules[scale] = TransformerCall(pipe.transformer, weights, constant, conditions)
    return modules, (first["hidden_states"], first["timestep"], *(first[name] for name in conditions))


def export_run(
    pipe: Any,
    adapter: Adapter,
    out: Path,
    *,
    scales: Sequence[int],
    threshold: float,
    true_cfg_scale: float,
    **call: Any,
) -> None:
    """Run the pipeline in Python once, and write all that C++ needs to run the same."""
    out.mkdir(parents=True, exist_ok=True)
    packed, report, recorded = record_run(pipe, adapter, scales=scales, threshold=threshold, **call)
    first, steps = recorded[0], len(report["steps"])
    calls = len(recorded) // steps  # of the transformer in a step: 2 with true classifier-free guidance
    modules, inputs = transformer_calls(pipe, adapter, scales, first)
    for scale, module in modules.items():
        export(module, inputs, out / f"transformer_{scale}.pt2")
    grid = FluxFamily(pipe.transformer).grid(first)
    token = 2 * pipe.vae_scale_factor  # pixels along its side
    decoder = Decoder(pipe, grid.rows * token, grid.columns * token)
    export(decoder, (packed,), out / "decoder.pt2")

    conditions = modules[1].conditions
    tensors = {"latent": first["hidden_states"], "sigmas": pipe.scheduler.sigmas.float()}
    for index in range(calls):
        tensors |= {f"condition.{index}.{i}": recorded[index][name] for i, name in enumerate(conditions)}
    with torch.no_grad():
        tensors["expected.picture"] = decoder(packed)
    tensors["expected.scales"] = torch.tensor([step["scale"] for step in report["steps"]])
    metadata = {
        "scales": " ".join(map(str, scales)),
        "threshold": repr(threshold),
        "quantile": repr(0.4),
        "rows": str(grid.rows),
        "columns": str(grid.columns),
        "calls": str(calls),
        "conditions": " ".join(conditions),
        "true_cfg_scale": repr(float(true_cfg_scale)),
    }
    contiguous = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, out / "run.safetensors", metadata)
    print(f"run.safetensors: {steps} steps of {calls} calls with {', '.join(conditions)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--prompt", default="a panda on a green gradient")
    parser.add_argument("--steps", type=int, default=embedded.STEPS)
    parser.add_argument("--scales", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--threshold", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    model = embedded.load("flux")
    export_run(
        model.pipeline,
        Adapter.load(model.adapter, model.pipeline.transformer),
        arguments.out,
        scales=arguments.scales,
        threshold=arguments.threshold,
        true_cfg_scale=embedded.pipeline.FLUX_DEFAULTS.get("true_cfg_scale", 1.0),
        prompt=arguments.prompt,
        num_inference_steps=arguments.steps,
        generator=torch.Generator().manual_seed(arguments.seed),
    )


if __name__ == "__main__":
    main()
