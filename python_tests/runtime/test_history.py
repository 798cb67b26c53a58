"""The ring of latents: the same scores as of fresh tensors, over runs longer than the ring."""

import pytest
import torch

from ddit_ext import cells, ops
from ddit_ext.runtime.history import History

SCALES = (1, 2, 4)


def view(latent):
    return cells.from_packed(latent, 6, 4)


def draw(count, shape=(2, 24, 16), dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(count)]


def fresh_scores(newest_first):
    """By the op alone, from tensors of its own."""
    views = (view(latent.clone()) for latent in newest_first)
    return ops.acceleration_quantiles(*views, SCALES, 0.4).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_run_longer_than_the_ring(dtype):
    """Bit for bit, whether a latent is pushed, or comes by a difference with or without a factor."""
    first, *outputs = draw(13, dtype=dtype)
    history = History()
    history.push(first)
    path = [first.float()]
    kept = []
    for i, output in enumerate(outputs):
        if i % 3 == 0:
            history.add(output.float())
            path.append(path[-1] + output.float())
        elif i % 3 == 1:
            history.add(output, -0.03)
            path.append(path[-1].add(output.float(), alpha=-0.03))
            exact = path[-2].double() + output.double() * -0.03
            torch.testing.assert_close(path[-1].double(), exact, rtol=2**-23, atol=2**-23)
        else:
            history.push(output)
            path.append(output.float())
        newest = path[:-5:-1]
        assert all(torch.equal(held, own) for held, own in zip(history._latents, newest, strict=False))
        kept += [held.data_ptr() for held in history._latents]
        if i < 2:
            assert not history.ready and history.scores(view, SCALES, 0.4) is None
        else:
            assert history.scores(view, SCALES, 0.4) == fresh_scores(newest)
    assert len(set(kept)) == 4 == len(history)


def test_a_latent_is_written_over_only_when_no_score_needs_it():
    history, latents = History(), draw(6)
    history.push(latents[0])
    held = history._latents[0]
    for latent in latents[1:4]:
        history.push(latent)
        assert torch.equal(held, latents[0])
    history.push(latents[4])
    assert history._latents[0] is held and torch.equal(held, latents[4])
    latents[4].zero_()  # it is a copy
    assert held.abs().sum() > 0


def test_views_are_made_once_and_again_for_another_view():
    calls = []

    def counted(latent):
        calls.append(latent)
        return view(latent)

    def wider(latent):
        return cells.from_packed(latent, 4, 6)

    history, latents = History(), draw(12)
    for latent in latents[:9]:
        history.push(latent)
        history.scores(counted, SCALES, 0.4)
    assert len(calls) == 4
    assert history.scores(wider, SCALES, 0.4) != history.scores(view, SCALES, 0.4)
    history.clear()
    for latent in latents[:4]:
        history.push(latent)
    assert history.scores(counted, SCALES, 0.4) == fresh_scores(latents[3::-1])
    assert len(calls) == 8


def test_a_view_that_copies_is_asked_again():
    history, latents = History(), draw(8, shape=(1, 24, 16))
    for i, latent in enumerate(latents):
        history.push(latent)
        if i >= 3:
            scores = history.scores(lambda z: view(z).clone(), SCALES, 0.4)
            assert scores == fresh_scores([latents[i - age] for age in range(4)])


def test_other_shapes_begin_anew_and_a_wrong_difference_changes_nothing():
    history = History()
    for latent in draw(2):
        history.push(latent)
    before = [latent.clone() for latent in history._latents]
    with pytest.raises(ValueError, match=r"difference must have shape \(2, 24, 16\), got \(1, 24, 16\)"):
        history.add(torch.zeros(1, 24, 16))
    assert all(torch.equal(held, own) for held, own in zip(history._latents, before, strict=True))
    history.push(torch.zeros(1, 24, 16))
    assert len(history) == 1 and history.shape == (1, 24, 16)


def test_a_run_that_begins_in_inference_mode():
    history, latents = History(), draw(6)
    with torch.inference_mode():
        for latent in latents[:4]:
            history.push(latent)
        first = history.scores(view, SCALES, 0.4)
    assert first == fresh_scores(latents[3::-1])
    grown = latents[4].clone().requires_grad_()
    history.add(grown, 0.5)
    assert not history._latents[0].requires_grad
    path = [latents[3] + latents[4] * 0.5, latents[3], latents[2], latents[1]]
    assert history.scores(view, SCALES, 0.4) == fresh_scores(path)
