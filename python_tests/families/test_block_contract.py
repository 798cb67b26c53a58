"""TeaCache's rule by the contract of blocks: for every family, most of them without a file."""

from dataclasses import replace

import pytest
import torch
from diffusers import FluxTransformer2DModel
from family_cases import BY_NAME, captured
from flow_families import FAMILIES

import ddit_ext
from ddit_ext import TeaCache
from ddit_ext.coarse import patch_layers
from ddit_ext.families import BlocksFamily, FluxFamily, family_for, published, register_blocks
from ddit_ext.families import model as models
from ddit_ext.modules import blocks
from ddit_ext.modules.swap import swapped

WITHOUT = {"Kandinsky 5"}
"""Its blocks' tokens leave in another shape than they enter."""
NAMES = [family.name for family in FAMILIES if family.name not in WITHOUT]


def batch_of(case):
    return 2 if case.batches else 1


@pytest.mark.parametrize("name", NAMES)
def test_the_residual_of_the_blocks_stands_for_them(name):
    """A call without its blocks gives what it gave, where their residual is added."""
    case = captured(BY_NAME[name], batch_of(BY_NAME[name]))
    family, model = case.family, case.transformer
    after, watching = blocks.seen(model, family.BLOCKS, family.NORM)
    with swapped(model, watching):
        whole = case.call()
    with swapped(model, blocks.left_out(model, family.BLOCKS, family.NORM, after.added)):
        without = case.call()
    torch.testing.assert_close(without, whole, atol=1e-5, rtol=1e-4)
    other = torch.zeros_like(after.added)
    with swapped(model, blocks.left_out(model, family.BLOCKS, family.NORM, other)):
        assert not torch.allclose(case.call(), whole, atol=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_skips_steps_whose_input_hardly_changes(name, supports):
    case, batch = BY_NAME[name], batch_of(BY_NAME[name])
    pipe = case.build()
    before = case.run(pipe, batch, steps=6)
    with ddit_ext.patch(pipe, schedule=TeaCache(0.0, protect=(1, 0))):
        assert torch.equal(case.run(pipe, batch, steps=6), before)
    with ddit_ext.patch(pipe, schedule=TeaCache(1e9, protect=(1, 0))) as handle:
        skipped = case.run(pipe, batch, steps=6)
    report = handle.report().to_dict()
    assert [step["scale"] for step in report["steps"]] == [1, 0, 0, 0, 0, 0]
    assert all(change > 0 for step in report["steps"][1:] for (change,) in step["scores"])
    assert not report["warnings"]
    assert skipped.isfinite().all() and not torch.equal(skipped, before)
    assert torch.equal(case.run(pipe, batch, steps=6), before)
    supports(name, case.pipeline, "TeaCache")


def test_where_tokens_have_a_timestep_each_a_run_is_at_the_highest():
    """LTX image-to-video tells its given frame, which comes first, timestep 0."""
    text = BY_NAME["LTX-Video"]

    def arguments(batch):
        latents = torch.randn(batch, 8, 8, generator=torch.Generator().manual_seed(1))
        return text.arguments(batch) | {"image": None, "latents": latents, "num_frames": 9}

    case = replace(text, pipeline="LTXImageToVideoPipeline", arguments=arguments)
    pipe = case.build()
    with ddit_ext.patch(pipe, schedule=TeaCache(1e9)) as handle:
        case.run(pipe, steps=5)
    steps = handle.report().to_dict()["steps"]
    assert [step["scale"] for step in steps] == [1, 0, 0, 0, 1]
    assert [step["noise_level"] for step in steps] == pytest.approx(pipe.scheduler.sigmas.tolist()[:-1])
    # Z-Image counts timesteps from the clean end.
    assert captured(BY_NAME["Z-Image"]).family.told(torch.tensor([1.0, 0.25])) == 0.75


def test_a_call_that_leaves_its_first_block_out_skips_steps_too():
    """Skip-layer guidance of Stable Diffusion 3: the residual is of the blocks that its own call runs."""
    case = BY_NAME["Stable Diffusion 3"]
    case = replace(case, model=(case.model[0], case.model[1] | {"num_layers": 3}))
    guided = {"skip_guidance_layers": [0], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
    pipe = case.build()
    plain = case.run(pipe, steps=4, **guided)
    with ddit_ext.patch(pipe, schedule=TeaCache(0.0)):
        assert torch.equal(case.run(pipe, steps=4, **guided), plain)
    counts = [0, 0, 0]
    for place, block in enumerate(pipe.transformer.transformer_blocks):
        block.register_forward_hook(lambda *_, place=place: counts.__setitem__(place, counts[place] + 1))
    with ddit_ext.patch(pipe, schedule=[1, 1, 0, 1]) as handle:
        case.run(pipe, steps=4, **guided)
    assert counts == [3, 5, 5] and not handle.report().to_dict()["warnings"]
    call = captured(case)
    family, model = call.family, call.transformer
    after, watching = blocks.seen(model, family.BLOCKS, family.NORM, unused=[0])
    with swapped(model, watching):
        whole = call.call(skip_layers=[0])
    with swapped(model, blocks.left_out(model, family.BLOCKS, family.NORM, after.added)):
        torch.testing.assert_close(call.call(skip_layers=[0]), whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_input_is_what_enters_the_first_block(name):
    case = captured(BY_NAME[name], batch_of(BY_NAME[name]))
    family = case.family
    if name in ("FLUX.1", "Wan 2.1"):
        pytest.skip("compares the modulation as well, as TeaCache was published for it")
    entered = []
    first = case.transformer.get_submodule(f"{family.BLOCKS[0]}.0")
    handle = first.register_forward_pre_hook(
        lambda module, args, kwargs: entered.append(blocks.entering(args, kwargs)), with_kwargs=True
    )
    case.call()
    handle.remove()
    with torch.no_grad():
        assert torch.equal(family.first_input(case.arguments), entered[0])


def test_larger_patches_of_a_family_without_a_file_raise():
    case = BY_NAME["CogView4"]
    pipe = case.build()
    assert isinstance(family_for(pipe.transformer), BlocksFamily)
    with pytest.raises(ValueError, match=r"one of .*for larger patches, got CogView4Transformer2DModel"):
        ddit_ext.patch(pipe, schedule=2, scales=(1, 2))
    assert case.run(pipe, 1, steps=2).isfinite().all()


def test_a_lora_keeps_its_strength_when_a_forward_is_ended_early():
    """A forward that scales LoRAs down, and up again at its end alone, as in diffusers 0.35."""
    scaled = []

    class Scaling(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([torch.nn.Linear(4, 4)])
            self.norm_out = torch.nn.LayerNorm(4)
            self.embed = torch.nn.Linear(4, 4)

        def forward(self, hidden_states, timestep, attention_kwargs=None):
            scale = attention_kwargs.get("scale", 1.0)
            scaled.append(scale)
            hidden_states = self.norm_out(self.layers[0](self.embed(hidden_states)))
            scaled.append(1 / scale)
            return hidden_states

    register_blocks("Scaling", "Scaling", ("layers",))
    given = {"scale": 0.5, "else": 1}
    arguments = {"hidden_states": torch.rand(2, 3, 4), "timestep": torch.ones(1), "attention_kwargs": given}
    family = family_for(model := Scaling())
    assert torch.equal(family.first_input(arguments), model.embed(arguments["hidden_states"]))
    assert scaled == [1.0] and given == {"scale": 0.5, "else": 1}


def test_a_model_of_the_users_own_is_registered():
    class Stack(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(2))
            self.last = torch.nn.LayerNorm(4)
            self.embed = torch.nn.Linear(4, 4)

        def forward(self, hidden_states, timestep):
            hidden_states = self.embed(hidden_states)
            for layer in self.layers:
                hidden_states = hidden_states + layer(hidden_states)
            return self.last(hidden_states)

    with pytest.raises(TypeError, match="supported family.*got Stack.*ForecastScheduler"):
        family_for(Stack())
    register_blocks("Stack", "Stack", ("layers",), "last", timestep=1.0)
    family = family_for(model := Stack())
    arguments = {"hidden_states": torch.rand(2, 3, 4), "timestep": torch.tensor([0.25])}
    assert torch.equal(family.first_input(arguments), model.embed(arguments["hidden_states"]))
    assert family.told(arguments["timestep"]) == 0.25
    with pytest.raises(ValueError, match="model: Stack belongs to the family Stack already"):
        register_blocks("Stack", "Other")


def test_a_family_that_derives_from_a_shipped_one_leaves_it_its_models(monkeypatch):
    monkeypatch.setattr(models, "_FAMILIES", dict(models._FAMILIES))
    monkeypatch.setattr(patch_layers, "_KNOWN", dict(patch_layers._KNOWN))

    class Derived(FluxFamily):
        PATCHES = {"Derived": FluxFamily.PATCHES["FluxTransformer2DModel"]}

    class Plain(FluxFamily):
        pass

    assert (Derived.MODELS, Plain.MODELS) == (("Derived",), ())
    assert published()["black-forest-labs/FLUX.1-dev"].transformer == "FluxTransformer2DModel"
    assert models.class_of(FluxTransformer2DModel) is FluxFamily
    assert models.class_of(type("Derived", (FluxTransformer2DModel,), {})) is Derived
