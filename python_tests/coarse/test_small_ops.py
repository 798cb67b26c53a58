"""What a coarse call launches beside its blocks: at scale 4, launching is what a step waits for."""

import pytest
import torch
from flux_pipelines import make_call, make_pipeline, run
from launches import Launches

import ddit_ext
from ddit_ext.coarse import Adapter

OWN = (
    "time_text_embed",
    "context_embedder",
    "transformer_blocks.0",
    "single_transformer_blocks.0",
    "norm_out",
)
"""The base's own modules that any call runs as they are."""


def launches_of_run(pipe, steps):
    """For each step of a run: the ops of its call outside of OWN, in their order."""
    transformer, mode, calls, before = pipe.transformer, Launches(), [], []
    for name in OWN:
        module = transformer.get_submodule(name)
        module.register_forward_pre_hook(lambda *_: before.append(len(mode.names)))
        module.register_forward_hook(lambda *_: mode.names.__delitem__(slice(before.pop(), None)))
    call = transformer._call_impl  # the patch's, where there is one

    def counted(*args, **kwargs):
        mode.names.clear()
        with mode:
            output = call(*args, **kwargs)
        calls.append(without_reads(mode.names))
        return output

    transformer._call_impl = counted
    run(pipe, make_call(steps=steps, dtype=torch.bfloat16))
    return calls


def without_reads(names):
    """Without a timestep's largest number, which is read on a CPU alone: on a GPU the watch takes the sampler's word."""
    read = {
        place
        for place in range(1, len(names))
        if names[place - 1 : place + 1] == ["amax", "_local_scalar_dense"]
    }
    return [name for place, name in enumerate(names) if place not in read and place + 1 not in read]


@pytest.mark.parametrize("trained", [False, True])
def test_a_coarse_call_launches_fewer_small_ops_than_a_full_size_one(trained):
    """Ids, rotary tables and what follows from noise levels are made once a run; the rest are products of whole latents."""
    full = launches_of_run(make_pipeline(dtype=torch.bfloat16), 1)[0]
    pipe = make_pipeline(dtype=torch.bfloat16)
    make = Adapter.create if trained else Adapter.training_free
    ddit_ext.patch(pipe, make(pipe.transformer).eval(), schedule=[2, 2, 4, 4, 2, 4])
    steps = launches_of_run(pipe, 6)
    print(f"full-size {len(full)}, steps {[len(names) for names in steps]}")
    for step in (1, 3, 4, 5):
        # The forward of diffusers itself has two: timestep times 1000, both ids in one tensor.
        ours = len(steps[step]) - 2
        assert ours <= (20 if trained else 15), steps[step]
        assert len(steps[step]) < len(full)
