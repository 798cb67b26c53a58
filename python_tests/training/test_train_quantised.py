"""Bases in other precisions are trained on and run as they are: layerwise casting, torchao's int8 weights."""

import pytest
import torch
from tiny_flux import conditions, noisy_call, smooth_latents, tiny_flux, training_batch

from ddit_ext.coarse import Adapter
from ddit_ext.families import family_for
from ddit_ext.training import DistillConfig, distill, evaluate_coarse_error
from ddit_ext.training.objective import student_velocity


def check(transformer, folder, autocast=None):
    """Training lowers the error, and what it saved is read and run with the base and its plain original."""
    data = [(smooth_latents(4), conditions(4))]
    adapter = Adapter.create(transformer, scales=(2,), rank=2)
    (before,) = evaluate_coarse_error(transformer, adapter, data, 2, [0.7], autocast=autocast).values()
    config = DistillConfig(steps=15, lr=3e-3, warmup=1, ema=0.0, autocast=autocast and "bfloat16")
    distill(transformer, adapter, training_batch, config, out_dir=folder, progress=False)
    (after,) = evaluate_coarse_error(transformer, adapter, data, 2, [0.7], autocast=autocast).values()
    assert after < 0.95 * before
    for base in (transformer, tiny_flux()):
        loaded = Adapter.load(folder / "adapter", base)
        call = noisy_call(4, 4, [0.7])
        del call["return_dict"]
        family = family_for(base)
        weights = loaded.weights(2, call["hidden_states"])
        with torch.no_grad(), family.coarse(call, weights, family.noise_level(call)) as coarse:
            assert student_velocity(base, coarse, autocast).isfinite().all()


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_layerwise_casting_to_fp8(tmp_path, compute):
    transformer = tiny_flux()
    transformer.enable_layerwise_casting(torch.float8_e4m3fn, compute)
    check(transformer, tmp_path, torch.bfloat16 if compute == torch.bfloat16 else None)


@pytest.mark.parametrize("which", ["blocks", "all"])
def test_torchao_int8_weights(tmp_path, which):
    """All layers: the patch layers too, which are read for the start and stand aside in a coarse call."""
    quantization = pytest.importorskip("torchao.quantization")
    transformer = tiny_flux()
    quantization.quantize_(
        transformer,
        quantization.Int8WeightOnlyConfig(),
        filter_fn=lambda module, name: (
            isinstance(module, torch.nn.Linear) and (which == "all" or "blocks." in name)
        ),
    )
    assert isinstance(transformer.transformer_blocks[0].ff.net[2].weight, quantization.Int8Tensor)
    check(transformer, tmp_path)
