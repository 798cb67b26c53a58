"""The scripts that train the embedded model: checkpoints that survive, and the pieces they are made of."""

import copy
import shutil

import pytest
import torch
from tiny_flux import tiny_flux
from torch import nn

from ddit_ext.coarse import Adapter
from embedded_training import architecture, train_flux
from embedded_training.common import AveragedModules, Progress, grow, load_state, save_state
from embedded_training.flow import SHIFT, image_ids, noise_levels, pack
from embedded_training.loop import Optimizers


class Blocks(nn.Module):
    """Names as in a transformer: matrices of blocks go to Muon, the rest to AdamW."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.transformer_blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])

    def forward(self, x):
        x = self.embed(x)
        for block in self.transformer_blocks:
            x = x + block(x).tanh()
        return x.square().mean()


def train(model: Blocks, optimizers: Optimizers, first: int, last: int) -> None:
    for step in range(first, last):
        data = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        model(data).backward()
        optimizers.step(1.0)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    torch.manual_seed(0)
    straight = Blocks()
    broken = copy.deepcopy(straight)
    train(straight, Optimizers({"m": straight}, 1e-2, "transformer_blocks"), 0, 8)

    optimizers = Optimizers({"m": broken}, 1e-2, "transformer_blocks")
    train(broken, optimizers, 0, 5)
    save_state(tmp_path / "state", {"m": broken}, optimizers.parts, Progress(5, 1.5))
    again = Blocks()
    optimizers = Optimizers({"m": again}, 1e-2, "transformer_blocks")
    progress = load_state(tmp_path / "state", {"m": again}, optimizers.parts)
    assert progress == Progress(5, 1.5)
    train(again, optimizers, progress.step, 8)
    for name, weight in straight.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_a_kill_between_the_renames_loses_nothing(tmp_path):
    model = Blocks()
    optimizers = Optimizers({"m": model}, 1e-2, "transformer_blocks")
    train(model, optimizers, 0, 1)
    save_state(tmp_path / "state", {"m": model}, optimizers.parts, Progress(1, 0.5))
    shutil.move(
        tmp_path / "state", tmp_path / "state.old"
    )  # the old one moved away, the new one not yet there
    assert load_state(tmp_path / "state", {"m": model}, optimizers.parts) == Progress(1, 0.5)


def test_without_a_checkpoint_there_is_nothing_to_load(tmp_path):
    model = Blocks()
    assert (
        load_state(
            tmp_path / "none", {"m": model}, Optimizers({"m": model}, 1e-2, "transformer_blocks").parts
        )
        is None
    )


def test_average_follows_the_weights():
    model = {"m": Blocks()}
    average = AveragedModules(copy.deepcopy(model), 0.9)
    with torch.no_grad():
        for parameter in model["m"].parameters():
            parameter.fill_(1.0)
    for step in range(1, 200):
        average.update(model, step)
    for parameter in average.averages["m"].parameters():
        assert torch.allclose(parameter, torch.ones_like(parameter), atol=1e-3)
        assert not parameter.requires_grad


def test_a_grown_adapter_computes_the_same():
    transformer = tiny_flux()
    small = Adapter.create(transformer, [2], rank=2, refinement_hidden=8, refinement_tokens=False)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.normal_(std=0.1)
    large = Adapter.create(transformer, [2], rank=3, refinement_hidden=12)
    grow(large, small)
    cells, sigma = torch.randn(1, 1, 4, 6, 4, 2, 2), torch.tensor([0.5])
    before, after = (adapter.own(2).prepare(cells, sigma) for adapter in (small, large))
    torch.testing.assert_close(after.tokens(), before.tokens())
    blocks = torch.randn_like(before.tokens())
    torch.testing.assert_close(after.velocity(blocks), before.velocity(blocks))
    for name, low_rank in small.own(2).lora.items():
        given = torch.randn(3, low_rank.a.shape[1])
        torch.testing.assert_close(large.own(2).lora[name](given), low_rank(given))


def test_pack_is_flux_layout():
    latents = torch.arange(2 * 4 * 4 * 6).view(2, 4, 4, 6).float()
    tokens = pack(latents)
    assert tokens.shape == (2, 6, 16)
    # Token of row 1, column 2; feature c*4 + dy*2 + dx.
    assert tokens[1, 1 * 3 + 2, 3 * 4 + 1 * 2 + 0] == latents[1, 3, 2 * 1 + 1, 2 * 2 + 0]
    assert image_ids(latents).shape == (6, 3)


def test_noise_levels_are_shifted_towards_noise():
    torch.manual_seed(0)
    levels = noise_levels(20_000, SHIFT)
    assert 0 < levels.min() and levels.max() < 1
    # The median of a logit-normal is 1/2; the shift k moves it to k / (1 + k).
    assert levels.median().item() == pytest.approx(1.6487 / 2.6487, abs=0.01)


def test_a_batch_may_have_no_guided_sample(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(train_flux, "GUIDED_SHARE", 0.0)
    modules, averages = train_flux.build(), train_flux.build()
    empty = torch.zeros(architecture.TEXT_LENGTH, dtype=torch.long)
    loss = train_flux.flow_loss(
        modules, torch.randn(2, 4, 4, 4), empty.expand(2, -1), averages=averages, empty=empty
    )
    assert loss.isfinite()
