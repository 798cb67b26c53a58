"""Pipelines that begin from a picture: larger patches leave references as they are, and ControlNet's residuals are averaged."""

from dataclasses import replace

import pytest
import torch
from family_cases import BY_NAME, captured
from tiny_edits import EDITS

import ddit_ext
from ddit_ext import TeaCache
from ddit_ext.coarse import Adapter

REFERENCES = {
    "FLUX.2 edit": 16,
    "FLUX.2 klein edit": 32,
    "FLUX.2 klein inpaint": 16,
    "Qwen-Image Edit": 16,
    "Qwen-Image Edit-Plus": 32,
}


@pytest.mark.parametrize("name", EDITS)
def test_a_pipeline_in_larger_patches(name, supports):
    case = EDITS[name]
    pipe = case.build()
    before = case.run(pipe, 1, steps=6)
    with ddit_ext.patch(pipe, schedule=1):
        assert torch.equal(case.run(pipe, 1, steps=6), before)
    with ddit_ext.patch(pipe, schedule=2, scales=(1, 2)) as handle:
        coarse = case.run(pipe, 1, steps=6)
    report = handle.report().to_dict()
    frames, rows, columns = report["grid"]
    own = frames * -(-rows // 2) * -(-columns // 2)
    assert {step["tokens"] for step in report["steps"]} == {own + REFERENCES.get(name, 0)}
    assert not report["warnings"]
    assert coarse.isfinite().all() and not torch.equal(coarse, before)
    supports(case.name, case.pipeline, "larger patches")


@pytest.mark.parametrize("name", REFERENCES)
def test_references_enter_a_coarse_call_as_they_are(name):
    """Nothing of the latent but its patches changes what the blocks see of the references."""
    case = captured(EDITS[name], 1)
    family = case.family
    adapter = Adapter.training_free(case.transformer, (2,))
    seen = []
    first = case.transformer.get_submodule(f"{family.BLOCKS[0]}.0")
    handle = first.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    case.call()
    with family.coarse(case.arguments, adapter.own(2), family.noise_level(case.arguments)) as coarse:
        case.call(**coarse)
    handle.remove()
    fine, merged = (kwargs["hidden_states"][:, -REFERENCES[name] :] for kwargs in seen)
    assert torch.equal(fine, merged)
    fine, merged = (positions_of(kwargs["image_rotary_emb"])[-REFERENCES[name] :] for kwargs in seen)
    assert torch.equal(fine, merged)


def positions_of(rotary):
    """The image's positions: Qwen has a table for it and one for the text; FLUX.2 cosines and sines of both, text first."""
    image, other = rotary
    return image if image.is_complex() else torch.stack([image, other], -1)


def test_z_image_averages_a_controlnets_residuals_and_leaves_those_of_the_text():
    case = captured(BY_NAME["Z-Image"], 1, height=80, width=112)
    grid = case.family.grid(case.arguments)
    residual = torch.rand(2, 64 + 32, 8)  # 35 tokens padded to 64, 6 of text to 32
    pooled = case.family.pooled({"controlnet_block_samples": {0: residual}}, grid, 2)[
        "controlnet_block_samples"
    ]
    assert pooled[0].shape == (2, 32 + 32, 8)
    assert torch.equal(pooled[0][:, 32:], residual[:, 64:])
    cells = residual[:, :35].unflatten(1, (5, 7))
    torch.testing.assert_close(pooled[0][:, 0], cells[:, :2, :2].mean((1, 2)))
    assert not pooled[0][:, 12:32].any()


def test_a_cache_of_references_raises():
    """Its pipeline puts the references in front of the latent, at the first step alone."""
    edit = EDITS["FLUX.2 klein edit"]
    case = replace(
        edit, pipeline="Flux2KleinKVPipeline", arguments=lambda batch: _without_guidance(edit, batch)
    )
    pipe = case.build()
    before = case.run(pipe, 1, steps=4)
    with ddit_ext.patch(pipe, schedule=1):
        assert torch.equal(case.run(pipe, 1, steps=4), before)
    for schedule in ([1, 2, 2, 1], 2):
        with (
            ddit_ext.patch(pipe, schedule=schedule, scales=(1, 2)),
            pytest.raises(NotImplementedError, match="kv_cache_mode='(extract|cached)'.*Flux2KleinPipeline"),
        ):
            case.run(pipe, 1, steps=4)
    for schedule in ([1, 0, 0, 1], TeaCache(1e9)):
        with (
            ddit_ext.patch(pipe, schedule=schedule),
            pytest.raises(NotImplementedError, match="48 tokens went into the blocks and 16 came out"),
        ):
            case.run(pipe, 1, steps=4)
    assert torch.equal(case.run(pipe, 1, steps=4), before)


def _without_guidance(case, batch):
    return {name: value for name, value in case.arguments(batch).items() if "negative" not in name}


def test_a_mean_velocity_raises():
    """It is told two noise levels, of which larger patches know one."""
    case = captured(BY_NAME["HunyuanVideo 1.5"], 1)
    weights = Adapter.training_free(case.transformer, (2,)).own(2)
    call = case.arguments | {"timestep_r": torch.zeros(1)}
    with (
        pytest.raises(NotImplementedError, match="timestep_r=.*use_meanflow"),
        case.family.coarse(call, weights, case.family.noise_level(call)),
    ):
        pass


def test_stable_diffusion_3_with_patches_of_one_pixel():
    """The convolution says the size of a patch."""
    case = BY_NAME["Stable Diffusion 3"]
    kind, config = case.model
    case = replace(case, model=(kind, config | {"patch_size": 1}))
    pipe = case.build()
    with ddit_ext.patch(pipe, schedule=[1, 2, 4, 1], scales=(1, 2, 4)) as handle:
        assert case.run(pipe, 1, steps=4).isfinite().all()
    assert [step["tokens"] for step in handle.report().to_dict()["steps"]] == [64, 16, 4, 64]


def test_guidance_that_ends_within_a_run_begins_no_new_one():
    """Z-Image's cfg_truncation halves the batch of the calls."""
    case = BY_NAME["Z-Image"]
    pipe = case.build()
    with ddit_ext.patch(pipe, schedule=[2] * 8, scales=(1, 2)) as handle:
        case.run(pipe, 1, steps=8, cfg_truncation=0.1)
    assert [step["index"] for step in handle.report().to_dict()["steps"]] == list(range(8))
    with ddit_ext.patch(pipe, schedule=[1, 1, 0, 0, 0, 0, 0, 1]) as handle:
        assert case.run(pipe, 1, steps=8, cfg_truncation=0.1).isfinite().all()
    report = handle.report().to_dict()
    assert len(report["steps"]) == 8 and any("rows in them" in text for text in report["warnings"])
