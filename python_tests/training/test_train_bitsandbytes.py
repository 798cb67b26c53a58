"""Bases quantised by bitsandbytes, as diffusers makes them, on the CPU; and weights packed in a form nobody knows."""

import json

import pytest
import torch
from flux_pipelines import make_call, make_pipeline, run
from tiny_flux import noisy_call, tiny_flux, training_batch
from torch import nn

import ddit_ext
from ddit_ext.coarse import Adapter, AdapterError
from ddit_ext.coarse.base_weights import check_fingerprint, fingerprint, read_layer
from ddit_ext.families import family_for
from ddit_ext.training import DistillConfig, distill
from ddit_ext.training.base import load_base
from ddit_ext.training.objective import student_velocity
from ddit_ext.training.settings import ModelSettings

KINDS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
    "nf4 with packed scales": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.float32,
    },
    "int8": {"load_in_8bit": True},
}


@pytest.fixture
def quantised(tmp_path, monkeypatch):
    """Loads the tiny FLUX from its folder as users do, with every linear layer quantised.

    diffusers refuses to without a GPU, though bitsandbytes runs on CPUs: its check is put aside, and so is a repacking
    for the instructions of some CPUs, which does not take layers as small as these.
    """
    pytest.importorskip("bitsandbytes")
    from diffusers import BitsAndBytesConfig, FluxTransformer2DModel
    from diffusers.quantizers.bitsandbytes import bnb_quantizer

    for cls in (bnb_quantizer.BnB4BitDiffusersQuantizer, bnb_quantizer.BnB8BitDiffusersQuantizer):
        monkeypatch.setattr(cls, "validate_environment", lambda self, *args, **kwargs: None)
        monkeypatch.setattr(cls, "update_device_map", lambda self, device_map: device_map or {"": "cpu"})

    def load(kind, plain=None):
        (plain or tiny_flux()).save_pretrained(tmp_path / "flux")
        transformer = FluxTransformer2DModel.from_pretrained(
            tmp_path / "flux",
            quantization_config=BitsAndBytesConfig(**KINDS[kind]),
            torch_dtype=torch.float32,
        ).eval()
        for module in transformer.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        return transformer

    return load


def coarse_velocity(transformer, adapter):
    """The velocity at 2p; what is asked of the base's own patch layers beside the adapter is in it."""
    call = noisy_call(4, 4, [0.7])
    del call["return_dict"]
    family = family_for(transformer)
    weights = adapter.weights(2, call["hidden_states"])
    with torch.no_grad(), family.coarse(call, weights, family.noise_level(call)) as coarse:
        return student_velocity(transformer, coarse, None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_flux_is_trained_and_run(tmp_path, quantised, kind):
    transformer, plain = quantised(kind), tiny_flux()
    assert transformer.x_embedder.weight.dtype in (torch.uint8, torch.int8)
    bytes_before = transformer.proj_out.weight.data.clone()
    tolerance = 0.02 if kind == "int8" else 0.15  # of the quantisation itself
    for name in ("x_embedder", "proj_out"):
        ours, theirs = (read_layer(model, name)[0] for model in (transformer, plain))
        assert (ours - theirs).norm() < tolerance * theirs.norm()
    adapter = Adapter.create(transformer, scales=(2,), rank=2)
    start = {name: parameter.detach().clone() for name, parameter in adapter.named_parameters()}
    config = DistillConfig(steps=3, lr=3e-3, warmup=1, log_every=1, ema=0.0)
    distill(transformer, adapter, training_batch, config, out_dir=tmp_path / "out", progress=False)
    moved = [
        name for name, parameter in adapter.named_parameters() if not torch.equal(parameter, start[name])
    ]
    assert any("lora" in name for name in moved) and any("embed_weight" in name for name in moved)
    assert torch.equal(transformer.proj_out.weight.data, bytes_before)
    # bitsandbytes rounds the inputs of its int8 layers too; the numbers of four bits are what is computed with.
    loaded = Adapter.load(tmp_path / "out" / "adapter", transformer)
    ours, theirs = (coarse_velocity(base, loaded) for base in (transformer, read_back(transformer)))
    assert (ours - theirs).norm() < (0.02 if kind == "int8" else 1e-4) * theirs.norm()
    assert coarse_velocity(plain, Adapter.load(tmp_path / "out" / "adapter", plain)).isfinite().all()


def read_back(transformer):
    """The plain model with the numbers that a quantised one's weights stand for."""
    plain = tiny_flux()
    with torch.no_grad():
        for name, module in plain.named_modules():
            if isinstance(module, nn.Linear):
                module.weight.copy_(read_layer(transformer, name)[0])
    return plain


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_pipeline_of_a_quantised_flux_is_patched_and_unpatched(quantised, kind):
    pipe = make_pipeline()
    pipe.register_modules(transformer=quantised(kind, pipe.transformer))
    adapter = Adapter.create(pipe.transformer, rank=2)
    call = make_call()
    before = run(pipe, call)
    handle = ddit_ext.patch(pipe, adapter, schedule=2)
    coarse = run(pipe, call)
    assert coarse.isfinite().all() and not torch.equal(coarse, before)
    assert {step["scale"] for step in handle.report().to_dict()["steps"]} == {2}
    handle.unpatch()
    assert torch.equal(run(pipe, call), before)


def test_gradients_through_four_bits_are_those_of_the_numbers_they_stand_for(quantised):
    transformer, config = quantised("nf4"), DistillConfig(steps=1, clip=0.0, log_every=1)
    norms = []
    for base in (transformer, read_back(transformer)):
        adapter = Adapter.create(base, scales=(2,), rank=2)
        norms.append(distill(base, adapter, training_batch, config, progress=False).log[0]["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_an_adapter_of_a_four_bit_base_fits_the_plain_one(quantised):
    assert fingerprint(quantised("nf4"))["weights"] == {}
    eight = fingerprint(quantised("int8"))
    assert set(eight["weights"]) == set(fingerprint(tiny_flux())["weights"])
    check_fingerprint(eight, tiny_flux())
    check_fingerprint(fingerprint(tiny_flux()), quantised("nf4"))


def test_a_folder_of_quantised_weights_is_a_base_for_ddit_train(tmp_path, quantised):
    transformer, folder = quantised("nf4"), tmp_path / "saved"
    transformer.save_pretrained(folder / "transformer")
    parts = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    (folder / "model_index.json").write_text(json.dumps(parts))
    base = load_base(ModelSettings(str(folder), dtype="float32"), torch.device("cpu")).transformers[
        "transformer"
    ]
    assert type(base.proj_out) is type(transformer.proj_out)
    assert torch.equal(read_layer(base, "proj_out")[0], read_layer(transformer, "proj_out")[0])


def test_weights_repacked_for_a_cpu_are_refused_by_name(quantised):
    transformer = quantised("nf4")
    adapter = Adapter.create(transformer, scales=(2,), rank=2)
    transformer.x_embedder.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(
        AdapterError, match="x_embedder.weight: .*: bitsandbytes has repacked it .*load the model anew"
    ):
        read_layer(transformer, "x_embedder")
    config = DistillConfig(steps=1)
    with pytest.raises(
        AdapterError, match="1 layers can't be trained through, the first is x_embedder: .* repacked"
    ):
        distill(transformer, adapter, training_batch, config, progress=False)


def test_layers_are_not_repacked_while_a_run_goes_on(quantised):
    transformer = quantised("nf4")
    adapter = Adapter.create(transformer, scales=(2,), rank=2)
    modes = []
    for module in transformer.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = True  # it would fail: these layers are too small for it

    def batches(number):
        modes.append((transformer.proj_out.training, transformer.norm_out.training))
        return training_batch(number)

    distill(transformer, adapter, batches, DistillConfig(steps=1), progress=False)
    assert modes == [(True, False)] and not transformer.proj_out.training


class PackedLinear(nn.Module):
    """A linear layer of two codes a byte, as no library that is known here has it."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scale = linear.weight.detach().abs().max() / 7
        codes = (linear.weight.detach() / self.scale).round().to(torch.int16).flatten() + 8
        self.weight = nn.Parameter(
            (codes[::2] * 16 + codes[1::2]).to(torch.uint8)[:, None], requires_grad=False
        )
        self.bias = linear.bias

    def forward(self, x):
        codes = torch.stack([self.weight // 16, self.weight % 16], dim=-1).to(x.dtype) - 8
        return nn.functional.linear(x, codes.view(self.out_features, -1) * self.scale, self.bias)


def packed_flux(chosen):
    transformer = tiny_flux()
    for name, module in list(transformer.named_modules()):
        if type(module) is nn.Linear and chosen(name):
            parent, _, leaf = name.rpartition(".")
            setattr(transformer.get_submodule(parent), leaf, PackedLinear(module))
    return transformer.requires_grad_(False)


def test_unknown_packed_blocks_are_trained_through():
    transformer = packed_flux(lambda name: "blocks." in name)
    adapter = Adapter.create(transformer, scales=(2,), rank=2)
    config = DistillConfig(steps=8, lr=3e-3, warmup=1, log_every=1, ema=0.0, noise_range={2: (0.5, 0.9)})
    log = distill(transformer, adapter, lambda number: training_batch(0), config, progress=False).log
    assert log[-1]["loss"] < log[0]["loss"]
    assert coarse_velocity(transformer, adapter).isfinite().all()


def test_unknown_packed_patch_layers_are_named():
    transformer = packed_flux(lambda name: name == "proj_out")
    text = r"proj_out.weight: expected numbers of shape \(16, 32\), got torch.uint8 of shape \(256, 1\) in a PackedLinear"
    with pytest.raises(AdapterError, match=f"{text}, a form that is not known here; leave proj_out out of"):
        Adapter.create(transformer, scales=(2,), rank=2)
    assert "proj_out" not in fingerprint(transformer)["weights"]
    check_fingerprint(fingerprint(tiny_flux()), transformer)
