"""`torch.set_default_device("cuda")` changes nothing of what is read and made on the CPU; "meta" stands for a GPU."""

import pytest
import torch
from family_cases import BY_NAME, captured

from ddit_ext.families.qwen_image import _rotary


@pytest.mark.parametrize("name", ["FLUX.1", "FLUX.2"])
def test_the_grid_of_ids(name):
    case = captured(BY_NAME[name])
    ids = {"img_ids": case.arguments["img_ids"].clone()}  # other ids: those of the call may be known already
    expected = case.family.grid(case.arguments)
    with torch.device("meta"):
        assert case.family.grid(case.arguments | ids) == expected


def test_positions_of_qwen_image():
    case = captured(BY_NAME["Qwen-Image"])
    base, grid = case.transformer.pos_embed, case.family.grid(case.arguments)
    expected = _rotary(base, grid, 2)
    with torch.device("meta"):
        assert torch.equal(_rotary(base, grid, 2), expected)
