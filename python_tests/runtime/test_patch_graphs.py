"""torch.compile on a patched transformer: one graph a size, and none made in later runs."""

import pytest
import torch
from flux_pipelines import make_call, make_pipeline, run
from torch._dynamo.utils import counters

import ddit_ext
from ddit_ext.coarse import Adapter

SCHEDULE = [1, 2, 4, 2, 1, 4]


def unique_graphs() -> int:
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("lora", ["beside", "merged"])
def test_one_graph_a_size_and_none_in_later_runs(lora):
    torch._dynamo.reset()
    counters.clear()
    pipe = make_pipeline()
    pipe.transformer = torch.compile(pipe.transformer, backend="eager", dynamic=False)
    adapter = Adapter.create(pipe.transformer._orig_mod, rank=2).eval()
    adapter.lora = lora
    ddit_ext.patch(pipe, adapter, schedule=SCHEDULE)
    run(pipe, make_call(steps=len(SCHEDULE)))
    assert unique_graphs() == len(set(SCHEDULE))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in (1, 2):
            run(pipe, make_call(steps=len(SCHEDULE), seed=seed))
    assert unique_graphs() == len(set(SCHEDULE))
    assert not counters["graph_break"]
