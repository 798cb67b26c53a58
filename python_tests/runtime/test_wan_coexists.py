"""A patched Wan beside what else users do with one: compile, offload, LoRA, caches, other pipelines and adapters."""

import copy
import pickle
from types import SimpleNamespace

import accelerate
import pytest
import torch
from diffusers import SkyReelsV2Transformer3DModel, WanImageToVideoPipeline
from flux_pipelines import make_transformer as make_flux
from peft import LoraConfig
from wan_pipelines import MODEL, make_call, make_pipeline, make_transformer, run

import ddit_ext
from ddit_ext.coarse import Adapter
from ddit_ext.runtime.patched_call import find_hook

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")


def trained_adapter(transformer):
    """An adapter whose additions are not zero."""
    adapter = Adapter.create(transformer, rank=2)
    generator = torch.Generator().manual_seed(5)
    for weights in adapter.sizes.values():
        for low_rank in weights.lora.values():
            torch.nn.init.normal_(low_rank.b, std=0.3, generator=generator)
    return adapter.eval()


def scales_of(handle):
    return [step["scale"] for step in handle.report().to_dict()["steps"]]


def test_low_rank_addition_only_in_coarse_steps():
    pipe, call = make_pipeline(), make_call(steps=1)
    plain = run(pipe, call)
    outputs = {}
    for name, adapter in (("free", None), ("trained", trained_adapter(pipe.transformer))):
        handle = ddit_ext.patch(pipe, adapter, schedule=2)
        outputs[name] = run(pipe, call)
        handle.unpatch()
    assert not torch.allclose(outputs["free"], outputs["trained"])
    handle = ddit_ext.patch(pipe, trained_adapter(pipe.transformer), schedule=1)
    assert torch.equal(run(pipe, call), plain)


def test_an_adapter_of_another_family_or_model(tmp_path):
    pipe = make_pipeline()
    Adapter.training_free(make_flux()).save(tmp_path)
    for adapter, text in (
        (tmp_path, "adapter was made for the family 'flux', this model is 'wan'"),
        (Adapter.training_free(make_flux()), "adapter was made for the family 'flux', this model is 'wan'"),
        (Adapter.training_free(make_transformer(seed=7)), "adapter was made for another base model"),
        (Adapter.training_free(make_transformer(in_channels=36)), "in_channels = 36, this one has in_channels = 16"),
        (Adapter.training_free(make_transformer("vace")), "family 'wan-vace', this model is 'wan'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            ddit_ext.patch(pipe, adapter)
        assert find_hook(pipe.transformer) is None


def test_a_pipeline_of_another_class_is_named():
    config = {name: value for name, value in MODEL.items() if name != "rope_max_seq_len"}
    pipe = SimpleNamespace(
        transformer=SkyReelsV2Transformer3DModel(**config), scheduler=make_pipeline().scheduler
    )
    with pytest.raises(TypeError, match="WanTransformer3DModel.*got .* with a SkyReelsV2Transformer3DModel"):
        ddit_ext.patch(pipe, schedule=2)
    mixed = make_pipeline("two")
    mixed.transformer_2 = torch.nn.Linear(2, 2)
    with pytest.raises(TypeError, match="whose transformer_2 is of a supported family.* with a Linear"):
        ddit_ext.patch(mixed, schedule=2)
    assert find_hook(mixed.transformer) is None


def test_pipelines_that_share_a_transformer_share_the_patch():
    pipe = make_pipeline("i2v")
    other = WanImageToVideoPipeline(**pipe.components, boundary_ratio=0.8)
    handle = ddit_ext.patch(pipe, schedule=2)
    with pytest.raises(RuntimeError, match="already patched"):
        ddit_ext.patch(other)
    ddit_ext.unpatch(other)
    assert find_hook(pipe.transformer) is None and find_hook(pipe.transformer_2) is None
    handle.unpatch()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_the_transformer_is_clean(duplicate):
    pipe, call = make_pipeline(), make_call(steps=1)
    plain = run(pipe, call)
    ddit_ext.patch(pipe, schedule=2)
    coarse = run(pipe, call)
    copied = duplicate(pipe.transformer)
    patched, pipe.transformer = pipe.transformer, copied
    assert torch.equal(run(pipe, call), plain)
    pipe.transformer = patched
    assert torch.equal(run(pipe, call), coarse)


@pytest.mark.parametrize("patch_first", [True, False])
def test_sequential_offload(patch_first):
    pipe, call = make_pipeline(), make_call(steps=2)
    adapter = trained_adapter(pipe.transformer)
    handle = ddit_ext.patch(pipe, adapter, schedule=[1, 2])
    expected = run(pipe, call)
    if not patch_first:
        handle.unpatch()
    pipe.vae = copy.deepcopy(pipe.vae)
    for module in (pipe.vae, pipe.transformer):  # as enable_sequential_cpu_offload does, but without a GPU
        accelerate.cpu_offload(module, torch.device("cpu"), offload_buffers=True)
    assert pipe.transformer.patch_embedding.weight.device.type == "meta"
    if not patch_first:
        ddit_ext.patch(pipe, adapter, schedule=[1, 2])
    torch.testing.assert_close(run(pipe, call), expected)


def test_training_free_weights_of_an_offloaded_model():
    model = make_transformer()
    expected = Adapter.training_free(model)
    accelerate.cpu_offload(model, torch.device("cpu"))
    for a, b in zip(Adapter.training_free(model).parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b)


def test_compiled_graphs_are_few():
    """One graph a size, and none more with further steps; the same numbers."""
    torch._dynamo.reset()
    pipe, call = make_pipeline(), make_call(steps=6, guidance=1.0)
    adapter = trained_adapter(pipe.transformer)
    handle = ddit_ext.patch(pipe, adapter, schedule=[1, 2, 4, 1, 2, 4])
    expected = run(pipe, call)
    handle.unpatch()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    pipe.transformer = torch.compile(pipe.transformer, backend=backend)
    handle = ddit_ext.patch(pipe, adapter, schedule=[1, 2, 4, 1, 2, 4])
    torch.testing.assert_close(run(pipe, call), expected)
    assert len(graphs) == 3
    run(pipe, call)
    run(pipe, make_call(steps=6, guidance=1.0, seed=3))
    assert len(graphs) == 3
    assert scales_of(handle) == [1, 2, 4, 1, 2, 4]


def test_a_users_lora():
    pipe, call = make_pipeline(), make_call(steps=2)
    pipe.transformer.add_adapter(
        LoraConfig(r=2, target_modules=["to_q", "ffn.net.2"], init_lora_weights=False)
    )
    handle = ddit_ext.patch(pipe, trained_adapter(pipe.transformer), schedule=2)
    on = run(pipe, call)
    pipe.transformer.disable_adapters()
    assert not torch.allclose(run(pipe, call), on)
    handle.unpatch()


@pytest.mark.parametrize("layer", ["patch_embedding", "proj_out"])
def test_a_users_lora_on_a_replaced_layer_raises(layer):
    pipe = make_pipeline()
    ddit_ext.patch(pipe, schedule=[1, 2])
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=[layer], init_lora_weights=False))
    with pytest.raises(NotImplementedError, match=f"PEFT adapter .default. on {layer}"):
        run(pipe, make_call(steps=2))


def test_tensor_parallel_raises():
    pipe = make_pipeline("two")
    pipe.transformer_2._parallel_config = object()
    with pytest.raises(NotImplementedError, match="tensor parallel"):
        ddit_ext.patch(pipe, schedule=2)


def test_gradient_checkpointing_in_a_patched_call():
    pipe = make_pipeline()
    pipe.transformer.enable_gradient_checkpointing()
    handle = ddit_ext.patch(pipe, trained_adapter(pipe.transformer), schedule=2)
    with handle.run(total=1), pytest.raises(NotImplementedError, match="inside WanFamily.coarse"):
        pipe.transformer(
            hidden_states=torch.randn(1, 16, 1, 4, 4),
            timestep=torch.tensor([500.0]),
            encoder_hidden_states=torch.randn(1, 3, 32),
        )


def test_positional_arguments():
    model = make_transformer()
    pipe = make_pipeline()
    pipe.transformer = model
    ddit_ext.patch(pipe, schedule=2)
    latents, text = torch.randn(1, 16, 2, 4, 6), torch.randn(1, 3, 32)
    with torch.no_grad():
        by_name = model(
            hidden_states=latents, timestep=torch.tensor([700]), encoder_hidden_states=text
        ).sample
        assert torch.equal(model(latents, torch.tensor([700]), text).sample, by_name)


def test_group_offload():
    pipe, call = make_pipeline("two"), make_call("two", steps=5)
    handle = ddit_ext.patch(pipe, schedule=2)
    expected = run(pipe, call)
    for transformer in (pipe.transformer, pipe.transformer_2):
        transformer.enable_group_offload(
            onload_device=torch.device("cpu"), offload_type="leaf_level", use_stream=False
        )
    torch.testing.assert_close(run(pipe, call), expected)
    assert scales_of(handle) == [2] * 5


@pytest.mark.parametrize("patch_first", [True, False])
def test_layerwise_casting(patch_first):
    """Weights stored in fp8, before or after patching."""
    pipe, call = make_pipeline(), make_call(steps=2)
    adapter = trained_adapter(pipe.transformer)
    if patch_first:
        ddit_ext.patch(pipe, adapter, schedule=[1, 2])
    pipe.transformer.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    if not patch_first:
        ddit_ext.patch(pipe, adapter, schedule=[1, 2])
    assert pipe.transformer.blocks[0].ffn.net[2].weight.dtype == torch.float8_e4m3fn
    assert run(pipe, call).isfinite().all()


def test_one_transformer_in_both_places():
    """It is patched once, and left as it was."""
    pipe, call = make_pipeline("two"), make_call("two", steps=5)
    pipe.transformer_2 = copy.deepcopy(pipe.transformer)
    with ddit_ext.patch(pipe, schedule=[1, 0, 2, 1, 0]):
        expected = run(pipe, call)
    pipe.transformer_2 = pipe.transformer
    before = set(vars(pipe.transformer))
    with ddit_ext.patch(pipe, {"transformer": trained_adapter(pipe.transformer)}, schedule=1):
        pass
    for schedule in ([1, 0, 2, 1, 0], ddit_ext.Forecast(calls=3)):
        with ddit_ext.patch(pipe, schedule=schedule):
            found = run(pipe, call)
        assert torch.equal(found, expected) == isinstance(schedule, list)
        assert set(vars(pipe.transformer)) == before
