"""What every family with larger patches has to do, on tiny random pipelines of diffusers' own classes."""

import pytest
import torch
from family_cases import BY_NAME, PATCHED, captured, pixels
from launches import Launches
from peft import LoraConfig

import ddit_ext
from ddit_ext import cells as cell_views
from ddit_ext.coarse import Adapter
from ddit_ext.coarse.levels import RunLevel, RunLevels
from ddit_ext.coarse.noise_match import noise_match
from ddit_ext.families.batch import take
from ddit_ext.training.config import DistillConfig
from ddit_ext.training.distill import distill

pytestmark = pytest.mark.parametrize("name", PATCHED)


def ragged(case):
    """A size with an odd number of token rows and columns."""
    pipe = case.build()
    unit = 16 if case.name != "HunyuanVideo 1.5" else 4
    return {"height": 5 * unit, "width": 7 * unit}, pipe


def test_at_scale_one_a_run_is_bit_identical(name):
    case = BY_NAME[name]
    pipe = case.build()
    before = case.run(pipe, 2, steps=4)
    handle = ddit_ext.patch(pipe, schedule=1)
    assert torch.equal(case.run(pipe, 2, steps=4), before)
    handle.unpatch()
    assert torch.equal(case.run(pipe, 2, steps=4), before)


def test_tokens_are_counted_at_ragged_sizes(name, supports):
    case = BY_NAME[name]
    size, pipe = ragged(case)
    handle = ddit_ext.patch(pipe, schedule=[4, 2, 1, 1], scales=(1, 2, 4))
    assert case.run(pipe, 2, steps=4, **size).isfinite().all()
    report = handle.report().to_dict()
    frames, rows, columns = report["grid"]
    assert (rows, columns) == (5, 7)
    assert [step["tokens"] for step in report["steps"]] == [frames * n for n in (2 * 2, 3 * 4, 35, 35)]
    assert not report["warnings"]
    supports(name, case.pipeline, "larger patches")


def test_a_coarse_call_launches_few_ops_more(name):
    """Beyond those of a call at scale 1, with the default adapter; the first call of a run makes what is kept."""
    case = captured(BY_NAME[name], batch=1)
    latents = case.family.latents(case.arguments)
    weights = Adapter.create(case.transformer, (2,), rank=0).eval().weights(2, latents)
    levels = RunLevels([1.0, 0.8, 0.5])
    with torch.no_grad():
        for step in range(2):
            with (
                Launches() as coarse,
                case.family.coarse(case.arguments, weights, RunLevel(levels, step)) as call,
            ):
                case.transformer(**call)
    with Launches() as full:
        case.call()
    # Z-Image's forward pads sequences and turns positions for each call.
    assert len(coarse.names) <= len(full.names) + (38 if name == "Z-Image" else 20)


@pytest.mark.parametrize("scale", [2, 4])
def test_a_coarse_call_is_the_bases_own_on_a_smaller_latent(name, scale):
    """With positions of a smaller picture, whatever lies between the two patch layers is the base's own call."""
    case = captured(BY_NAME[name])
    family, arguments = case.family, case.arguments
    adapter = Adapter.training_free(
        case.transformer, (scale,), positions="grid", detail_residual=False, start="noise_matched"
    )
    sigma = family.noise_level(arguments)
    with family.coarse(arguments, adapter.own(scale), sigma) as coarse:
        found = case.call(**coarse)
    grid = family.grid(arguments)
    latent = pixels(family.cells(arguments, grid))[:, : family.out_channels]
    low = torch.nn.functional.avg_pool3d(latent, (1, scale, scale))
    matched = noise_match(sigma, scale)
    shape = (-1, 1, 1, 1, 1)
    given = (low * matched.input_scale.view(shape)).to(latent.dtype)
    picture = given if getattr(family, "DIMENSIONS", 4) == 5 else given[:, :, 0]
    velocity = case.small(picture, matched.timestep)
    view = family.signal_view(arguments)
    small = pixels(cells_of_output(family, velocity, [side // family.patch_size for side in low.shape[-2:]]))
    expected = matched.alpha.view(shape) * family.sign * small + matched.beta.view(shape) * low
    expected = expected.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    torch.testing.assert_close(family.sign * pixels(view(found)), expected, atol=2e-4, rtol=1e-3)


def cells_of_output(family, output, grid):
    if output.ndim == 3:
        return cell_views.from_packed(output, *grid, family.patch_size)
    return cell_views.from_latents(output, family.patch_size)


def test_guidance_makes_one_decision_a_step(name):
    case = BY_NAME[name]
    pipe = case.build()
    calls = []
    pipe.transformer.register_forward_pre_hook(lambda *given: calls.append(1), with_kwargs=True)
    handle = ddit_ext.patch(pipe, threshold=1e3, scales=(1, 2))
    case.run(pipe, 1, steps=6)
    steps = handle.report().to_dict()["steps"]
    assert [step["scale"] for step in steps] == [1, 1, 1, 2, 2, 2]
    assert all(step["scores"] is not None for step in steps[3:])
    assert len(calls) == 6 * case.branches


def test_some_samples_of_a_call_are_what_they_are_in_it(name):
    case = captured(BY_NAME[name])
    whole = case.call()
    rows = list(reversed(range(whole.shape[0])))
    torch.testing.assert_close(
        case.call(**take(case.family, case.arguments, rows)), whole[rows], atol=1e-5, rtol=1e-4
    )
    pipe = BY_NAME[name].build()
    ddit_ext.patch(pipe, threshold=1e3, scales=(1, 2), batch="split")
    assert BY_NAME[name].run(pipe, 2, steps=5).isfinite().all()


def test_an_adapter_is_trained_saved_and_read(name, tmp_path, supports):
    case = captured(BY_NAME[name])
    family = case.family
    latents = torch.stack([family.state(case.arguments)] * 2)[:, : family.out_channels]
    text = {
        key: case.arguments[key][:2]
        for key in family.ENCODER.PROMPT.values()
        if case.arguments.get(key) is not None
    }
    if case.arguments.get("guidance") is not None:
        text["guidance"] = torch.ones(2)
    adapter = Adapter.create(case.transformer, (2,), rank=2, refinement_hidden=8)
    start = adapter.own(2).embed_weight.detach().clone()
    free = Adapter.training_free(case.transformer, (2,)).own(2)
    sigma = family.noise_level(case.arguments)
    outputs = []
    for weights in (adapter.own(2).eval(), free):
        with family.coarse(case.arguments, weights, sigma) as coarse:
            outputs.append(case.call(**coarse))
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-4)
    result = distill(
        case.transformer, adapter, [(latents, text)], DistillConfig(steps=3, log_every=1), progress=False
    )
    assert not torch.equal(adapter.own(2).embed_weight.cpu(), start)
    # The text's layers of the last block have no part in the output.
    assert any(bool((weights.b != 0).any()) for weights in adapter.own(2).lora.values())
    assert len(result.log) == 3
    adapter.save(tmp_path)
    pipe = BY_NAME[name].build()
    ddit_ext.patch(pipe, tmp_path, schedule=2, scales=(1, 2))
    assert BY_NAME[name].run(pipe, 1, steps=4).isfinite().all()
    supports(name, BY_NAME[name].pipeline, "training")


def test_a_lora_of_the_users_changes_a_coarse_run(name):
    case = BY_NAME[name]
    pipe = case.build()
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    handle = ddit_ext.patch(pipe, schedule=2, scales=(1, 2))
    with_lora = case.run(pipe, 1, steps=4)
    pipe.transformer.disable_adapters()
    assert not torch.equal(case.run(pipe, 1, steps=4), with_lora)
    handle.unpatch()
    pipe = case.build()
    embedding = case_embedding(pipe)
    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=[embedding]))
    ddit_ext.patch(pipe, schedule=2, scales=(1, 2))
    with pytest.raises(NotImplementedError, match=f"a PEFT adapter .* on {embedding}"):
        case.run(pipe, 1, steps=4)


def case_embedding(pipe):
    from ddit_ext.coarse.patch_layers import layers_of

    return layers_of(pipe.transformer).embedding


def test_positions_lie_at_the_middle_of_merged_cells(name):
    """At scale 3 the middle is a cell: what positions enter the first block there is what the base has at it."""
    case = BY_NAME[name]
    size, _ = ragged(case)
    case = captured(case, **size)
    family, arguments = case.family, case.arguments
    adapter = Adapter.training_free(case.transformer, (3,))
    grid = family.grid(arguments)
    seen = []
    first = case.transformer.get_submodule(f"{family.BLOCKS[0]}.0")
    handle = first.register_forward_pre_hook(lambda *given: seen.append(given[1:]), with_kwargs=True)
    case.call()
    with family.coarse(arguments, adapter.own(3), family.noise_level(arguments)) as coarse:
        case.call(**coarse)
    handle.remove()
    if name == "Stable Diffusion 3":  # added to the tokens: the tokens alone are another's
        module = case.transformer.pos_embed
        table = module.cropped_pos_embed(grid.rows * 2, grid.columns * 2)[0]
        fine, merged = table, family.positions(grid, adapter.own(3))[0]
    else:
        fine, merged = (image_positions(name, *given) for given in seen)
    frames, rows, columns = grid.coarse(3)
    fine = fine[: grid.tokens].unflatten(0, (grid.frames, grid.rows, grid.columns))
    merged = merged[: frames * rows * columns].unflatten(0, (frames, rows, columns))
    # Cells beyond a ragged edge have no counterpart in the base's call.
    expected = fine[:, 1::3, 1::3]
    torch.testing.assert_close(
        merged[:, : expected.shape[1], : expected.shape[2]], expected, atol=1e-5, rtol=1e-5
    )
    assert merged.shape[1] > expected.shape[1] or merged.shape[2] > expected.shape[2] or rows * 3 == grid.rows


def image_positions(name, args, kwargs):
    """[N, ...]: rotary tables of the image's tokens, among a block's arguments."""
    if name == "Z-Image":
        return torch.view_as_real(args[2][0])
    found = kwargs.get("image_rotary_emb", kwargs.get("rotary_emb")) or args[-1]
    if name == "Qwen-Image":
        return torch.view_as_real(found[0])
    pair = torch.stack([table.reshape(-1, table.shape[-1]) for table in found], -1)
    text = kwargs["encoder_hidden_states"].shape[1] if name.startswith("FLUX") else 0
    return pair[text:]
