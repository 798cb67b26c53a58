"""batch="split" on Wan: each clip as if it ran alone, across the switch of transformers too."""

import pytest
import torch
from wan_pipelines import make_call, make_pipeline, run

import ddit_ext
from ddit_ext import policies

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")

BATCH, CELLS = 3, (2, 3, 5)  # frames, rows and columns of base tokens


class ByScore(policies.Policy):
    """A size from the digits of the score: samples differ, and change often."""

    def begin(self, total_steps):
        pass

    def decide(self, step, scores):
        return (1, 2, 4)[int(3000 * scores[0][1]) % 3] if scores else 1


def sizes_of(handle):
    return [step["scales"] for step in handle.report().to_dict()["steps"]]


@pytest.mark.parametrize("kind", ["text", "two"])
def test_as_one_by_one(kind):
    pipe = make_pipeline(kind)
    frames, rows, columns = CELLS
    call = make_call(kind, rows, columns, frames, batch=BATCH, steps=8)
    noise = torch.randn(BATCH, 16, frames, 2 * rows, 2 * columns, generator=torch.Generator().manual_seed(9))
    call["latents"] = noise
    handle = ddit_ext.patch(pipe, schedule=ByScore(), batch="split")
    together, sizes = run(pipe, call), sizes_of(handle)
    assert any(len(set(row)) > 1 for row in sizes)
    for sample in range(BATCH):
        names = ("prompt_embeds", "negative_prompt_embeds", "latents")
        single = run(pipe, call | {name: call[name][sample : sample + 1] for name in names})
        assert [row[0] for row in sizes_of(handle)] == [row[sample] for row in sizes]
        torch.testing.assert_close(together[sample], single[0], rtol=1e-4, atol=1e-4)
