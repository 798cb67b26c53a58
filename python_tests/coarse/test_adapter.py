"""The adapter as an object and as two files."""

import hashlib
import json
import os

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from tiny_flux import noisy_call, tiny_flux

from ddit_ext.coarse import Adapter, AdapterError
from ddit_ext.coarse.base_weights import read_base
from ddit_ext.coarse.scale_weights import ScaleSpec
from ddit_ext.families.flux import FluxFamily


def randomised(adapter):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return adapter.eval()


def velocity(transformer, adapter, scale=2):
    call = noisy_call(5, 4, [0.8, 0.3])
    weights = adapter.weights(scale, call["hidden_states"])
    with FluxFamily(transformer).coarse(call, weights, call["timestep"]) as coarse:
        return transformer(**coarse)[0]


@pytest.fixture(scope="module")
def transformer():
    return tiny_flux()


@pytest.fixture
def saved(transformer, tmp_path):
    adapter = Adapter.create(transformer, (2, 4), rank=2, detail_variance={2: 0.25})
    adapter.training_record = {"note": "made by a test"}
    return randomised(adapter).save(tmp_path / "adapter")


@pytest.mark.parametrize("kind", ["create", "training_free"])
def test_round_trip(transformer, tmp_path, kind):
    adapter = randomised(getattr(Adapter, kind)(transformer, (1, 2, 4), positions="grid"))
    adapter.save(tmp_path)
    for path in (tmp_path, tmp_path / "adapter.safetensors"):
        again = Adapter.load(path, transformer)
        assert again.scales == (2, 4) and not again.training
        assert [w.spec for w in again.sizes.values()] == [w.spec for w in adapter.sizes.values()]
        assert again.state_dict().keys() == adapter.state_dict().keys()
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), adapter.parameters(), strict=True))
        assert torch.equal(velocity(transformer, again), velocity(transformer, adapter))


def test_the_files_say_what_is_in_them(saved, transformer):
    description = json.loads((saved / "adapter.json").read_text())
    assert description["format"] == "ddit_ext.adapter" and description["format_version"] == 1
    assert [entry["scale"] for entry in description["scales"]] == [2, 4]
    assert description["scales"][0]["detail_variance"] == 0.25
    assert description["scales"][0]["lora_scale"] == 1.0
    assert description["training"] == {"note": "made by a test"}
    tensors = load_file(saved / "adapter.safetensors")
    assert tensors["2.embed_weight"].shape == (32, 4, 4, 4)
    assert tensors["4.deembed_weight"].shape == (4, 8, 8, 32)
    assert tensors["2.lora.single_transformer_blocks.0.proj_out.a"].shape == (2, 160)
    assert sorted(os.listdir(saved)) == ["adapter.json", "adapter.safetensors"]


def test_a_file_may_scale_its_lora(saved, transformer):
    """No argument sets this; files may have it."""
    plain, doubled = (Adapter.load(saved, transformer) for _ in range(2))
    with torch.no_grad():
        for name, parameter in doubled.own(2).named_parameters():
            if name.startswith("lora") and name.endswith(".b"):
                parameter *= 2
    rewrite(saved, lambda description: description["scales"][0].update(lora_scale=2.0))
    scaled = velocity(transformer, Adapter.load(saved, transformer))
    assert not torch.equal(scaled, velocity(transformer, plain))
    torch.testing.assert_close(scaled, velocity(transformer, doubled))


def test_smaller_storage(transformer, tmp_path, saved):
    adapter = Adapter.load(saved, transformer)
    adapter.save(tmp_path / "small", dtype=torch.bfloat16)
    small = Adapter.load(tmp_path / "small", transformer)
    assert small.own(2).embed_weight.dtype == torch.float32
    assert torch.equal(small.own(2).embed_weight, adapter.own(2).embed_weight.bfloat16().float())
    assert torch.equal(small.own(2).refinement.knots, adapter.own(2).refinement.knots)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.complex64])
def test_a_type_that_loading_refuses_is_not_saved(transformer, saved, dtype):
    before = {name: (saved / name).read_bytes() for name in os.listdir(saved)}
    adapter = randomised(Adapter.create(transformer))
    with pytest.raises(AdapterError, match=f"dtype must be one of float32, float16, .*, got {dtype}"):
        adapter.save(saved, dtype=dtype)
    assert {name: (saved / name).read_bytes() for name in os.listdir(saved)} == before


def test_an_adapter_of_such_a_type_is_not_saved(transformer, tmp_path):
    adapter = Adapter.training_free(transformer).to(torch.float8_e4m3fn)
    with pytest.raises(AdapterError, match="got torch.float8_e4m3fn for 2.embed_weight"):
        adapter.save(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_stored_tensors_of_other_types_are_rejected(saved, transformer, dtype):
    path = saved / "adapter.safetensors"
    save_file(load_file(path) | {"2.embed_weight": torch.zeros(32, 4, 4, 4).to(dtype)}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    rewrite(saved, lambda d: d["tensors"].update(bytes=path.stat().st_size, sha256=digest))
    with pytest.raises(AdapterError, match=f"2.embed_weight must be one of float32, .*, got {dtype}"):
        Adapter.load(saved, transformer)


@pytest.mark.parametrize("ranks", [(0, 3), (3, 0), (2, 3), (0, 0)])
def test_a_rank_of_its_own_for_each_size(tmp_path, ranks):
    size = {"patch_size": 2, "width": 6, "in_channels": 2, "out_channels": 2}
    specs = [ScaleSpec(scale=scale, **size, rank=rank) for scale, rank in zip((2, 4), ranks, strict=True)]
    base = {"family": "flux", "config": {}, "weights": {}}
    adapter = randomised(Adapter(specs, {"block.ff": (6, 7)}, base))
    again = Adapter.load(adapter.save(tmp_path), None)
    assert [weights.spec for weights in again.sizes.values()] == specs
    for scale, rank in zip((2, 4), ranks, strict=True):
        assert list(again.own(scale).lora) == (["block.ff"] if rank else [])
    expected = adapter.state_dict()
    assert again.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())


@pytest.mark.parametrize("name", ["adapter.json", "adapter.safetensors"])
def test_a_missing_file_is_named(saved, transformer, name):
    (saved / name).unlink()
    with pytest.raises(AdapterError, match=f"{name} is missing"):
        Adapter.load(saved, transformer)


def test_a_path_that_is_no_adapter(transformer, tmp_path):
    with pytest.raises(
        AdapterError, match="there is no file or folder .*weights.bin; names on the hub .* download it first"
    ):
        Adapter.load(tmp_path / "weights.bin", transformer)
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(
        AdapterError, match=r"expected an adapter's folder or its adapter.safetensors, got .*weights.bin"
    ):
        Adapter.load(tmp_path / "weights.bin", transformer)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_file_is_rejected(saved, transformer, keep):
    path = saved / "adapter.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(AdapterError, match=r"truncated or from another save: expected \d+ bytes, got \d+"):
        Adapter.load(saved, transformer)


@pytest.mark.parametrize("position", [0.001, 0.5, 0.999])
def test_a_flipped_bit_is_rejected(saved, transformer, position):
    path = saved / "adapter.safetensors"
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(AdapterError, match="expected sha256"):
        Adapter.load(saved, transformer)


def rewrite(saved, change):
    path = saved / "adapter.json"
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda d: d.update(format="other"), "expected format 'ddit_ext.adapter', got 'other'"),
        (
            lambda d: d.update(format_version=99, ddit_ext="9.0"),
            "expected format_version 1 to 1.*got 99.*ddit_ext 9.0",
        ),
        (lambda d: d.update(format_version="1"), "got '1'"),
        (lambda d: d.pop("scales"), "scales must be list, got NoneType"),
        (lambda d: d["scales"][0].pop("width"), r"lacks \['width'\]"),
        (lambda d: d["scales"][0].update(colour=1), r"unknown fields \['colour'\]"),
        (lambda d: d["scales"][0].update(width=33), r"2.embed_weight must have shape \(33,.*got \(32,"),
        (lambda d: d["scales"].pop(), "has the unexpected"),
        (lambda d: d["lora_layers"].update(x=[1]), r"must be \[in, out\] features"),
        (lambda d: d["base"].pop("weights"), "base must have family, config and weights"),
        (lambda d: d["base"].update(family="wan"), "family 'wan', this model is 'flux'"),
        (lambda d: d["base"]["weights"].update(proj_out="x"), r"base.weights\['proj_out'\] must be a list"),
        (lambda d: d["scales"].append(d["scales"][0]), r"scales must be distinct, got \[2, 4, 2\]"),
        (lambda d: d["scales"][0].update(scale=100_000), "lacks the tensors"),
        (lambda d: d["scales"][0].update(width=10**9), r"must have shape \(1000000000,"),
        (lambda d: d["scales"][0].update(rank="a"), "rank must be an integer of 0 to .*, got 'a'"),
        (lambda d: d["scales"][0].update(refinement_hidden=-1), "refinement_hidden must be an integer"),
        (
            lambda d: d["scales"][0].update(refinement_knots=0),
            "refinement_knots must be an integer of 2 to .*, got 0",
        ),
        (lambda d: d["scales"][0].update(lora_scale=float("nan")), "lora_scale must be a finite number"),
        (lambda d: d["scales"][0].update(detail_variance="a"), "detail_variance must be None or a number"),
        (lambda d: d["scales"][0].update(detail_residual="no"), "detail_residual must be True or False"),
        (lambda d: d["scales"][0].update(width=2**62), "width must be an integer of 1 to 1073741824, got 46"),
        (
            lambda d: d["scales"][0].update(width=2**30, scale=2**30),
            "no adapter can be as it says: .*overflow",
        ),
        (lambda d: d["scales"][0].update(lora_scale=10**400), "lora_scale must be a finite number"),
        (
            lambda d: d["lora_layers"].update(x=[2**62, 1]),
            r"lora_layers\['x'\] must be .* 1 to 1073741824, got",
        ),
        (lambda d: d["lora_layers"].update({"": [1, 1]}), "lora_layers has a layer without a name"),
        (lambda d: d["lora_layers"].update(keys=[1, 1]), "no adapter can be as it says: .*'keys'"),
        (lambda d: d["base"]["weights"]["proj_out"].append(10**400), "must be a list of finite numbers"),
        (lambda d: d["base"]["weights"].update(proj_out=[10**30] * 16), "weights of proj_out differ"),
    ],
)
def test_a_foreign_description_is_rejected(saved, transformer, change, text):
    rewrite(saved, change)
    with pytest.raises(AdapterError, match=text):
        Adapter.load(saved, transformer)


def test_unknown_fields_beside_the_scales_are_passed_over(saved, transformer):
    rewrite(saved, lambda d: (d.update(colour=1), d["base"].update(colour=1), d["tensors"].update(colour=1)))
    assert Adapter.load(saved, transformer).scales == (2, 4)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", "[" * 100_000])
def test_an_unreadable_description_is_rejected(saved, transformer, text):
    (saved / "adapter.json").write_text(text)
    with pytest.raises(AdapterError):
        Adapter.load(saved, transformer)


def test_another_model_is_rejected(saved):
    with pytest.raises(
        AdapterError, match="another base model of the same shape: the weights of x_embedder differ"
    ):
        Adapter.load(saved, tiny_flux(seed=1))
    with pytest.raises(
        AdapterError, match="made for a model with in_channels = 16, this one has in_channels = 32"
    ):
        Adapter.load(saved, tiny_flux(channels=8))
    with pytest.raises(AdapterError, match="transformer must be one of .*got Linear"):
        Adapter.load(saved, torch.nn.Linear(2, 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_the_same_model_in_another_precision_is_recognised(saved, dtype):
    Adapter.load(saved, tiny_flux().to(dtype))


def test_a_failed_save_leaves_the_old_files(saved, transformer, monkeypatch):
    before = {name: (saved / name).read_bytes() for name in os.listdir(saved)}

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        randomised(Adapter.create(transformer)).save(saved)
    assert {name: (saved / name).read_bytes() for name in os.listdir(saved)} == before


def test_a_record_that_is_no_json_costs_nothing(saved, transformer):
    before = {name: (saved / name).read_bytes() for name in os.listdir(saved)}
    adapter = randomised(Adapter.create(transformer))
    adapter.training_record["note"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        adapter.save(saved)
    assert {name: (saved / name).read_bytes() for name in os.listdir(saved)} == before


def test_a_save_cut_between_the_two_files_is_detected(saved, transformer):
    old = (saved / "adapter.json").read_text()
    randomised(randomised(Adapter.load(saved, transformer))).save(saved)
    (saved / "adapter.json").write_text(old)
    with pytest.raises(AdapterError, match="from another save"):
        Adapter.load(saved, transformer)


def test_sequential_offload_and_peft_do_not_hide_the_base_weights(transformer):
    wanted = read_base(transformer)
    offloaded = tiny_flux()
    cpu_offload(offloaded, execution_device=torch.device("cpu"))
    assert offloaded.x_embedder.weight.device.type == "meta"
    wrapped = tiny_flux()
    wrapped.add_adapter(LoraConfig(r=2, target_modules=["x_embedder", "proj_out"]))
    for model in (offloaded, wrapped, torch.compile(tiny_flux())):
        found = read_base(model)
        assert all(
            torch.equal(a, b) for a, b in zip(vars(found).values(), vars(wanted).values(), strict=True)
        )
    assert torch.equal(
        velocity(offloaded, Adapter.training_free(offloaded)),
        velocity(transformer, Adapter.training_free(transformer)),
    )


def test_the_transformer_is_left_alone():
    transformer = tiny_flux()
    before = {name: value.clone() for name, value in transformer.state_dict().items()}
    modules = [name for name, _ in transformer.named_modules()]
    adapter = randomised(Adapter.create(transformer))
    velocity(transformer, adapter)
    assert [name for name, _ in transformer.named_modules()] == modules
    assert all(torch.equal(value, before[name]) for name, value in transformer.state_dict().items())
    storages = {value.data_ptr() for value in transformer.parameters()}
    assert not storages & {value.data_ptr() for value in adapter.parameters()}


def test_weights_cast_under_inference_mode_serve_gradients():
    transformer = tiny_flux().bfloat16().requires_grad_(False)
    adapter = Adapter.create(transformer, (2,), rank=2).eval()
    call = noisy_call(4, 4, [0.5])
    call = {
        name: value.bfloat16() if isinstance(value, torch.Tensor) else value for name, value in call.items()
    }
    latents = call["hidden_states"]
    with torch.inference_mode():
        weights = adapter.weights(2, latents)
    with FluxFamily(transformer).coarse(
        call | {"hidden_states": latents.requires_grad_()}, weights, call["timestep"].float()
    ) as coarse:
        transformer(**coarse)[0].float().square().sum().backward()
    assert adapter.weights(2, latents) is weights and latents.grad.abs().sum() > 0


def test_weights_are_cast_once_and_again_after_a_change(transformer):
    adapter = randomised(Adapter.create(transformer, [2], rank=2))
    like = torch.zeros(1, dtype=torch.bfloat16)
    cast = adapter.weights(2, like)
    assert cast.embed_weight.dtype == torch.bfloat16 and not cast.embed_weight.requires_grad
    assert cast.refinement.knots.dtype == torch.float32
    assert adapter.weights(2, like) is cast
    assert adapter.weights(2, torch.zeros(1)) is adapter.own(2)
    randomised(adapter)
    assert not torch.equal(adapter.weights(2, like).embed_weight, cast.embed_weight)
    assert adapter.train().weights(2, like) is adapter.own(2)


def test_unknown_scales_are_named(transformer):
    adapter = Adapter.training_free(transformer, [2])
    with pytest.raises(ValueError, match=r"scale must be one of the adapter's, \(2,\), got 4"):
        adapter.weights(4, torch.zeros(1))
    with pytest.raises(AdapterError, match="at least one patch size above 1"):
        Adapter.training_free(transformer, [1])
    with pytest.raises(AdapterError, match="rank must be an integer of 0 to .*, got -1"):
        Adapter.create(transformer, rank=-1)


def test_creating_is_reproducible_and_leaves_the_global_generator(transformer):
    state = torch.get_rng_state()
    first, second = (Adapter.create(transformer, seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
