"""A patched transformer beside what else users do with one: copies, compile, LoRA, caches."""

import copy
import pickle

import pytest
import torch
from adapters import trained_adapter
from flux_pipelines import TEXT, make_call, make_pipeline, run
from peft import LoraConfig

import ddit_ext
from ddit_ext import Forecast
from ddit_ext.coarse import Adapter, base_weights

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")

FEED_FORWARD = ["ff.net.0.proj", "ff.net.2", "proj_mlp"]


def scales_of(handle):
    return [step["scale"] for step in handle.report().to_dict()["steps"]]


@pytest.mark.parametrize(
    ("positions", "rows", "columns"), [("centre", 5, 3), ("grid", 5, 3), ("centre", 150, 1)]
)
def test_coarse_positions(positions, rows, columns):
    pipe = make_pipeline(dtype=torch.bfloat16)
    adapter = Adapter.training_free(pipe.transformer, (2, 4), positions=positions)
    seen = []
    pipe.transformer.pos_embed.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    ddit_ext.patch(pipe, adapter, schedule=[1, 2, 4])
    run(pipe, make_call(rows=rows, columns=columns, steps=3, dtype=torch.bfloat16))
    for ids, scale in zip(seen[1:], (2, 4), strict=True):
        ids = ids[TEXT:]
        assert ids.dtype == torch.float32
        step, offset = (scale, (scale - 1) / 2) if positions == "centre" else (1, 0)
        across = -(-columns // scale)
        expected = [
            (0, step * i + offset, step * j + offset) for i in range(-(-rows // scale)) for j in range(across)
        ]
        assert torch.equal(ids, torch.tensor(expected, dtype=torch.float32))


def test_low_rank_addition_only_in_coarse_steps():
    pipe = make_pipeline()
    plain = run(pipe, make_call(steps=2))
    free = ddit_ext.patch(pipe, schedule=2)
    without = run(pipe, make_call(steps=2))
    free.unpatch()
    adapter = trained_adapter(pipe.transformer)
    handle = ddit_ext.patch(pipe, adapter, schedule=2)
    assert (run(pipe, make_call(steps=2)) - without).abs().max() > 1e-3
    handle.unpatch()
    handle = ddit_ext.patch(pipe, adapter, schedule=1)
    assert torch.equal(run(pipe, make_call(steps=2)), plain)
    handle.unpatch()
    assert not any("Low" in type(module).__name__ for module in pipe.transformer.modules())


def test_positional_arguments():
    pipe = make_pipeline()
    model = pipe.transformer
    generator = torch.Generator().manual_seed(0)
    ids = torch.cartesian_prod(torch.zeros(1), torch.arange(6.0), torch.arange(4.0))
    call = dict(
        hidden_states=torch.randn(1, 24, 16, generator=generator),
        encoder_hidden_states=torch.randn(1, TEXT, 32, generator=generator),
        pooled_projections=torch.randn(1, 32, generator=generator),
        timestep=torch.tensor([0.7]),
        img_ids=ids,
        txt_ids=torch.zeros(TEXT, 3),
    )
    handle = ddit_ext.patch(pipe, schedule=2)
    with handle.run():
        by_name = model(**call).sample
        by_place = model(*call.values(), return_dict=False)[0]
        in_batches = model(**call | {"img_ids": ids[None], "txt_ids": torch.zeros(1, TEXT, 3)}).sample
    assert torch.equal(by_name, by_place) and torch.equal(in_batches, by_name)
    with pytest.raises(TypeError):
        model(*call.values(), hidden_states=call["hidden_states"])
    with pytest.raises(TypeError):
        model()
    handle.unpatch()
    assert not torch.equal(model(**call).sample, by_name)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_the_transformer_is_clean(duplicate):
    pipe = make_pipeline()
    plain = run(pipe, make_call(steps=2))
    handle = ddit_ext.patch(pipe, schedule=2)
    coarse = run(pipe, make_call(steps=2))
    other = make_pipeline()
    other.transformer = duplicate(pipe.transformer)
    assert torch.equal(run(other, make_call(steps=2)), plain)
    torch.nn.init.zeros_(other.transformer.proj_out.weight)
    assert torch.equal(run(pipe, make_call(steps=2)), coarse)
    ddit_ext.patch(other, schedule=2).unpatch()
    handle.unpatch()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda sampler: pickle.loads(pickle.dumps(sampler))])
def test_a_copy_of_the_sampler_steps_by_itself(duplicate):
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, schedule=1)
    plain = run(pipe, make_call(steps=3))
    sampler = duplicate(pipe.scheduler)
    assert sampler.step.__self__ is sampler
    handle.unpatch()
    pipe.scheduler = sampler
    assert torch.equal(run(pipe, make_call(steps=3)), plain)


@pytest.mark.parametrize(
    ("how", "backend"),
    [("before", "aot_eager"), ("after", "eager"), ("in_place_before", "eager"), ("in_place_after", "eager")],
)
def test_compiled(how, backend):
    torch._dynamo.reset()
    pipe, call = make_pipeline(), make_call(rows=5, columns=3, steps=4)
    adapter = trained_adapter(pipe.transformer)
    plain = run(pipe, call)
    handle = ddit_ext.patch(pipe, adapter, schedule=[1, 2, 1, 2])
    expected = run(pipe, call)
    model = pipe.transformer
    if how.endswith("before"):
        handle.unpatch()
    if how.startswith("in_place"):
        model.compile(backend=backend)
    else:
        pipe.transformer = torch.compile(model, backend=backend)
    if how.endswith("before"):
        handle = ddit_ext.patch(pipe, adapter, schedule=[1, 2, 1, 2])
    torch.testing.assert_close(run(pipe, call), expected)
    assert scales_of(handle) == [1, 2, 1, 2]
    with pytest.raises(RuntimeError, match="already patched"):
        ddit_ext.patch(pipe)
    handle.unpatch()
    torch.testing.assert_close(run(pipe, call), plain)


def test_compiled_graphs_are_few():
    """One graph a size, and none more with further steps."""
    torch._dynamo.reset()
    pipe, call = make_pipeline(), make_call(steps=6)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    pipe.transformer = torch.compile(pipe.transformer, backend=backend)
    ddit_ext.patch(pipe, trained_adapter(pipe.transformer), schedule=[1, 2, 4, 1, 2, 4])
    run(pipe, call)
    assert len(graphs) == 3
    run(pipe, call)
    run(pipe, make_call(steps=6, seed=3))
    assert len(graphs) == 3


def test_a_users_lora_on_the_feed_forward_layers():
    pipe = make_pipeline()
    adapter = trained_adapter(pipe.transformer)
    handle = ddit_ext.patch(pipe, adapter, schedule=2)
    without = run(pipe, make_call(steps=2))
    config = LoraConfig(r=2, target_modules=FEED_FORWARD, init_lora_weights=False)
    pipe.transformer.add_adapter(config, adapter_name="style")
    with_lora = run(pipe, make_call(steps=2))
    assert not torch.equal(with_lora, without)
    pipe.transformer.disable_adapters()
    torch.testing.assert_close(run(pipe, make_call(steps=2)), without)
    pipe.transformer.enable_adapters()
    scaled = run(pipe, make_call(steps=2) | {"joint_attention_kwargs": {"scale": 0.5}})
    assert not torch.equal(scaled, with_lora) and not torch.equal(scaled, without)
    handle.unpatch()
    fresh = ddit_ext.patch(pipe, adapter, schedule=2)
    assert torch.equal(run(pipe, make_call(steps=2)), with_lora)
    fresh.unpatch()
    pipe.transformer.delete_adapters("style")


@pytest.mark.parametrize("layer", ["x_embedder", "proj_out"])
def test_a_users_lora_on_a_replaced_layer_raises(layer):
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, schedule=[1, 2])
    config = LoraConfig(r=2, target_modules=f"^{layer}$", init_lora_weights=False)
    pipe.transformer.add_adapter(config, adapter_name="style")
    with pytest.raises(NotImplementedError, match=rf"style.* on {layer}"):
        run(pipe, make_call(steps=2))
    pipe.transformer.disable_adapters()
    assert run(pipe, make_call(steps=2)).isfinite().all()
    pipe.transformer.enable_adapters()
    handle.unpatch()
    run(pipe, make_call(steps=2))


@pytest.mark.parametrize("layer", ["x_embedder", "proj_out"])
def test_a_lora_fused_into_a_replaced_layer(layer):
    """Fused after patching, the layer is no longer what the coarse weights were made from."""
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, schedule=2)
    before = run(pipe, make_call(steps=1))
    config = LoraConfig(r=2, target_modules=f"^{layer}$", init_lora_weights=False)
    pipe.transformer.add_adapter(config, adapter_name="style")
    pipe.transformer.fuse_lora()
    for _ in range(2):
        with pytest.raises(NotImplementedError, match=f"weights of {layer} have changed since patching"):
            run(pipe, make_call(steps=1))
        pipe.transformer.unload_lora()  # what was fused stays
    handle.unpatch()
    handle = ddit_ext.patch(pipe, schedule=2)
    after = run(pipe, make_call(steps=1))
    assert not torch.equal(after, before)
    handle.unpatch()
    pipe.transformer.add_adapter(config, adapter_name="style")
    pipe.transformer.fuse_lora()
    ddit_ext.patch(pipe, schedule=2)
    fused = run(pipe, make_call(steps=1))
    pipe.transformer.unload_lora()
    assert torch.equal(run(pipe, make_call(steps=1)), fused)


def test_weights_that_are_not_numbers_have_not_changed():
    pipe = make_pipeline()
    ddit_ext.patch(pipe, schedule=2)
    pipe.transformer.proj_out.weight.data[0, 0] = torch.nan
    with pytest.raises(NotImplementedError, match="weights of proj_out have changed since patching"):
        run(pipe, make_call(steps=1))
    ddit_ext.unpatch(pipe)
    ddit_ext.patch(pipe, schedule=2)
    for _ in range(2):
        assert run(pipe, make_call(steps=1)).isnan().any()


def test_a_look_at_the_weights_copies_a_sample_of_them(monkeypatch):
    """They may lie on a GPU, and are looked at in every run."""
    copied, copy_of = [], base_weights._own
    monkeypatch.setattr(base_weights, "_own", lambda tensor: copied.append(tensor.numel()) or copy_of(tensor))
    pipe = make_pipeline()
    ddit_ext.patch(pipe, schedule=2)
    copied.clear()
    run(pipe, make_call(steps=1))
    assert copied and max(copied) <= 16


def test_an_adapter_on_a_replaced_layer_that_is_not_active():
    """A layer of PEFT names the active adapters, also those of which it has no weights."""
    pipe, call = make_pipeline(), make_call(steps=2)
    model = pipe.transformer
    for name, layer in (("A", "x_embedder"), ("B", "context_embedder")):
        model.add_adapter(LoraConfig(r=2, target_modules=[layer], init_lora_weights=False), adapter_name=name)
    model.set_adapters(["B"])
    assert model.x_embedder.active_adapters == ["B"]
    ddit_ext.patch(pipe, schedule=2)
    style = run(pipe, call)
    model.set_adapters(["A", "B"], [0.0, 1.0])
    assert torch.equal(run(pipe, call), style)
    model.set_adapters(["A", "B"], [0.5, 1.0])
    with pytest.raises(NotImplementedError, match=r"a PEFT adapter \(A\) on x_embedder"):
        run(pipe, call)


@pytest.mark.parametrize("patch_first", [True, False])
def test_layerwise_casting(patch_first):
    """Weights stored in fp8, before or after patching."""
    pipe = make_pipeline("kontext", torch.bfloat16)
    call = make_call("kontext", steps=2, dtype=torch.bfloat16)
    adapter = trained_adapter(pipe.transformer)
    if patch_first:
        ddit_ext.patch(pipe, adapter, schedule=2)
    pipe.transformer.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)
    if not patch_first:
        ddit_ext.patch(pipe, adapter, schedule=2)
    assert pipe.transformer.x_embedder.weight.dtype == torch.float8_e4m3fn
    out = run(pipe, call)
    assert out.dtype == torch.bfloat16 and out.isfinite().all()


def test_autocast():
    pipe, call = make_pipeline(), make_call(steps=3)
    ddit_ext.patch(pipe, trained_adapter(pipe.transformer), schedule=[2, 1, 4])
    expected = run(pipe, call)
    with torch.autocast("cpu", torch.bfloat16):
        out = run(pipe, call)
    assert (out - expected).abs().max() < 0.2  # bf16 against float32, values of size 1 to 4


def test_tensor_parallel_raises():
    pipe = make_pipeline()
    pipe.transformer._parallel_config = object()
    with pytest.raises(NotImplementedError, match=r"tensor parallel.*schedule=Forecast\(...\) works"):
        ddit_ext.patch(pipe, schedule=2)
    with ddit_ext.patch(pipe, schedule=Forecast(calls=2)):
        assert run(pipe, make_call(steps=4)).isfinite().all()
    pipe.transformer._parallel_config = None
    ddit_ext.patch(pipe, schedule=2)
    pipe.transformer._parallel_config = object()
    with pytest.raises(NotImplementedError, match="tensor parallel"):
        run(pipe, make_call(steps=1))


def test_an_attention_mask_raises():
    pipe = make_pipeline()
    ddit_ext.patch(pipe, schedule=2)
    with pytest.raises(NotImplementedError, match="attention_mask"):
        run(pipe, make_call(steps=1) | {"joint_attention_kwargs": {"attention_mask": None}})


def gradient_call(pipe):
    generator = torch.Generator().manual_seed(0)
    return dict(
        hidden_states=torch.randn(1, 24, 16, generator=generator, requires_grad=True),
        encoder_hidden_states=torch.randn(1, TEXT, 32, generator=generator),
        pooled_projections=torch.randn(1, 32, generator=generator),
        timestep=torch.tensor([0.7]),
        img_ids=torch.cartesian_prod(torch.zeros(1), torch.arange(6.0), torch.arange(4.0)),
        txt_ids=torch.zeros(TEXT, 3),
    )


def test_gradient_checkpointing_inside_the_context():
    """Recomputed blocks meet the same modules: gradients with and without checkpointing agree."""
    from ddit_ext.families import FluxFamily

    model = make_pipeline().transformer
    weights = trained_adapter(model).train().own(2)
    family = FluxFamily(model)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        weights.zero_grad()
        arguments = family.bind((), gradient_call(None))
        with family.coarse(arguments, weights, torch.tensor([0.7])) as rewritten:
            model(**rewritten).sample.square().mean().backward()
        gradients.append(
            {name: p.grad.clone() for name, p in weights.named_parameters() if p.grad is not None}
        )
    assert any("lora" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_gradient_checkpointing_in_a_patched_call():
    pipe = make_pipeline()
    pipe.transformer.enable_gradient_checkpointing()
    handle = ddit_ext.patch(pipe, trained_adapter(pipe.transformer), schedule=2)
    with pytest.raises(NotImplementedError, match="gradient checkpointing"), handle.run():
        pipe.transformer(**gradient_call(pipe))
    assert run(pipe, make_call(steps=1)).isfinite().all()  # without gradients there is nothing to recompute
    handle.unpatch()
    handle = ddit_ext.patch(pipe, schedule=2)  # training-free: no block differs
    call = gradient_call(pipe)
    with handle.run():
        output = pipe.transformer(**call)
    output.sample.square().mean().backward()
    assert call["hidden_states"].grad.isfinite().all()


def test_saved_models_are_the_models_own(tmp_path):
    pipe = make_pipeline()
    pipe.transformer.save_pretrained(tmp_path / "before")
    ddit_ext.patch(pipe, schedule=2)
    run(pipe, make_call(steps=1))
    pipe.transformer.save_pretrained(tmp_path / "after")
    pipe.scheduler.save_pretrained(tmp_path / "sampler")
    name = "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()
