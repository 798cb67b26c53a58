"""Every kind of Wan pipeline runs coarse, and is itself again at size 1 and after unpatch()."""

import math

import pytest
import torch
from skip_cases import called
from wan_pipelines import (
    FAMILY,
    KINDS,
    TEXT,
    TEXT_WIDTH,
    make_call,
    make_pipeline,
    make_scheduler,
    make_text,
    run,
)

import ddit_ext
from ddit_ext import cells, ops
from ddit_ext.coarse import Adapter
from ddit_ext.runtime.patched_call import find_hook

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")


def steps_of(handle):
    return handle.report().to_dict()["steps"]


def scales_of(handle):
    return [step["scale"] for step in steps_of(handle)]


def adapters_of(pipe):
    names = [name for name in ("transformer", "transformer_2") if getattr(pipe, name, None) is not None]
    return {name: Adapter.create(getattr(pipe, name), rank=2).eval() for name in names}


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_sizes_and_size_one(kind, supports):
    pipe, call = make_pipeline(kind), make_call(kind, 3, 5, steps=3 if kind == "v2v" else 2)
    frames = 3 if kind == "animate" else 2  # one is the reference
    plain = run(pipe, call)
    keys = list(pipe.transformer.state_dict())
    handle = ddit_ext.patch(pipe, adapters_of(pipe), schedule=1)
    assert torch.equal(run(pipe, call), plain)
    assert list(pipe.transformer.state_dict()) == keys
    handle.unpatch()
    for scale in (2, 4):
        handle = ddit_ext.patch(pipe, schedule=scale)
        out = run(pipe, call)
        assert out.shape == plain.shape and out.isfinite().all() and not torch.equal(out, plain)
        steps = steps_of(handle)
        assert len(steps) == 2
        assert {step["scale"] for step in steps} == {scale}
        assert {step["tokens"] for step in steps} == {frames * math.ceil(3 / scale) * math.ceil(5 / scale)}
        handle.unpatch()
    assert torch.equal(run(pipe, call), plain)
    assert "step" not in pipe.scheduler.__dict__
    with pytest.raises(RuntimeError, match="not patched"):
        ddit_ext.unpatch(pipe)
    supports(FAMILY[kind], type(pipe).__name__, "larger patches")


@pytest.mark.parametrize("kind", KINDS)
def test_dynamic_sizes(kind):
    pipe = make_pipeline(kind)
    batch = 1 if kind in ("v2v", "vace", "animate") else 2  # one video in, one out
    call = make_call(kind, 3, 5, steps=8 if kind == "v2v" else 6, batch=batch)
    with pytest.warns(UserWarning, match="training-free"):
        handle = ddit_ext.patch(pipe, threshold=1e9)
    assert run(pipe, call).isfinite().all()
    steps = steps_of(handle)
    assert [step["index"] for step in steps] == [0, 1, 2, 3, 4, 5]
    assert [step["scale"] for step in steps] == [1, 1, 1, 4, 4, 4]
    assert [step["scores"] is None for step in steps] == [True] * 3 + [False] * 3
    assert all(len(step["scores"]) == batch and len(step["scores"][0]) == 3 for step in steps[3:])
    levels = [step["noise_level"] for step in steps]
    assert levels == sorted(levels, reverse=True) and 0 < levels[-1] < levels[0] <= 1
    handle.unpatch()


@pytest.mark.parametrize("scheduler", ["unipc", "euler"])
@pytest.mark.parametrize("kind", ["text", "two", "ti2v_image"])
def test_the_signal_is_the_samplers_own_float32_latents(kind, scheduler):
    """Two calls a step, one decision and one entry; a given first frame has no say."""
    pipe = make_pipeline(kind, scheduler=scheduler)
    channels = 48 if kind == "ti2v_image" else 16
    noise = torch.randn(2, channels, 3, 10, 8, generator=torch.Generator().manual_seed(1))
    kept = [noise]
    call = make_call(kind, 5, 4, 3, batch=2, steps=7) | {
        "latents": noise,
        "callback_on_step_end": lambda p, i, t, kw: kept.append(kw["latents"]) or kw,
    }
    handle = ddit_ext.patch(pipe, threshold=0.0)
    calls = []
    pipe.transformer.register_forward_hook(lambda m, a, o: calls.append(1))
    run(pipe, call)
    steps = steps_of(handle)
    assert len(steps) == 7 and len(kept) == 8
    assert len(calls) == (14 if kind != "two" else 2 * sum(step["noise_level"] >= 0.8 for step in steps))
    first = 1 if kind == "ti2v_image" else 0
    views = [cells.from_latents(latents)[:, first:] for latents in kept]
    for index in range(3, 7):
        wanted = ops.acceleration_quantiles(*views[index - 3 : index + 1][::-1], [1, 2, 4], 0.4)
        torch.testing.assert_close(torch.tensor(steps[index]["scores"]), wanted, rtol=1e-4, atol=1e-5)


def test_a_schedule_goes_on_across_the_switch_of_transformers():
    pipe = make_pipeline("two")
    seen = []
    for name in ("transformer", "transformer_2"):
        getattr(pipe, name).blocks[0].register_forward_pre_hook(
            lambda m, args, name=name: seen.append((name, args[0].shape[1]))
        )
    handle = ddit_ext.patch(pipe, schedule=[2, 1, 4, 2, 1])
    run(pipe, make_call("two", 4, 4, 1, steps=5, guidance=1.0))
    assert scales_of(handle) == [2, 1, 4, 2, 1]
    assert [tokens for _, tokens in seen] == [4, 16, 1, 4, 16]
    switched = [name for name, _ in seen].index("transformer_2")
    assert 0 < switched < 5
    levels = [step["noise_level"] for step in steps_of(handle)]
    assert levels[switched - 1] >= 0.8 > levels[switched]
    handle.unpatch()
    for name in ("transformer", "transformer_2"):
        assert find_hook(getattr(pipe, name)) is None


@pytest.mark.parametrize("kind", ["two", "i2v"])
@pytest.mark.parametrize("count", [4, 10])  # in closed form, and through every level
def test_a_forecast_calls_the_transformer_of_each_computed_step(kind, count):
    pipe = make_pipeline(kind)
    calls = called(pipe)
    with ddit_ext.patch(pipe, schedule=ddit_ext.Forecast(calls=count)) as handle:
        run(pipe, make_call(kind, steps=20))
    levels = [step["noise_level"] for step in steps_of(handle) if step["scale"]]
    assert len(levels) == count and levels[0] >= 0.8 > levels[-1]
    names = ["transformer" if level >= 0.8 else "transformer_2" for level in levels]
    assert calls == [name for name in names for _ in range(2)]


def test_the_first_transformer_has_more_of_a_forecasts_calls():
    """The numbers of docs/wan.md."""
    scheduler, high = make_scheduler(), []  # of flow_shift 3
    for each in (scheduler, ddit_ext.ForecastScheduler.from_scheduler(scheduler, speedup=2)):
        each.set_timesteps(50)
        high.append((len(each.timesteps), sum(timestep >= 875 for timestep in each.timesteps.tolist())))
    assert high == [(50, 16), (25, 13)]


def test_each_of_two_transformers_has_its_own_weights(tmp_path):
    pipe, call = make_pipeline("two"), make_call("two", 3, 3, 1, steps=5)
    adapters = adapters_of(pipe)
    for name, adapter in adapters.items():
        with torch.no_grad():
            adapter.own(2).size_embedding.fill_(0.1 if name == "transformer" else -0.2)
        adapter.save(tmp_path / name)
    handle = ddit_ext.patch(pipe, adapters, schedule=2)
    expected = run(pipe, call)
    handle.unpatch()
    handle = ddit_ext.patch(pipe, tmp_path, schedule=2)
    torch.testing.assert_close(run(pipe, call), expected)
    handle.unpatch()
    for wrong, error, text in (
        (adapters["transformer"], ValueError, "transformer_2.*each with weights of its own.*Adapter"),
        (tmp_path / "transformer", ValueError, "a folder with a subfolder for each, got .*transformer"),
        ({"transformer": adapters["transformer"]}, ValueError, r"adapter must name.*got \['transformer'\]"),
        (
            {"transformer": adapters["transformer_2"], "transformer_2": adapters["transformer"]},
            ValueError,
            "adapter was made for another base model",
        ),
    ):
        with pytest.raises(error, match=text):
            ddit_ext.patch(pipe, wrong, schedule=2)
        assert find_hook(pipe.transformer) is None and find_hook(pipe.transformer_2) is None


def test_only_the_transformer_for_low_noise():
    """Wan 2.2 may be loaded without the first one, for a boundary of 1."""
    pipe = make_pipeline("two")
    pipe.transformer = None
    pipe.register_to_config(boundary_ratio=1.1)
    handle = ddit_ext.patch(pipe, schedule=2)
    assert run(pipe, make_call("two", 3, 3, 1)).isfinite().all()
    assert scales_of(handle) == [2, 2, 2]
    handle.unpatch()


def test_one_frame_of_one_token():
    pipe, call = make_pipeline(), make_call("text", 1, 1, 1, steps=2)
    handle = ddit_ext.patch(pipe, schedule=4)
    assert run(pipe, call).shape == (1, 16, 1, 2, 2)
    assert [step["tokens"] for step in steps_of(handle)] == [1, 1]


def test_runs_in_a_row_of_other_sizes():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, threshold=1e9)
    for rows, columns, frames, steps, batch in ((3, 5, 2, 6, 1), (5, 3, 2, 5, 2), (2, 2, 3, 7, 1)):
        call = make_call("text", rows, columns, frames, steps=steps, batch=batch)
        out = run(pipe, call)
        assert out.shape == (batch, 16, frames, 2 * rows, 2 * columns)
        assert scales_of(handle) == [1, 1, 1] + [4] * (steps - 3)
        assert torch.equal(run(pipe, call), out)


@pytest.mark.parametrize("kind", ["text", "ti2v_image"])
def test_bf16(kind):
    pipe = make_pipeline(kind, torch.bfloat16)
    handle = ddit_ext.patch(pipe, schedule=[1, 2, 4])
    out = run(pipe, make_call(kind))
    assert out.dtype == torch.float32 and out.isfinite().all()
    assert scales_of(handle) == [1, 2, 4]


def test_video_to_video_knows_how_long_it_is():
    pipe = make_pipeline("v2v")
    handle = ddit_ext.patch(pipe, schedule=2, protect=(1, 2))
    run(pipe, make_call("v2v", steps=7))
    assert scales_of(handle) == [1, 2, 2, 1, 1]


def test_each_segment_of_animate_is_a_run():
    pipe, call = make_pipeline("animate"), make_call("animate", 2, 2, steps=5, guidance=1.0)
    call |= dict(pose_video=call["pose_video"][:1] * 9, face_video=call["face_video"][:1] * 9)
    seen = []
    pipe.transformer.blocks[0].register_forward_pre_hook(lambda m, args: seen.append(args[0].shape[1]))
    handle = ddit_ext.patch(pipe, threshold=1e9)
    run(pipe, call)
    assert seen == 2 * [12, 12, 12, 3, 3]
    assert scales_of(handle) == [1, 1, 1, 4, 4]


def test_from_a_prompt_to_frames():
    """The whole pipeline; sides and frames that the VAE can't have are the pipeline's business as before."""
    pipe = make_pipeline()
    for name, part in make_text().items():
        setattr(pipe, name, part)
    call = make_call("text", steps=2)
    del call["prompt_embeds"], call["negative_prompt_embeds"]
    call |= dict(prompt="a pizza spinning on red checks", negative_prompt="", max_sequence_length=8)
    call |= dict(num_frames=7, output_type="np")
    plain = run(pipe, call)
    assert plain.shape == (1, 5, 48, 80, 3)  # 4 frames and the first: rounded
    handle = ddit_ext.patch(pipe, schedule=2)
    out = run(pipe, call)
    assert out.shape == plain.shape and not (out == plain).all()
    assert [step["tokens"] for step in steps_of(handle)] == [12, 12]
    with pytest.raises(ValueError, match="divisible by 16 but are 50 and 80"):
        run(pipe, call | {"height": 50})
    handle.unpatch()
    assert (run(pipe, call) == plain).all()


def test_odd_latents_raise_by_name():
    """The pipeline itself never makes such; a user's own latents may be."""
    pipe = make_pipeline()
    call = make_call("text", steps=2) | {"latents": torch.randn(1, 16, 2, 7, 10)}
    handle = ddit_ext.patch(pipe, schedule=2)
    with pytest.raises(ValueError, match="hidden_states: height and width must be multiples of 2.*7 x 10"):
        run(pipe, call)
    assert run(pipe, make_call("text", steps=2)).isfinite().all()
    handle.unpatch()


def test_speedup_counts_what_a_wan_block_does():
    pipe, call = make_pipeline(), make_call("text", 4, 4, 1, steps=2, guidance=1.0)
    handle = ddit_ext.patch(pipe, schedule=2)
    run(pipe, call)
    width, ffn = 24, 32

    def multiplications(tokens):
        # Queries, keys, values and output; the cross-attention's queries and output; feed-forward.
        layers = tokens * (4 * width**2 + 2 * width**2 + 2 * width * ffn)
        return layers + 2 * tokens * tokens * width + 2 * tokens * TEXT * width

    assert call["prompt_embeds"].shape == (1, TEXT, TEXT_WIDTH)
    wanted = multiplications(16) / multiplications(4)
    assert handle.report().to_dict()["speedup_estimate"] == pytest.approx(wanted)
