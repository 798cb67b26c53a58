"""What `make demo` draws and says: the ways, the table and the captions of the sheet."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the demo draws with it")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def examples(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import demo
    import side_by_side

    return SimpleNamespace(demo=demo, shared=side_by_side)


@pytest.mark.parametrize(
    ("steps", "target", "sizes"), [(28, 9, [2, 2, 1, 1]), (28, 5.6, [2, 2, 1, 1, 1, 1]), (4, 9, [2, 2, 1])]
)
def test_the_fast_ways_have_as_much_to_do(examples, steps, target, sizes):
    full, forecast, coarse, alone, fewer = examples.demo.ways(SimpleNamespace(adapter="a"), steps, target)
    assert full.patch is None and forecast.patch["schedule"].speedup == 2
    assert coarse.patch["schedule"].computed_scales(steps) == sizes
    assert coarse.patch["adapter"] == "a"
    assert alone.patch["schedule"].calls == fewer.steps == len(sizes) - 1  # two coarse calls for one


def test_the_sheet_says_speed_closeness_and_what_is_found(examples):
    shown = [np.full((2, 4, 4, 3), value, np.uint8) for value in (100, 110)]
    drawing = examples.shared.Drawing("a cat", shown, [[4.0, 2.0, 4.0], [1.0, 2.0, 0.5]], [None, None])
    found = {100: [1.0, 0.5], 110: [0.5, 0.5]}
    model = SimpleNamespace(
        judge=lambda shown, prompts: SimpleNamespace(found=np.array(found[shown.flat[0]]))
    )
    used = [examples.shared.Way("full run", 28), examples.shared.Way("quick", 4)]
    names = examples.shared.headings(model, [drawing], used)
    assert names == ["full run\n28 steps\n75% found", "quick\n4.0x, 28 dB\n50% found"]
    table = examples.shared.table(model, [drawing], [way.name for way in used])
    assert "| full run | 1.00x |  | 75% |" in table and "| quick | 4.00x | 28.1 | 50% |" in table


def test_every_prompt_is_in_the_models_words(examples):
    from ddit_ext.embedded.vocabulary import parse

    assert all(parse(prompt) for prompt in examples.demo.PROMPTS)
