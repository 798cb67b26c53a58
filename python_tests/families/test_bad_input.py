"""What tokens of merged cells can't follow raises by name, in every family where it can come."""

import pytest
import torch
from family_cases import BY_NAME, PATCHED, captured

import ddit_ext
from ddit_ext.coarse import Adapter

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")


def refused(case, kind, match, **changes):
    """A coarse call with other arguments raises; so does a coarse run, where the pipeline has them."""
    adapter = Adapter.training_free(case.transformer, (2,))
    family, arguments = case.family, case.arguments | changes
    with (
        pytest.raises(kind, match=match),
        family.coarse(arguments, adapter.own(2), family.noise_level(case.arguments)),
    ):
        pass


@pytest.mark.parametrize(
    "name", [name for name in PATCHED if name != "Z-Image"]
)  # whose attention takes no mask
def test_masks_of_attention(name):
    case = captured(BY_NAME[name], 1)
    key = next(
        key for key in ("joint_attention_kwargs", "attention_kwargs") if key in case.family._parameters
    )
    mask = torch.ones(1, 1, 16, 16, dtype=torch.bool)
    refused(case, NotImplementedError, rf"{key}\['attention_mask'\]", **{key: {"attention_mask": mask}})


@pytest.mark.parametrize("name", ["FLUX.1", "FLUX.2"])
def test_tokens_that_are_no_rectangle(name):
    case = captured(BY_NAME[name], 1)
    ids = case.arguments["img_ids"].clone()
    ids[..., [0, 5], :] = ids[..., [5, 0], :]
    refused(case, ValueError, "img_ids must be a full grid in row-major order", img_ids=ids)


def test_pictures_of_several_sizes_in_a_batch_of_qwen_image():
    case = captured(BY_NAME["Qwen-Image"])
    shapes = [[(1, 4, 4)], [(1, 2, 8)]]
    refused(case, ValueError, "img_shapes must be the same for all samples", img_shapes=shapes)
    refused(case, ValueError, "img_shapes must name one picture and 16 tokens", img_shapes=[[(1, 3, 4)]] * 2)


@pytest.mark.parametrize("shape", [(4, 194), (194, 4)])
def test_more_cells_than_stable_diffusion_3_has_positions(shape):
    case = captured(BY_NAME["Stable Diffusion 3"], 1)
    latents = torch.randn(*case.arguments["hidden_states"].shape[:2], *shape)
    text = "hidden_states: 97 cells along a side are more than the model's 96 positions .pos_embed_max_size"
    refused(case, ValueError, text, hidden_states=latents)


def test_qwen_images_layers():
    case = captured(BY_NAME["Qwen-Image"])
    case.transformer.register_to_config(use_layer3d_rope=True)
    refused(case, NotImplementedError, "use_layer3d_rope .Qwen-Image-Layered.")


@pytest.mark.parametrize("given", ["several sizes", "omni"])
def test_lists_of_z_image(given, monkeypatch):
    """The transformer takes them, so a run must not pass them on as if it had been followed."""
    case = BY_NAME["Z-Image"]
    pipe = case.build()
    with ddit_ext.patch(pipe, schedule=2):
        call = pipe.transformer._call_impl

        def other(x, *args, **kwargs):
            x = [[each] for each in x] if given == "omni" else [x[0], x[1][..., :4], *x[2:]]
            return call(x, *args, **kwargs)

        with monkeypatch.context() as changed, pytest.raises(TypeError, match="x must be a list.*omni mode"):
            changed.setattr(pipe.transformer, "_call_impl", other)
            case.run(pipe, 2, steps=4)
        assert case.run(pipe, 2, steps=4).isfinite().all()


@torch.no_grad()
def test_a_forecast_does_not_mind_the_lists_of_z_image():
    """No call is changed; tokens of pictures of several sizes are not known."""
    case = captured(BY_NAME["Z-Image"])
    pipe, arguments = BY_NAME["Z-Image"].build(), case.arguments
    arguments["x"] = [x[..., : 4 + 4 * (place % 2)] for place, x in enumerate(arguments["x"])]
    plain = pipe.transformer(**arguments)[0]
    with ddit_ext.patch(pipe, schedule=ddit_ext.Forecast(calls=2)) as handle:
        pipe.scheduler.set_timesteps(4)
        output = pipe.transformer(**arguments)[0]
        (step,) = handle.report().to_dict()["steps"]
    assert all(torch.equal(*pair) for pair in zip(output, plain, strict=True))
    assert step["scale"] == 1 and step["tokens"] is None


def test_other_patches_of_z_image():
    refused(captured(BY_NAME["Z-Image"], 1), NotImplementedError, "patch_size=4: ", patch_size=4)
