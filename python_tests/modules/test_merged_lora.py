"""Adapter.load(lora="merged"): copies of the weights with the low-rank addition in them, and when they are made anew."""

import warnings

import accelerate
import pytest
import torch
from adapters import trained_adapter
from flux_pipelines import make_call, make_pipeline, run
from launches import Launches
from peft import LoraConfig
from torch import nn

import ddit_ext
from ddit_ext.coarse import Adapter
from ddit_ext.modules.lora import LowRank, LowRankLinear
from ddit_ext.modules.merged_lora import MergedLinear, why_not_merged

NAME = "transformer_blocks.0.ff.net.2"


def addition(fan_in, fan_out, rank=2, scale=0.5):
    generator = torch.Generator().manual_seed(0)
    module = LowRank(fan_in, fan_out, rank, scale).requires_grad_(False)
    nn.init.normal_(module.a, generator=generator)
    nn.init.normal_(module.b, generator=generator)
    return module


def reference(pipe, adapter, call, **settings):
    """What the same run gives with the addition beside its layers."""
    adapter.lora = "beside"
    handle = ddit_ext.patch(pipe, adapter, **settings)
    result = run(pipe, call)
    handle.unpatch()
    return result


def layers_of(handle):
    """The merged copies of the part's sizes, by name."""
    return [kept for kept in handle._hook.parts[0].family.low_rank._merged.values() if kept]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_weight_is_rounded_once(dtype):
    torch.manual_seed(0)
    base, low_rank = nn.Linear(24, 40).to(dtype), addition(24, 40).to(dtype)
    merged = MergedLinear(base, low_rank)
    wide = torch.promote_types(dtype, torch.float32)
    sum_of = base.weight.to(wide) + 0.5 * (low_rank.b.to(wide) @ low_rank.a.to(wide))
    assert merged.weight.dtype == dtype and merged.bias is base.bias
    # One rounding: within half a unit in the last place of the sum, up to the float32 sum's own order.
    unit = torch.finfo(dtype).eps * sum_of.abs()
    assert ((merged.weight.to(wide) - sum_of).abs() <= 0.5 * unit + 2 * torch.finfo(wide).eps).all()


def test_its_error_is_that_of_rounded_weights():
    """Beside or merged: neither is further from the exact product than bfloat16 weights are from their own."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(256, 512, generator=generator) * 512**-0.5
    base, low_rank = nn.Linear(512, 256, bias=False), addition(512, 256, rank=4, scale=0.01)
    base.weight.data = weight.bfloat16()
    low_rank.bfloat16()
    x = torch.randn(64, 512, generator=generator).bfloat16()
    exact = x.double() @ (base.weight.double() + 0.01 * low_rank.b.double() @ low_rank.a.double()).T
    rounded = (
        x.double() @ base.weight.double().T - x.double() @ weight.double().T
    )  # what bfloat16 costs the base

    def error(module):
        with torch.no_grad():
            return (module(x).double() - exact).norm()

    output_rounding = 2**-9 * exact.norm()
    assert error(MergedLinear(base, low_rank)) <= rounded.norm() + output_rounding
    assert error(LowRankLinear(base, low_rank)) <= 2 * output_rounding


def test_runs_are_those_with_the_addition_beside():
    pipe, call = make_pipeline(), make_call(steps=4)
    adapter = trained_adapter(pipe.transformer)
    plain = run(pipe, call)
    schedule = [1, 2, 4, 2]
    expected = reference(pipe, adapter, call, schedule=schedule)
    before = {name: tensor.clone() for name, tensor in pipe.transformer.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapter.lora = "merged"
        handle = ddit_ext.patch(pipe, adapter, schedule=schedule)
        merged = run(pipe, call)
    torch.testing.assert_close(merged, expected)
    assert (expected - plain).abs().max() > 1e-3
    kept = layers_of(handle)
    assert [len(size) for size in kept] == [len(adapter.own(2).lora)] * 2
    layers = [id(layer) for size in kept for layer in size.values()]
    assert torch.equal(run(pipe, call), merged)
    assert [id(layer) for size in layers_of(handle) for layer in size.values()] == layers  # made once
    after = pipe.transformer.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    family = handle._hook.parts[0].family
    handle.unpatch()
    assert not list(family.low_rank._merged.values())
    adapter.lora = "merged"
    fine = ddit_ext.patch(pipe, adapter, schedule=1)
    assert torch.equal(run(pipe, call), plain)
    fine.unpatch()


def test_a_users_lora_runs_beside_until_it_is_part_of_the_weights():
    """peft writes a fused LoRA past the version counter, and leaves the very layers that were there before."""
    pipe, call = make_pipeline(), make_call(steps=2)
    adapter = trained_adapter(pipe.transformer)
    adapter.lora = "merged"
    handle = ddit_ext.patch(pipe, adapter, schedule=2)
    without = run(pipe, call)
    config = LoraConfig(r=2, target_modules=["ff.net.2"], init_lora_weights=False)
    pipe.transformer.add_adapter(config, adapter_name="style")
    with pytest.warns(UserWarning, match=rf"lora='merged': 1 of 6 layers .* {NAME}: a peft Linear"):
        styled = run(pipe, call)
    handle.unpatch()
    torch.testing.assert_close(styled, reference(pipe, adapter, call, schedule=2))
    assert (styled - without).abs().max() > 1e-3

    adapter.lora = "merged"
    handle = ddit_ext.patch(pipe, adapter, schedule=2)
    pipe.transformer.disable_adapters()
    layer = pipe.transformer.get_submodule(NAME).base_layer
    pipe.transformer.delete_adapters("style")
    pipe.transformer.unload_lora()
    assert pipe.transformer.get_submodule(NAME) is layer
    torch.testing.assert_close(run(pipe, call), without)
    merged = layers_of(handle)[0][NAME]
    pipe.transformer.add_adapter(config, adapter_name="style")
    pipe.transformer.fuse_lora()
    pipe.transformer.unload_lora()
    assert pipe.transformer.get_submodule(NAME) is layer and merged.is_of(layer, adapter.own(2).lora[NAME])
    fused = run(pipe, call)
    assert layers_of(handle)[0][NAME] is not merged
    handle.unpatch()
    torch.testing.assert_close(fused, reference(pipe, adapter, call, schedule=2))
    assert (fused - without).abs().max() > 1e-3


@pytest.mark.parametrize("change", ["base", "a", "b", "scale"])
def test_changed_factors_are_merged_again(change):
    pipe, call = make_pipeline(), make_call(steps=1)
    adapter = trained_adapter(pipe.transformer)
    adapter.lora = "merged"
    handle = ddit_ext.patch(pipe, adapter, schedule=2)
    before = run(pipe, call)
    low_rank = adapter.own(2).lora[NAME]
    with torch.no_grad():
        if change == "scale":
            low_rank.scale = 3.0
        else:
            {"base": pipe.transformer.get_submodule(NAME).weight, "a": low_rank.a, "b": low_rank.b}[
                change
            ].mul_(3)
    after = run(pipe, call)
    handle.unpatch()
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, reference(pipe, adapter, call, schedule=2))


def test_the_dtype_may_change_after_patching():
    pipe, call = make_pipeline(), make_call(steps=2, dtype=torch.bfloat16)
    adapter = trained_adapter(pipe.transformer)
    adapter.lora = "merged"
    handle = ddit_ext.patch(pipe, adapter, schedule=2)
    run(pipe, make_call(steps=2))
    pipe.to(torch.bfloat16)
    run(pipe, call)
    assert {layer.weight.dtype for size in layers_of(handle) for layer in size.values()} == {torch.bfloat16}


def test_what_cannot_be_merged_says_why():
    low_rank = addition(6, 5)
    layer = nn.Linear(6, 5)
    assert why_not_merged(layer, low_rank) is None
    stored = nn.Linear(6, 5).to(torch.float8_e4m3fn)
    assert why_not_merged(stored, low_rank) == "its weight is stored as float8_e4m3fn"
    packed = nn.Linear(6, 5)
    packed.weight = nn.Parameter(torch.zeros(15, 1, dtype=torch.uint8), requires_grad=False)
    assert why_not_merged(packed, low_rank) == "its weight is a Parameter of shape (15, 1)"
    away = nn.Linear(6, 5, device="meta")
    assert why_not_merged(away, low_rank) == "its weight is on meta, the latents are on cpu"
    assert why_not_merged(nn.Sequential(layer), low_rank) == "a torch Sequential"
    layer.register_forward_hook(lambda *_: None)
    assert why_not_merged(layer, low_rank) == "it has hooks, as offloading has"


def test_offloaded_and_cast_layers_stay_beside():
    for offload in (True, False):
        pipe, call = make_pipeline(dtype=torch.bfloat16), make_call(steps=2, dtype=torch.bfloat16)
        adapter = trained_adapter(pipe.transformer)
        if offload:  # as enable_sequential_cpu_offload does, but without a GPU
            for module in (pipe.vae, pipe.transformer):
                accelerate.cpu_offload(module, execution_device=torch.device("cpu"))
        else:
            pipe.transformer.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)
        expected = reference(pipe, adapter, call, schedule=2)
        adapter.lora = "merged"
        handle = ddit_ext.patch(pipe, adapter, schedule=2)
        reason = "the transformer is offloaded" if offload else "its weight is stored as float8_e4m3fn"
        with pytest.warns(UserWarning, match=f"lora='merged': 6 of 6 layers .* {reason}"):
            assert torch.equal(run(pipe, call), expected)
        assert layers_of(handle) == []


def test_factors_that_are_trained_stay_beside():
    """A merged copy would pass no gradient on to them."""
    from ddit_ext.families import FluxFamily

    transformer = make_pipeline().transformer
    weights = trained_adapter(transformer).train().own(2)
    family = FluxFamily(transformer)
    family.low_rank.merge = True
    stand_in = family.low_rank.of(transformer, weights, weights.lora)[NAME]
    assert isinstance(stand_in, LowRankLinear)
    assert family.low_rank.unmerged[NAME] == "its low-rank factors are being trained"
    with torch.no_grad():
        assert isinstance(family.low_rank.of(transformer, weights, weights.lora)[NAME], MergedLinear)


def test_under_inference_mode_and_compiled():
    torch._dynamo.reset()
    pipe, call = make_pipeline(), make_call(steps=4)
    adapter = trained_adapter(pipe.transformer)
    expected = reference(pipe, adapter, call, schedule=[2, 1, 2, 4])
    graphs = []
    pipe.transformer = torch.compile(pipe.transformer, backend=lambda graph, _: graphs.append(graph) or graph)
    adapter.lora = "merged"
    ddit_ext.patch(pipe, adapter, schedule=[2, 1, 2, 4])
    for _ in range(2):
        with torch.inference_mode():
            torch.testing.assert_close(run(pipe, call), expected)
        assert len(graphs) == 3


def test_made_under_inference_mode_it_serves_gradients():
    with torch.inference_mode():
        merged = MergedLinear(nn.Linear(4, 6), addition(4, 6))
    x = torch.randn(3, 4, requires_grad=True)
    merged(x).sum().backward()
    torch.testing.assert_close(x.grad, merged.weight.sum(0).expand(3, 4))


def test_a_loaded_adapter_says_how(tmp_path):
    pipe = make_pipeline()
    trained_adapter(pipe.transformer).save(tmp_path)
    with pytest.raises(ValueError, match="lora must be 'beside' or 'merged', got 'fused'"):
        Adapter.load(tmp_path, pipe.transformer, lora="fused")
    assert Adapter.load(tmp_path, pipe.transformer).lora == "beside"
    merged = Adapter.load(tmp_path, pipe.transformer, lora="merged")
    with ddit_ext.patch(pipe, merged, schedule=2) as handle:
        run(pipe, make_call(steps=2))
        assert layers_of(handle)


def test_what_a_call_launches_more():
    """Beside, two products a layer; merged, none. No two layers read the same input, so no product could serve both."""
    pipe, inputs = make_pipeline(), []
    adapter = trained_adapter(pipe.transformer)
    layers = [pipe.transformer.get_submodule(name) for name in adapter.own(2).lora]
    counts = {}
    for how, given in (("none", Adapter.create(pipe.transformer, rank=0).eval()), ("beside", adapter)):
        with ddit_ext.patch(pipe, given, schedule=2):
            counts[how] = launches_of_a_step(pipe)
    adapter.lora = "merged"
    with ddit_ext.patch(pipe, adapter, schedule=2):
        counts["merged"] = launches_of_a_step(pipe)
    assert counts == {
        "none": counts["none"],
        "beside": counts["none"] + 2 * len(layers),
        "merged": counts["none"],
    }
    for layer in layers:
        layer.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    run(pipe, make_call(steps=1))
    assert len({each.data_ptr() for each in inputs}) == len(inputs) == len(layers)


def launches_of_a_step(pipe):
    """Those of a run without those of one that is a step shorter; the first run makes ready."""
    counts = []
    for steps in (1, 2, 3):
        with Launches() as mode:
            run(pipe, make_call(steps=steps))
        counts.append(len(mode.names))
    return counts[2] - counts[1]
