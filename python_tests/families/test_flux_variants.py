"""Every kind of FLUX pipeline runs coarse, and is itself again at size 1 and after unpatch()."""

import math

import pytest
import torch
from flux_pipelines import COMBINED, KINDS, make_call, make_pipeline, run

import ddit_ext

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")

REFERENCES = {"kontext": 1, "kontext inpaint": 1}


def coarse_tokens(kind: str, rows: int, columns: int, scale: int) -> int:
    own = math.ceil(rows / scale) * math.ceil(columns / scale)
    return own + REFERENCES.get(kind, 0) * rows * columns


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_schedule_runs_coarse(kind, supports):
    pipe, call = make_pipeline(kind), make_call(kind, 6, 5, steps=3)
    plain = run(pipe, call)
    handle = ddit_ext.patch(pipe, schedule=2)
    out = run(pipe, call)
    assert out.shape == plain.shape
    assert out.isfinite().all() and not torch.equal(out, plain)
    steps = handle.report().to_dict()["steps"]
    assert len(steps) in (2, 3)  # img2img and inpaint leave out the first
    assert [step["scale"] for step in steps] == [2] * len(steps)
    assert {step["tokens"] for step in steps} == {coarse_tokens(kind, 6, 5, 2)}
    handle.unpatch()
    assert torch.equal(run(pipe, call), plain)
    supports("FLUX.1", type(pipe).__name__, "larger patches")


@pytest.mark.parametrize("kind", KINDS)
def test_dynamic_schedule_runs_coarse(kind):
    pipe, call = make_pipeline(kind), make_call(kind, 6, 5, steps=7, batch=2)
    plain = run(pipe, call)
    with pytest.warns(UserWarning, match="training-free"):
        handle = ddit_ext.patch(pipe, threshold=1e9)
    out = run(pipe, call)
    assert out.shape == plain.shape and out.isfinite().all()
    steps = handle.report().to_dict()["steps"]
    assert [step["scale"] for step in steps] == [1, 1, 1] + [4] * (len(steps) - 3)
    assert [step["scores"] is None for step in steps] == [True] * 3 + [False] * (len(steps) - 3)
    assert all(len(step["scores"]) == 2 and len(step["scores"][0]) == 3 for step in steps[3:])
    assert all(step["scales"] == [4, 4] for step in steps[3:])
    assert steps[-1]["tokens"] == coarse_tokens(kind, 6, 5, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_size_one_is_bit_identical(kind):
    pipe, call = make_pipeline(kind), make_call(kind, steps=3)
    plain = run(pipe, call)
    keys = list(pipe.transformer.state_dict())
    adapter = ddit_ext.coarse.Adapter.create(pipe.transformer, rank=2)
    handle = ddit_ext.patch(pipe, adapter.eval(), schedule=1)
    assert torch.equal(run(pipe, call), plain)
    assert list(pipe.transformer.state_dict()) == keys
    handle.unpatch()
    assert torch.equal(run(pipe, call), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_bf16(kind):
    pipe = make_pipeline(kind, torch.bfloat16)
    handle = ddit_ext.patch(pipe, schedule=[1, 2, 4])
    out = run(pipe, make_call(kind, steps=3, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16 and out.isfinite().all()
    assert handle.report().to_dict()["steps"][-1]["scale"] in (2, 4)


@pytest.mark.parametrize("kind", COMBINED)
def test_pipelines_that_combine_these(kind, supports):
    pipe, call = make_pipeline(kind), make_call(kind, 6, 5, steps=7)
    plain = run(pipe, call)
    handle = ddit_ext.patch(pipe, threshold=1e9)
    assert run(pipe, call).isfinite().all()
    steps = handle.report().to_dict()["steps"]
    assert [step["scale"] for step in steps] == [1, 1, 1] + [4] * (len(steps) - 3)
    assert steps[-1]["scale"] == 4 and steps[-1]["tokens"] == coarse_tokens(kind, 6, 5, 4)
    handle.unpatch()
    assert torch.equal(run(pipe, call), plain)
    supports("FLUX.1", type(pipe).__name__, "larger patches")


def test_kontext_references_pass_through_the_base_layers():
    """The reference tokens of a coarse call are embedded and de-embedded as the model itself does it."""
    pipe = make_pipeline("kontext")
    seen = {}
    pipe.transformer.x_embedder.register_forward_hook(
        lambda m, args, out: seen.update(embedded=args[0], to=out)
    )
    pipe.transformer.proj_out.register_forward_hook(lambda m, args, out: seen.update(projected=out))
    block = pipe.transformer.transformer_blocks[0]
    block.register_forward_pre_hook(lambda m, a, k: seen.update(tokens=k["hidden_states"]), with_kwargs=True)
    pipe.transformer.register_forward_hook(lambda m, args, out: seen.update(out=out[0]))
    ddit_ext.patch(pipe, schedule=2)
    run(pipe, make_call("kontext", 5, 3, steps=1))
    assert seen["embedded"].shape[1] == seen["projected"].shape[1] == 15
    assert seen["tokens"].shape[1] == 3 * 2 + 15
    assert torch.equal(seen["tokens"][:, 6:], seen["to"])
    assert seen["out"].shape[1] == 30 and torch.equal(seen["out"][:, 15:], seen["projected"])


def test_controlnet_residuals_are_averaged_over_merged_cells():
    from ddit_ext.families.grid import Grid, pool_tokens

    sample = torch.randn(2, 15 + 4, 8)
    pooled = pool_tokens(sample, Grid(1, 5, 3, references=4), 2)
    assert pooled.shape == (2, 6 + 4, 8)
    cells = sample[:, :15].unflatten(1, (5, 3))
    torch.testing.assert_close(pooled[:, 0], cells[:, :2, :2].mean((1, 2)))
    torch.testing.assert_close(pooled[:, 1], cells[:, :2, 2:].mean((1, 2)))
    torch.testing.assert_close(pooled[:, 5], cells[:, 4, 2])
    assert torch.equal(pooled[:, 6:], sample[:, 15:])
    assert pool_tokens(sample[:, :15], Grid(1, 5, 3), 8).shape == (2, 1, 8)
    with pytest.raises(ValueError, match="5x3 grid"):
        pool_tokens(sample[:, :14], Grid(1, 5, 3), 2)


def test_controlnet_changes_a_coarse_picture():
    pipe = make_pipeline("controlnet")
    ddit_ext.patch(pipe, schedule=2)
    on = run(pipe, make_call("controlnet", steps=2) | {"controlnet_conditioning_scale": 1.0})
    off = run(pipe, make_call("controlnet", steps=2) | {"controlnet_conditioning_scale": 0.0})
    assert not torch.equal(on, off)


def test_inpainting_fixed_pixels_do_not_lower_the_score():
    """The signal comes from the model's outputs: what the pipeline pastes over them does not enter."""
    pipe = make_pipeline("inpaint")
    call = make_call("inpaint", 8, 8, steps=8)
    call["mask_image"][:] = 0
    call["mask_image"][..., :4] = 1  # seven of eight columns are fixed
    handle = ddit_ext.patch(pipe, threshold=0.0)
    run(pipe, call)
    scores = [step["scores"] for step in handle.report().to_dict()["steps"] if step["scores"]]
    assert scores and all(value > 1e-6 for step in scores for value in step[0])


def test_positions_are_made_once_a_run():
    """Also with two branches of guidance, each of which has ids of its own for its text."""
    pipe, asked = make_pipeline(), []
    pipe.transformer.pos_embed.register_forward_hook(lambda *given: asked.append(1))
    ddit_ext.patch(pipe, schedule=2)
    run(pipe, make_call(steps=4, true_cfg=True))
    assert len(asked) == 2
