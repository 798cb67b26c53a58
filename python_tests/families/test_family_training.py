"""What the trainer asks of a family: latents and text of one length from a pipeline, its own runs as data, and presets."""

import dataclasses
import functools
import inspect
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from family_cases import BY_NAME
from flow_families.family import SIDE, TEXT, text
from tiny_edits import EDITS
from torch.utils.flop_counter import FlopCounterMode

import ddit_ext
from ddit_ext.coarse import Adapter
from ddit_ext.families import encoder_for, family_for
from ddit_ext.families.encoder import cut
from ddit_ext.training.all_true import AllTrue
from ddit_ext.training.data.generate import run_states
from ddit_ext.training.evaluate import evaluate_coarse_error
from ddit_ext.training.samples import Samples
from ddit_ext.training.settings import (
    DataSettings,
    GenerateSettings,
    ModelSettings,
    OutputSettings,
    TrainSettings,
)

LENGTH = 8
NAMES = ["FLUX.1", "FLUX.2", "Qwen-Image", "Z-Image", "Stable Diffusion 3", "HunyuanVideo 1.5"]


def generated(**settings):
    """Settings for data that the base's own runs give."""
    return DataSettings(
        source="generated",
        prompts="none",
        cache="none",
        height=SIDE,
        width=SIDE,
        max_sequence_length=LENGTH,
        generate=GenerateSettings(**settings),
    )


def rows(count, *shape, seed=1):
    return text(count, *shape, seed=seed)


def encoded(name, count):
    """What encode_prompt of a family's pipeline returns; seed 2 for a negative prompt beside it."""
    masks = torch.ones(count, TEXT, dtype=torch.long)
    return {
        "FLUX.1": lambda: (rows(count, TEXT, 32), rows(count, 32), torch.zeros(TEXT, 3)),
        "FLUX.2": lambda: (rows(count, TEXT, 16), torch.zeros(count, TEXT, 4)),
        "Qwen-Image": lambda: (rows(count, TEXT, 16), None),
        "Z-Image": lambda: tuple([rows(1, TEXT - i, 16, seed=s)[0] for i in range(count)] for s in (1, 2)),
        "Stable Diffusion 3": lambda: tuple(
            rows(count, *shape, seed=seed) for shape in ((TEXT, 32), (32,)) for seed in (1, 2)
        ),
        "HunyuanVideo 1.5": lambda: (rows(count, TEXT, 16), masks, rows(count, TEXT, 16, seed=2), masks),
    }[name]()


@pytest.fixture(params=NAMES)
def named(request):
    """A pipeline with an autoencoder, and words for it without a text encoder."""
    name = request.param
    case = BY_NAME[name]
    if name == "FLUX.2":
        case = EDITS["FLUX.2 klein"]
    elif case.vae is not None:
        case = dataclasses.replace(case, parts=lambda: {"vae": BY_NAME[name].vae()})
    pipe = case.build()

    def encode_prompt(prompt=None, *args, **options):
        if options.get("prompt_embeds") is not None:
            return (options["prompt_embeds"], None)
        return encoded(name, len(prompt) if isinstance(prompt, list) else 1)

    pipe.encode_prompt = encode_prompt
    return name, pipe


def test_pictures_and_captions_become_a_training_batch(named):
    name, pipe = named
    encoder, family = encoder_for(pipe, LENGTH), family_for(pipe.transformer)
    captions = encoder.text(["a cat", "a dog in a boat"])
    assert all(len(value) == 2 for value in captions.values())
    lengths = {value.shape[1] for key, value in captions.items() if value.ndim == 3}
    assert lengths == {LENGTH if encoder.PADDED else TEXT}
    side = encoder.token_side * 4
    pixels = torch.rand(2, 3, frames_of(name), side, side) * 2 - 1
    latents = torch.cat(
        [encoder.latents(sample[None]) for sample in pixels]
    )  # one at a time, as the cache is made
    conditions = captions | ({"guidance": torch.ones(2)} if _told(pipe) else {})
    call = family.training_call(latents, conditions)
    assert (family.grid(call).rows, family.grid(call).columns) == (4, 4)
    adapter = Adapter.training_free(pipe.transformer, (2,))
    errors = evaluate_coarse_error(pipe.transformer, adapter, [(latents, conditions)], 2, [0.9, 0.5])
    assert all(0 < error < float("inf") for error in errors.values())


def test_latents_are_normalised_as_the_pipeline_undoes_it(named):
    """Twice the deviation of the autoencoder's numbers is half of the latents'."""
    name, pipe = named
    encoder, vae = encoder_for(pipe, LENGTH), pipe.vae
    side = encoder.token_side * 4
    pixels = torch.rand(1, 3, frames_of(name), side, side) * 2 - 1
    before = encoder.latents(pixels)
    if name == "FLUX.2":
        vae.bn.running_var.mul_(4).add_(3 * vae.config.batch_norm_eps)
    elif name == "Qwen-Image":
        vae.register_to_config(latents_std=[2 * std for std in vae.config.latents_std])
    else:
        vae.register_to_config(scaling_factor=vae.config.scaling_factor / 2)
    torch.testing.assert_close(encoder.latents(pixels), before / 2, atol=1e-6, rtol=1e-5)


def test_samples_are_drawn_by_what_the_pipeline_calls_its_arguments(named, monkeypatch):
    """True guidance is true_cfg_scale for Qwen-Image, and HunyuanVideo 1.5 is told no number of text tokens."""
    name, pipe = named
    guidance = {} if name == "HunyuanVideo 1.5" else {"guidance_scale": 2.0}
    data = generated(**guidance)
    encoder = encoder_for(pipe, LENGTH)
    output = OutputSettings(folder="none", sample_prompts=("a cat",), sample_every=1, sample_steps=2)
    settings = TrainSettings(ModelSettings("tiny"), data, output)
    given = []

    @functools.wraps(type(pipe).__call__)
    def call(self, **arguments):
        inspect.signature(call).bind(self, **arguments)
        given.append(arguments)
        return SimpleNamespace(images=np.zeros((1, 4, 4, 3)))

    monkeypatch.setattr(type(pipe), "__call__", call)
    (drawn,) = Samples(encoder, [{}], settings, None)._draw()
    assert drawn.shape == (4, 4, 3)
    assert given[0]["num_inference_steps"] == 2 and given[0].get(encoder.GUIDANCE) == guidance.get(
        "guidance_scale"
    )


def test_the_bases_own_runs_become_data(named):
    name, pipe = named
    encoder, family = encoder_for(pipe, LENGTH), family_for(pipe.transformer)
    settings = generated(steps=4, states=2)
    states = run_states(encoder, "a cat", settings, seed=3)
    latents, levels = states.pop("latents"), states.pop("noise_level")
    assert latents.shape[0] == 2 and bool((levels > 0).all())
    assert latents.ndim < 5 or latents.shape[2] == 1, "frames=1 asks for pictures of a model of clips, too"
    for key, value in encoder.text(["a cat"]).items():
        assert torch.equal(states[key], value), "the prompt's, not the negative prompt's"
    conditions = {key: value.repeat_interleave(2, 0) for key, value in states.items()}
    if _told(pipe):
        conditions["guidance"] = torch.ones(2)
    call = family.training_call(latents[:, : family.out_channels], conditions)
    call[family.TIME] = family.timestep(levels)
    if "condition_latents" in call:  # the trainer puts them beside the noisy latent
        call = family.with_latents(
            call, torch.cat([family.latents(call), call.pop("condition_latents")], family.CHANNELS)
        )
    with torch.no_grad():
        output = pipe.transformer(**call, return_dict=False)[0]
    assert all(part.isfinite().all() for part in output)


def test_a_model_of_pictures_makes_no_clips():
    encoder = encoder_for(BY_NAME["FLUX.1"].build(), LENGTH)
    settings = dataclasses.replace(generated(steps=4, states=2), frames=5)
    with pytest.raises(ValueError, match="frames must be 1 for a model of pictures, got 5"):
        run_states(encoder, "a cat", settings, seed=3)


def test_a_model_that_looks_at_its_masks_is_counted_on_tensors_without_numbers():
    transformer = BY_NAME["HunyuanVideo 1.5"].build().transformer
    call = family_for(transformer).example_call(2, 3, 4, TEXT, torch.zeros(()))
    call = {name: torch.ones_like(value) for name, value in call.items()}
    with torch.device("meta"):
        empty = type(transformer).from_config(transformer.config)
    counted = []
    for model, mode in ((transformer, nullcontext()), (empty, AllTrue())):
        device = next(model.parameters()).device
        given = {name: value.to(device) for name, value in call.items()}
        with torch.no_grad(), FlopCounterMode(display=False) as counter, mode:
            model(**given)
        found = counter.get_flop_counts()["Global"]
        counted.append({op: found[op] for op in (torch.ops.aten.addmm, torch.ops.aten.convolution)})
    assert counted[0] == counted[1]  # attention is counted without numbers alone: the CPU has a kernel for it


def test_texts_of_several_lengths_come_back_as_they_were():
    pipe = BY_NAME["Z-Image"].build()
    encoder = encoder_for(pipe, LENGTH)
    texts = [rows(1, length, 16)[0] for length in (3, 5)]
    fixed = encoder.fixed({"cap_feats": texts}, 2)
    assert fixed["cap_feats"].shape == (2, LENGTH, 16)
    assert all(torch.equal(a, b) for a, b in zip(cut(fixed)["cap_feats"], texts, strict=True))
    with pytest.raises(ValueError, match="max_sequence_length: 8 is less than a text's 9 tokens"):
        encoder.fixed({"cap_feats": [rows(1, 9, 16)[0]]}, 1)


@pytest.mark.filterwarnings("ignore:ddit_ext")
def test_a_preset_of_a_new_family_is_found_saved_and_run(tmp_path):
    case = BY_NAME["Qwen-Image"]
    case = dataclasses.replace(case, parts=lambda: {"vae": case.vae()})
    pipe = case.build()
    given = case.arguments(1)
    calls = []
    pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    preset = ddit_ext.calibrate(
        pipe,
        [given],
        target_speedup=1.5,
        num_inference_steps=16,
        progress=False,
        clock=lambda: float(len(calls)),
    )
    preset.save(tmp_path / "preset.json")
    with ddit_ext.patch(pipe, preset=tmp_path / "preset.json") as handle:
        assert case.run(pipe, 1, steps=preset.steps).isfinite().all()
    assert handle.report().to_dict()["speedup_estimate"] > 1


def frames_of(name):
    return 5 if name.startswith("HunyuanVideo") else 1


def _told(pipe):
    return bool(getattr(pipe.transformer.config, "guidance_embeds", False))
