"""Outputs in buffers that the next call writes over, as a CUDA graph's are: whoever keeps one has to copy it."""

import functools

import pytest
import torch
from flux_pipelines import make_call, make_pipeline, run
from skip_cases import ByScore, Given, blocks_of
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import ddit_ext
from ddit_ext import Forecast, TeaCache
from ddit_ext.modules.blocks import AfterBlocks

STEPS = 8


class Replayed:
    """A function whose results lie in the same buffers at each call.

    left: called with what puts a tensor into a buffer, for tensors that leave the function otherwise.
    """

    def __init__(self, function, left=lambda fixed: None):
        self._function, self._left = function, left
        self._buffers = {}

    def __call__(self, *args, **kwargs):
        output = self._function(*args, **kwargs)
        leaving = []
        self._left(lambda tensor: leaving.append(tensor.clone()) or self._buffer(len(leaving), tensor))
        output = tree_map(lambda leaf: self._taken(leaving, leaf), output)
        for buffer in self._buffers.values():
            buffer.fill_(torch.nan)
        for place, tensor in enumerate(leaving, 1):
            self._buffer(place, tensor).copy_(tensor)
        return output

    def _taken(self, leaving, leaf):
        if not isinstance(leaf, Tensor):
            return leaf
        leaving.append(leaf.clone())
        return self._buffer(len(leaving), leaf)

    def _buffer(self, place, like):
        key = (place, like.shape, like.dtype)
        return self._buffers.setdefault(key, torch.empty_like(like, memory_format=torch.contiguous_format))


def replay_blocks(pipe):
    """As `compile_repeated_blocks(mode="reduce-overhead")`, and the embeddings too."""
    transformer = pipe.transformer
    parts = (transformer.x_embedder, transformer.transformer_blocks[0].norm1)
    for module in (*blocks_of(transformer), *parts):
        module.forward = Replayed(module.forward)


def replay_whole(pipe):
    """As `transformer.compile(mode="reduce-overhead")`: what modules keep in a call leaves the graph as well."""
    transformer = pipe.transformer

    def left(fixed):
        norm = transformer.norm_out
        if isinstance(norm, AfterBlocks):
            norm.added = fixed(norm.added)

    plain = functools.partial(nn.Module._call_impl, transformer)
    transformer._compiled_call_impl = Replayed(plain, left)


REPLAYS = {"blocks": replay_blocks, "whole": replay_whole}
STRATEGIES = {
    "forecast": Forecast(calls=4),
    "forecast at scale 2": Forecast(calls=5, sizes=[2, 2, 1, 1, 1]),
    "tea_cache": TeaCache(1.0),
    "skipped": Given([1, 0, 0, 2, 0, 1, 0, 1]),
}


@pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")
@pytest.mark.parametrize("replay", REPLAYS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_kept_is_a_copy(strategy, replay):
    call = make_call(steps=STEPS)
    pipe = make_pipeline()
    with ddit_ext.patch(pipe, schedule=STRATEGIES[strategy]) as handle:
        expected = run(pipe, call)
        scales = [step["scale"] for step in handle.report().to_dict()["steps"]]
        assert 0 in scales
    replayed = make_pipeline()
    REPLAYS[replay](replayed)
    with ddit_ext.patch(replayed, schedule=STRATEGIES[strategy]) as handle:
        for _ in range(2):
            assert torch.equal(run(replayed, call), expected)
            assert [step["scale"] for step in handle.report().to_dict()["steps"]] == scales


@pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")
@pytest.mark.parametrize("replay", REPLAYS)
def test_outputs_of_a_split_batch(replay):
    """Those of the first size are still wanted when the second one's are written."""
    call = make_call(batch=2, steps=STEPS)
    results, sizes = [], []
    for prepare in (lambda pipe: None, REPLAYS[replay]):
        pipe = make_pipeline()
        prepare(pipe)
        with ddit_ext.patch(pipe, schedule=ByScore(), batch="split") as handle:
            results.append(run(pipe, call))
            sizes.append([step["scales"] for step in handle.report().to_dict()["steps"]])
    assert any(len(set(row)) > 1 for row in sizes[0]) and sizes[0] == sizes[1]
    assert torch.equal(*results)
