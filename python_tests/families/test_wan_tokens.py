"""The token counts of Wan 2.1 at 480x832 pixels and 81 frames, at its real grid with a narrow model."""

import pytest
import torch
from wan_pipelines import make_transformer

from ddit_ext.coarse import Adapter
from ddit_ext.families import WanFamily


class Enough(Exception):
    """The tokens have been counted; attention over all of them would take minutes."""


@pytest.mark.parametrize(("scale", "expected"), [(1, 32_760), (2, 8_190), (4, 2_184)])
def test_tokens_of_a_480p_video(scale, expected):
    model = make_transformer()
    family = WanFamily(model)
    call = {
        "hidden_states": torch.randn(1, 16, (81 - 1) // 4 + 1, 480 // 8, 832 // 8),
        "timestep": torch.tensor([900]),
        "encoder_hidden_states": torch.randn(1, 4, 32),
        "return_dict": False,
    }
    seen = []

    def count(module, args):
        seen.extend((args[0].shape, args[3][0].shape[1]))  # hidden states, cosines
        if scale == 1:
            raise Enough

    model.blocks[0].register_forward_pre_hook(count)
    assert family.tokens(call, scale) == expected
    with torch.no_grad():
        if scale == 1:
            with pytest.raises(Enough):
                model(**call)
        else:
            weights = Adapter.training_free(model, [scale]).own(scale)
            with family.coarse(call, weights, family.noise_level(call)) as coarse:
                out = model(**coarse)[0]
            assert out.shape == call["hidden_states"].shape
    assert seen == [(1, expected, 24), expected]
