"""The example of docs/in-a-server.md runs as it stands there."""

import re
from pathlib import Path

import pytest
import torch
from flux_pipelines import make_call, make_pipeline

import ddit_ext

pytestmark = pytest.mark.filterwarnings("ignore")

PAGE = Path(__file__).parents[2] / "docs" / "in-a-server.md"


def test_the_example():
    example, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    pipe = make_pipeline()
    names = {"pipe": pipe, "calls": [make_call(steps=6, seed=seed) for seed in range(8)]}
    exec(example, names)
    for (images, report), seed in zip(names["results"], range(8), strict=True):
        assert sorted(step["scale"] for step in report["steps"]) == [0] * 3 + [1] * 3
        assert torch.equal(images, pipe(**make_call(steps=6, seed=seed)).images)
    ddit_ext.unpatch(pipe)
