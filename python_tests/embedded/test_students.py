"""Students of coarse calls: what they learned, as an adapter, computes the same."""

import copy

import pytest
import torch

from ddit_ext import embedded
from ddit_ext.families import family_for
from embedded_training.flow import image_ids, pack
from embedded_training.students import adapter_of, low_rank
from embedded_training.train_early_adapter import States, low_velocity, unpack


def test_low_rank_is_exact_at_full_rank_and_closest_below():
    matrix = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    b, a = low_rank(matrix, 9)
    assert torch.allclose(b @ a, matrix, atol=1e-6)
    b, a = low_rank(matrix, 2)
    left_over = torch.linalg.svdvals(matrix)[2:].square().sum()
    assert (b @ a - matrix).square().sum() == pytest.approx(left_over.item(), rel=1e-4)


@pytest.mark.parametrize("scale", (2, 4))
def test_an_adapter_gives_its_students_low_band(scale):
    pipe = embedded.load("flux").pipeline
    base = pipe.transformer
    generator = torch.Generator().manual_seed(scale)
    student = copy.deepcopy(base)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if parameter.ndim == 2 or name in ("x_embedder.bias", "proj_out.bias"):
                parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    adapter = adapter_of(base, {scale: student.state_dict()}, {scale: 192})
    latents = torch.randn(2, 4, 32, 32, generator=generator)
    text, pooled, _ = pipe.encode_prompt(
        ["a pizza on plain blue", "a dog on plain red"], None, max_sequence_length=12
    )
    sigma, guidance = torch.tensor([0.95, 0.8]), torch.tensor([3.5, 2.0])
    call = {
        "hidden_states": pack(latents),
        "timestep": sigma,
        "guidance": guidance,
        "encoder_hidden_states": text,
        "pooled_projections": pooled,
        "txt_ids": torch.zeros(text.shape[1], 3),
        "img_ids": image_ids(latents),
    }
    with torch.no_grad(), family_for(base).coarse(call, adapter.weights(scale, latents), sigma) as coarse:
        given = unpack(base(**coarse, return_dict=False)[0], 16)
        means = torch.nn.functional.avg_pool2d(latents, 2)
        states = States(means, means, sigma, guidance, torch.zeros(2, 12, dtype=torch.long))
    with torch.no_grad():
        wanted, _ = low_velocity(student, scale, states, text, pooled)
    assert torch.allclose(torch.nn.functional.avg_pool2d(given, scale), wanted, atol=1e-4)
