"""What users do to a model beside patching it, on families that came after FLUX: compile, offload, store in fp8, IP-Adapter."""

import accelerate
import pytest
import torch
from diffusers.models.attention_processor import SD3IPAdapterJointAttnProcessor2_0
from diffusers.models.embeddings import IPAdapterTimeImageProjection
from family_cases import BY_NAME
from flow_families.family import text
from torch import nn

import ddit_ext
from ddit_ext import TeaCache

NAMES = ["FLUX.2", "Qwen-Image", "Z-Image", "Stable Diffusion 3", "HunyuanVideo 1.5"]
SCALES = [1, 2, 4, 1]
BLOCKS = {"Z-Image": "layers"}  # elsewhere transformer_blocks
CPU = torch.device("cpu")

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")
every_family = pytest.mark.parametrize("name", NAMES)


def patched(pipe):
    return ddit_ext.patch(pipe, schedule=SCALES, scales=(1, 2, 4))


@every_family
def test_compiled_blocks_have_a_graph_a_scale(name):
    torch._dynamo.reset()
    case = BY_NAME[name]
    pipe, graphs = case.build(), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    with patched(pipe):
        expected = case.run(pipe, steps=4)
        for block in pipe.transformer.get_submodule(BLOCKS.get(name, "transformer_blocks")):
            block.compile(backend=backend, dynamic=False)
        torch.testing.assert_close(case.run(pipe, steps=4), expected)
        compiled = len(graphs)
        assert compiled >= (1 if name == "Z-Image" else 3)  # which pads 16 tokens, 4 or 1 to 32
        torch.testing.assert_close(case.run(pipe, steps=4), expected)
        assert len(graphs) == compiled
    torch._dynamo.reset()


@every_family
@pytest.mark.parametrize("schedule", [SCALES, TeaCache(1e9)], ids=["larger patches", "TeaCache"])
def test_offloaded_layers(name, schedule):
    case = BY_NAME[name]
    pipe = case.build()
    more = {"scales": (1, 2, 4)} if schedule is SCALES else {}
    with ddit_ext.patch(pipe, schedule=schedule, **more):
        expected = case.run(pipe, steps=4)
        pipe.transformer.enable_group_offload(
            onload_device=CPU, offload_device=CPU, offload_type="leaf_level"
        )
        assert torch.equal(case.run(pipe, steps=4), expected)
    pipe = case.build()
    for module in filter(None, (getattr(pipe, "vae", None), pipe.transformer)):
        accelerate.cpu_offload(module, execution_device=CPU)
    assert next(pipe.transformer.parameters()).device.type == "meta"
    with ddit_ext.patch(pipe, schedule=schedule, **more):
        assert torch.equal(case.run(pipe, steps=4), expected)


@every_family
def test_weights_stored_in_fp8(name):
    """The patched run is that of a model whose weights were rounded to fp8."""
    case = BY_NAME[name]
    pipe = case.build()
    pipe.transformer.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    stored = dict(pipe.transformer.named_parameters())
    assert any(parameter.dtype == torch.float8_e4m3fn for parameter in stored.values())
    with patched(pipe):
        found = case.run(pipe, steps=4)
    rounded = case.build()
    with torch.no_grad():
        for key, parameter in rounded.transformer.named_parameters():
            parameter.copy_(stored[key].float())
    with patched(rounded):
        torch.testing.assert_close(case.run(rounded, steps=4), found, atol=1e-5, rtol=1e-4)


def with_ip_adapter():
    """Stable Diffusion 3 whose blocks attend to two tokens of a picture as well."""
    case = BY_NAME["Stable Diffusion 3"]
    pipe = case.build()
    torch.manual_seed(4)
    processor = SD3IPAdapterJointAttnProcessor2_0(32, 32, 8, timesteps_emb_dim=16, scale=1.0)
    pipe.transformer.image_proj = IPAdapterTimeImageProjection(12, 32, 16, 1, 8, 2, 2, 2, 8)
    pipe.transformer.set_attn_processor(processor)
    for parameter in [*processor.parameters(), *pipe.transformer.image_proj.parameters()]:
        nn.init.normal_(parameter, std=0.3)
    return case, pipe


@pytest.mark.parametrize("batch", ["finest", "split"])
def test_an_ip_adapter_of_stable_diffusion_3(batch):
    case, pipe = with_ip_adapter()

    def run(seed, **more):
        embeds = torch.cat([torch.zeros(1, 3, 12), text(1, 3, 12, seed=seed)])
        with torch.no_grad():
            return case.run(pipe, 2, steps=6, ip_adapter_image_embeds=embeds, **more)

    before = run(5)
    assert not torch.allclose(before, run(6))
    with ddit_ext.patch(pipe, schedule=1):
        assert torch.equal(run(5), before)
    with ddit_ext.patch(pipe, threshold=1e9, scales=(1, 2), batch=batch) as handle:
        coarse = run(5)
        assert coarse.isfinite().all() and not torch.allclose(coarse, run(6))
    assert [step["scale"] for step in handle.report().to_dict()["steps"]] == [1, 1, 1, 2, 2, 2]
