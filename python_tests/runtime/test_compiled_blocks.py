"""Compiled blocks, a graph a size: what replaying them as CUDA graphs needs, checked without a GPU; forecasts, too."""

import pytest
import torch
from adapters import trained_adapter
from flux_pipelines import make_call, make_pipeline, run
from torch import nn

import ddit_ext
from ddit_ext.coarse import Adapter
from ddit_ext.coarse.base_weights import feed_forward_layers


@pytest.mark.parametrize("lora", ["beside", "merged"])
def test_a_graph_a_block_and_size_without_inputs_that_move(lora):
    """Each block class is compiled once a size, and never again in later steps and runs.

    A recorded graph reads static inputs where they were when it was recorded: parameters, which stay, and nothing of
    a step. A compiled region that waited for the device or broke would raise under fullgraph.
    """
    torch._dynamo.reset()
    pipe, call = make_pipeline(), make_call(steps=3)
    adapter = Adapter.create(pipe.transformer, rank=2).eval().requires_grad_(False)
    for size in adapter.sizes.values():
        for low_rank in size.lora.values():
            nn.init.normal_(low_rank.b, std=0.3)
    graphs, moving = [], []

    def backend(graph, inputs):
        graphs.append(graph)
        places = [node for node in graph.graph.nodes if node.op == "placeholder"]
        for place, value in zip(places, inputs, strict=True):
            static = (place.meta.get("tensor_dict") or {}).get("_dynamo_static_input_type")
            if static and not isinstance(value, nn.Parameter):
                moving.append(place.name)
        return graph

    adapter.lora = lora
    handle = ddit_ext.patch(pipe, adapter, schedule=[1, 2, 4])
    expected = run(pipe, call)
    pipe.transformer.compile_repeated_blocks(backend=backend, fullgraph=True, dynamic=False)
    torch.testing.assert_close(run(pipe, call), expected)
    assert len(graphs) == 2 * 3  # a double and a single block, at p, 2p and 4p
    assert moving == []
    run(pipe, make_call(steps=3, seed=4))
    assert len(graphs) == 2 * 3
    handle.unpatch()


@pytest.mark.parametrize("how", ["blocks", "whole"])
def test_skipped_steps_of_a_compiled_transformer(how):
    """Skipped steps take what the compiled ones added: latents as without compiling."""
    torch._dynamo.reset()
    pipe, call = make_pipeline(), make_call(steps=7)
    schedule = [1, 1, 0, 1, 0, 0, 1]
    plain = run(pipe, call)
    handle = ddit_ext.patch(pipe, schedule=schedule)
    expected = run(pipe, call)
    assert not torch.allclose(expected, plain, rtol=0.01)
    if how == "blocks":
        pipe.transformer.compile_repeated_blocks(backend="eager", dynamic=False)
    else:
        pipe.transformer.compile(backend="eager")
    for _ in range(2):
        torch.testing.assert_close(run(pipe, call), expected)
        report = handle.report().to_dict()
        assert [step["scale"] for step in report["steps"]] == schedule and report["warnings"] == []
    handle.unpatch()


@pytest.mark.parametrize("when", ["before", "after"])
def test_blocks_that_a_user_wraps_have_their_low_rank_additions(when):
    """`torch.compile(block)` in the place of each block, before or after patch()."""
    torch._dynamo.reset()
    pipe, call = make_pipeline(), make_call(steps=3)
    model = pipe.transformer
    layers, adapter = feed_forward_layers(model), trained_adapter(model)
    handle = ddit_ext.patch(pipe, adapter, schedule=[1, 2, 2])
    expected = run(pipe, call)
    if when == "before":
        handle.unpatch()
    for blocks in (model.transformer_blocks, model.single_transformer_blocks):
        for place, block in enumerate(blocks):
            blocks[place] = torch.compile(block, backend="eager", dynamic=False)
    if when == "before":
        handle = ddit_ext.patch(pipe, adapter, schedule=[1, 2, 2])
    torch.testing.assert_close(run(pipe, call), expected)
    assert feed_forward_layers(model) == layers
    handle.unpatch()
