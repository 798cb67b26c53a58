"""Runs in a row, batches, guidance, sizes, dtypes: what one run did never shows in the next."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, FluxImg2ImgPipeline
from flux_pipelines import make_call, make_pipeline, make_scheduler, run

import ddit_ext

pytestmark = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")


def steps_of(handle):
    return handle.report().to_dict()["steps"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_runs_in_a_row_of_other_sizes_steps_and_batches(dtype):
    pipe = make_pipeline(dtype=dtype)
    handle = ddit_ext.patch(pipe, threshold=1e9)
    for rows, columns, steps, batch in (
        (10, 6, 6, 1),
        (17, 13, 5, 2),
        (10, 6, 6, 3),
        (6, 10, 8, 1),
        (3, 3, 5, 1),
    ):
        call = make_call(rows=rows, columns=columns, steps=steps, batch=batch, dtype=dtype)
        out = run(pipe, call)
        assert out.shape == (batch, rows * columns, 16) and out.isfinite().all()
        done = steps_of(handle)
        assert [step["index"] for step in done] == list(range(steps))
        assert [step["scale"] for step in done] == [1, 1, 1] + [4] * (steps - 3)
        assert done[-1]["tokens"] == -(-rows // 4) * -(-columns // 4)
        assert torch.equal(run(pipe, call), out)  # the same run again is the same


def test_a_run_is_the_same_after_other_runs():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, threshold=0.02, quantile=0.5)
    first = run(pipe, make_call(steps=10))
    scores = [step["scores"] for step in steps_of(handle)]
    run(pipe, make_call(rows=7, columns=5, steps=6, batch=2, seed=4))
    assert torch.equal(run(pipe, make_call(steps=10)), first)
    assert [step["scores"] for step in steps_of(handle)] == scores


def test_true_guidance_is_one_decision_a_step():
    pipe = make_pipeline()
    asked = []
    calls = []
    pipe.transformer.register_forward_pre_hook(lambda m, a, k: calls.append(1), with_kwargs=True)
    handle = ddit_ext.patch(pipe, schedule=lambda step: asked.append(step) or (2 if step % 2 else 1))
    run(pipe, make_call(steps=5, true_cfg=True))
    assert len(calls) == 10 and asked == [0, 1, 2, 3, 4]
    assert [step["scale"] for step in steps_of(handle)] == [1, 2, 1, 2, 1]


def test_true_guidance_has_a_signal_from_the_combined_output():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, threshold=1e9)
    run(pipe, make_call(steps=6, true_cfg=True))
    assert [step["scale"] for step in steps_of(handle)] == [1, 1, 1, 4, 4, 4]


def test_a_batch_takes_the_finest_and_reports_each_sample():
    pipe = make_pipeline()
    call = make_call(rows=8, columns=8, steps=7, batch=3)
    handle = ddit_ext.patch(pipe, threshold=0.0)
    run(pipe, call)
    scores = steps_of(handle)[5]["scores"]
    handle.unpatch()
    middle = sorted(row[1] for row in scores)[1]
    handle = ddit_ext.patch(pipe, threshold=middle * 1.0001, scales=(1, 2), protect=(5, 0))
    run(pipe, call)
    step = steps_of(handle)[5]  # until here the same run as above
    assert step["scale"] == 1
    assert step["scales"] == [2 if row[1] <= middle else 1 for row in scores]
    assert sorted(step["scales"]) == [1, 2, 2]


def test_one_sample_in_a_batch_scores_as_it_does_alone():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, threshold=0.0)
    both = make_call(rows=6, columns=6, steps=6, batch=2)
    latents = torch.randn(2, 36, 16, generator=torch.Generator().manual_seed(9))
    run(pipe, both | {"latents": latents})
    together = [step["scores"] for step in steps_of(handle)]
    alone = {name: value[1:] if isinstance(value, torch.Tensor) else value for name, value in both.items()}
    run(pipe, alone | {"latents": latents[1:]})
    for pair, single in zip(together[3:], [step["scores"] for step in steps_of(handle)][3:], strict=True):
        torch.testing.assert_close(torch.tensor(pair[1]), torch.tensor(single[0]), rtol=1e-3, atol=1e-6)


def test_patched_then_cast():
    pipe = make_pipeline()
    ddit_ext.patch(pipe, schedule=2)
    run(pipe, make_call(steps=2))
    pipe.to(torch.bfloat16)
    assert run(pipe, make_call(steps=2, dtype=torch.bfloat16)).dtype == torch.bfloat16
    pipe.to(torch.float32)
    assert run(pipe, make_call(steps=2)).dtype == torch.float32


def test_an_error_inside_a_run_leaves_nothing():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, threshold=1e9)
    expected = run(pipe, make_call(steps=8))
    modules = {name: id(module) for name, module in pipe.transformer.named_modules()}

    def fail(module, args):
        raise ArithmeticError("broken")

    def stop(pipe, index, t, kwargs):
        if index == 5:
            raise InterruptedError
        return kwargs

    broken = pipe.transformer.single_transformer_blocks[0].register_forward_pre_hook(fail)
    with pytest.raises(ArithmeticError):
        run(pipe, make_call(steps=8))
    broken.remove()
    with pytest.raises(InterruptedError):
        run(pipe, make_call(steps=8) | {"callback_on_step_end": stop})
    assert {name: id(module) for name, module in pipe.transformer.named_modules()} == modules
    assert torch.equal(run(pipe, make_call(steps=8)), expected)
    assert [step["scale"] for step in steps_of(handle)] == [1, 1, 1] + [4] * 5


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
def test_an_error_inside_a_coarse_call_puts_the_modules_back(error):
    pipe = make_pipeline()
    plain = run(pipe, make_call(steps=2))
    handle = ddit_ext.patch(pipe, schedule=2)

    def fail(module, args):
        raise error

    broken = pipe.transformer.single_transformer_blocks[0].register_forward_pre_hook(fail)
    with pytest.raises(error):
        run(pipe, make_call(steps=2))
    broken.remove()
    if error is ArithmeticError:
        assert isinstance(pipe.transformer.x_embedder, torch.nn.Linear)
    assert run(pipe, make_call(steps=2)).isfinite().all()
    handle.unpatch()
    assert isinstance(pipe.transformer.x_embedder, torch.nn.Linear)
    assert torch.equal(run(pipe, make_call(steps=2)), plain)


def test_an_interrupted_pipeline_starts_anew():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, threshold=1e9)

    def interrupt(pipe, index, t, kwargs):
        pipe._interrupt = index >= 4
        return kwargs

    run(pipe, make_call(steps=9) | {"callback_on_step_end": interrupt})
    assert len(steps_of(handle)) == 5
    run(pipe, make_call(steps=9))
    assert [step["scale"] for step in steps_of(handle)] == [1, 1, 1] + [4] * 6


def test_the_sampler_may_be_replaced_at_any_time():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, threshold=1e9)
    run(pipe, make_call(steps=5))
    old = pipe.scheduler
    pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    call = make_call(steps=4)
    with pytest.raises(ValueError, match="sigmas"):
        run(pipe, call)  # diffusers' FLUX pipeline passes sigmas, which Heun does not take
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(old.config, shift=2.0)
    run(pipe, make_call(steps=5))
    assert [step["scale"] for step in steps_of(handle)] == [1, 1, 1, 4, 4]
    assert "step" not in old.__dict__
    handle.unpatch()
    assert "step" not in pipe.scheduler.__dict__


def test_pipelines_that_share_the_transformer_share_the_patch():
    pipe = make_pipeline()
    other = FluxImg2ImgPipeline(**pipe.components)
    other.set_progress_bar_config(disable=True)
    handle = ddit_ext.patch(pipe, threshold=1e9)
    with pytest.raises(RuntimeError, match="already patched"):
        ddit_ext.patch(other)
    run(other, make_call("img2img", steps=8) | {"strength": 0.75})
    assert [step["scale"] for step in steps_of(handle)] == [1, 1, 1, 4, 4, 4]
    ddit_ext.unpatch(other)
    ddit_ext.patch(pipe, schedule=1)


def test_another_pipeline_with_a_sampler_of_its_own():
    """Its sampler is not watched, so a changed timestep is a step and the latents as given are the signal."""
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, threshold=1e9)
    run(pipe, make_call(steps=5))
    other = type(pipe)(**pipe.components | {"scheduler": make_scheduler()})
    other.set_progress_bar_config(disable=True)
    for _ in range(2):
        run(other, make_call(steps=6))
        assert [step["scale"] for step in steps_of(handle)] == [1, 1, 1, 4, 4, 4]
    run(pipe, make_call(steps=5))
    assert len(steps_of(handle)) == 5


def test_fewer_than_five_steps_warn():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, threshold=1e-3)
    with pytest.warns(UserWarning, match="no signal: a run of 4 steps"):
        run(pipe, make_call(steps=4))
    report = handle.report().to_dict()
    assert any("no signal" in text for text in report["warnings"])
    assert [step["scale"] for step in report["steps"]] == [1] * 4
    run(pipe, make_call(steps=5))
    assert not any("no signal" in text for text in handle.report().to_dict()["warnings"])


def test_img2img_counts_its_own_steps():
    pipe = make_pipeline("img2img")
    handle = ddit_ext.patch(pipe, schedule=[2, 1, 1])
    run(pipe, make_call("img2img", steps=6) | {"strength": 0.5})
    done = steps_of(handle)
    assert [step["scale"] for step in done] == [2, 1, 1]
    assert done[0]["noise_level"] < 0.9


def test_protected_steps_stay_fine():
    pipe = make_pipeline()
    handle = ddit_ext.patch(pipe, threshold=1e9, protect=(5, 2))
    run(pipe, make_call(steps=9))
    assert [step["scale"] for step in steps_of(handle)] == [1, 1, 1, 1, 1, 4, 4, 1, 1]
    handle.unpatch()
    handle = ddit_ext.patch(pipe, schedule=2, protect=(1, 1))
    run(pipe, make_call(steps=4))
    assert [step["scale"] for step in steps_of(handle)] == [1, 2, 2, 1]
