"""Distillation of a tiny random model: it learns, resumes bit for bit, and stops in good order."""

import json

import pytest
import torch
from tiny_flux import conditions, smooth_latents, tiny_flux, training_batch

from ddit_ext.coarse import Adapter, AdapterError
from ddit_ext.families import FluxFamily
from ddit_ext.training import DistillConfig, TrainingDiverged, distill, evaluate_coarse_error
from ddit_ext.training.checkpoint import checkpoints
from ddit_ext.training.objective import draw_sigma
from ddit_ext.training.processes import Processes
from ddit_ext.training.trainer import Progress, Trainer

SETTINGS = {"lr": 3e-3, "warmup": 2, "log_every": 4, "checkpoint_every": 5, "ema": 0.9}


def new_adapter(transformer, **choices):
    return Adapter.create(transformer, rank=2, **choices)


def run(transformer, adapter, folder=None, batches=training_batch, **changes):
    config = DistillConfig(**(SETTINGS | changes))
    return distill(transformer, adapter, batches, config, out_dir=folder, progress=False)


def test_thirty_steps_lower_the_error_at_both_scales():
    transformer = tiny_flux()
    adapter = new_adapter(transformer)
    data = [(smooth_latents(8, side=16), conditions(8))]
    sigmas = [0.1, 0.5, 0.9]
    before = {s: evaluate_coarse_error(transformer, adapter, data, s, sigmas) for s in (2, 4)}
    result = run(transformer, adapter, batches=data, steps=30)
    assert result.steps == 30 and not adapter.training
    for scale in (2, 4):
        after = evaluate_coarse_error(transformer, adapter, data, scale, sigmas)
        assert all(after[sigma] < 0.95 * before[scale][sigma] for sigma in sigmas)


def test_the_base_is_as_before():
    transformer = tiny_flux().train()
    transformer.x_embedder.weight.requires_grad_(False)
    wanted = {name: (value.clone(), value.requires_grad) for name, value in transformer.named_parameters()}
    run(transformer, new_adapter(transformer), steps=2)
    assert transformer.training
    for name, value in transformer.named_parameters():
        assert torch.equal(value, wanted[name][0]) and value.requires_grad == wanted[name][1]
        assert value.grad is None


@pytest.mark.parametrize(
    "choices",
    [
        {"normalise": "level"},
        {"scale_shares": {2: 2, 4: 1}},
        {"share_teacher": False, "noise_range": {4: (0.7, 1.0)}},
    ],
)
def test_a_resumed_run_continues_bit_for_bit(tmp_path, choices):
    transformer = tiny_flux()
    settings = {"steps": 12} | choices
    through = run(transformer, new_adapter(transformer), tmp_path / "through", **settings)

    def until_killed(step):
        if step == 8:
            raise KeyboardInterrupt
        return training_batch(step)

    with pytest.raises(KeyboardInterrupt):
        run(transformer, new_adapter(transformer), tmp_path / "cut", until_killed, **settings)
    torch.manual_seed(123)  # a new process starts with other generators
    resumed = run(transformer, new_adapter(transformer, seed=9), tmp_path / "cut", **settings)
    for a, b in zip(through.adapter.parameters(), resumed.adapter.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [line["step"] for line in resumed.log] == [4, 8, 12]
    stored = [Adapter.load(tmp_path / name / "adapter", transformer) for name in ("through", "cut")]
    for a, b, c in zip(through.adapter.parameters(), *(s.parameters() for s in stored), strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


def test_an_iterable_is_read_past_what_was_done(tmp_path):
    transformer = tiny_flux()
    data = [training_batch(index) for index in range(3)]
    through = run(transformer, new_adapter(transformer), steps=6, schedule="constant", batches=data)
    run(transformer, new_adapter(transformer), tmp_path, data, steps=4, schedule="constant")
    resumed = run(
        transformer, new_adapter(transformer), tmp_path, iter(data * 2), steps=6, schedule="constant"
    )
    for a, b in zip(through.adapter.parameters(), resumed.adapter.parameters(), strict=True):
        assert torch.equal(a, b)


def test_batches_with_a_graph_train_as_without():
    """Latents and text embeddings may come straight from encoders that were not run under no_grad."""
    transformer, adapters = tiny_flux(), []
    for graph in (False, True):
        latents, text = training_batch(0)
        scale = torch.ones((), requires_grad=graph)
        data = [(latents * scale, {name: value * scale for name, value in text.items()})]
        adapters.append(run(transformer, new_adapter(transformer), batches=data, steps=2).adapter)
    for a, b in zip(*(adapter.parameters() for adapter in adapters), strict=True):
        assert torch.equal(a, b)


def test_an_exhausted_iterator_is_named_and_the_work_kept(tmp_path):
    transformer = tiny_flux()
    data = iter([training_batch(0), training_batch(1)])
    with pytest.raises(ValueError, match="batches ended after 2 of 6 steps"):
        run(transformer, new_adapter(transformer), tmp_path, data, steps=6)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000002.safetensors"]


@pytest.mark.parametrize("normalise", ["teacher", "level"])
def test_a_loss_that_is_not_finite_stops_with_the_work_saved(tmp_path, normalise):
    transformer = tiny_flux()

    def batches(step):
        latents, text = training_batch(step)
        return (latents * float("nan") if step == 3 else latents), text

    with pytest.raises(TrainingDiverged, match=f"loss is nan at step 3, scale 4.*{tmp_path}"):
        run(transformer, new_adapter(transformer), tmp_path, batches, steps=6, normalise=normalise)
    done = run(transformer, new_adapter(transformer), tmp_path, steps=6, normalise=normalise)
    assert done.steps == 6
    straight = run(transformer, new_adapter(transformer), steps=6, normalise=normalise)
    for a, b in zip(done.adapter.parameters(), straight.adapter.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("normalise", ["teacher", "level", "none"])
def test_a_step_is_the_same_however_its_samples_are_split(normalise):
    transformer = tiny_flux()
    latents, text = smooth_latents(16), conditions(16)

    def batches_of(size):
        rows = [slice(start, start + size) for start in range(0, 16, size)]
        return [(latents[row], {name: value[row] for name, value in text.items()}) for row in rows]

    settings = {"steps": 4, "log_every": 1, "normalise": normalise}
    whole = run(transformer, new_adapter(transformer), batches=batches_of(4), **settings)
    split = run(transformer, new_adapter(transformer), batches=batches_of(1), accumulate=4, **settings)
    for one, other in zip(whole.log, split.log, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        for scale, entry in other["scales"].items():
            assert entry["levels"] == pytest.approx(one["scales"][scale]["levels"], rel=1e-5)


def test_errors_are_divided_by_the_mean_of_their_level_before_the_step():
    """And by themselves in the first step of a level."""
    transformer, config = tiny_flux(), DistillConfig(normalise="level")
    trainer = Trainer(transformer, new_adapter(transformer), config, None, Processes(), None, None)
    sigma, power = torch.tensor([0.15, 0.18, 0.95]), torch.ones(3)

    def divisors(scale, error):
        return trainer._normaliser(scale, sigma, power, torch.tensor(error)).tolist()

    def move(*errors):
        squared = [torch.tensor(portion) for portion in errors]
        levels = list(sigma.split([len(portion) for portion in errors]))
        trainer._move_means(4, Progress(3, torch.zeros(()), levels, squared, []))

    assert divisors(4, [4.0, 5.0, 6.0]) == [4.0, 5.0, 6.0]
    move([1.0], [3.0, 8.0])
    assert divisors(4, [4.0, 5.0, 6.0]) == [2.0, 2.0, 8.0]
    assert divisors(2, [4.0, 5.0, 6.0]) == [4.0, 5.0, 6.0]
    move([4.0, 6.0, 8.0])
    assert divisors(4, [4.0, 5.0, 6.0]) == pytest.approx([2 + 3 * (1 - 0.98**2)] * 2 + [8.0])


def test_gradient_checkpointing_trains_the_same():
    results = []
    for checkpointed in (False, True):
        transformer = tiny_flux()
        if checkpointed:
            transformer.enable_gradient_checkpointing()
        results.append(run(transformer, new_adapter(transformer), steps=4).adapter)
    for a, b in zip(*(adapter.parameters() for adapter in results), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_autocast_trains_float32_weights():
    transformer = tiny_flux()
    result = run(transformer, new_adapter(transformer), steps=4, autocast="bfloat16")
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in result.adapter.parameters())


@pytest.mark.parametrize("share_teacher", [True, False])
def test_each_scale_keeps_to_its_noise_range(share_teacher):
    transformer = tiny_flux()
    ranges = {4: (0.7, 1.0), 2: (0.3, 0.6)}
    result = run(
        transformer, new_adapter(transformer), steps=8, noise_range=ranges, share_teacher=share_teacher
    )
    levels = {"2": set(), "4": set()}
    for line in result.log:
        for scale, entry in line["scales"].items():
            levels[scale] |= set(entry["levels"])
    assert levels["4"] <= {"0.7", "0.8", "0.9"} and levels["2"] <= {"0.3", "0.4", "0.5"}


def test_the_log_is_a_json_object_a_line(tmp_path):
    transformer = tiny_flux()
    result = run(transformer, new_adapter(transformer), tmp_path, steps=8)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == result.log
    assert [line["step"] for line in lines] == [4, 8]
    assert lines[0].keys() == {"step", "loss", "lr", "grad_norm", "seconds", "scales"}
    assert lines[0]["scales"].keys() == {"2", "4"}
    record = json.loads((tmp_path / "adapter" / "adapter.json").read_text())["training"]["distill"]
    assert record["steps"] == 8 and record["config"]["lr"] == 3e-3


def test_a_foreign_or_damaged_checkpoint_is_rejected(tmp_path):
    transformer = tiny_flux()
    run(transformer, new_adapter(transformer), tmp_path, steps=2)
    with pytest.raises(AdapterError, match="belongs to another adapter"):
        run(transformer, Adapter.create(transformer, rank=3), tmp_path, steps=4)
    (path,) = checkpoints(tmp_path)
    path.write_bytes(path.read_bytes()[:-10])
    adapter = new_adapter(transformer)
    wanted = [parameter.clone() for parameter in adapter.parameters()]
    with (
        pytest.warns(UserWarning, match=f"{path.name} is not a readable checkpoint"),
        pytest.raises(AdapterError, match=f"{path.name} is not a readable checkpoint"),
    ):
        run(transformer, adapter, tmp_path, steps=4)
    assert all(torch.equal(a, b) for a, b in zip(adapter.parameters(), wanted, strict=True))


def test_packed_and_image_latents_are_the_same_call():
    latents = smooth_latents(2, side=6)
    call_arguments = FluxFamily(tiny_flux()).training_call
    image = call_arguments(latents, conditions(2))
    packed = call_arguments(image["hidden_states"], conditions(2) | {"img_ids": image["img_ids"]})
    assert torch.equal(image["hidden_states"], packed["hidden_states"])
    assert image["hidden_states"][0, 1].view(4, 2, 2)[3].equal(latents[0, 3, 0:2, 2:4])
    assert image["img_ids"][4].tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="even sides"):
        call_arguments(torch.zeros(1, 4, 5, 6), conditions(1))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_noise_levels_are_stratified_and_shifted(shift):
    sigma = draw_sigma(1000, 0.3, 0.9, shift, torch.Generator().manual_seed(0))
    assert sigma.min() >= 0.3 and sigma.max() <= 0.9
    uniform = sigma / (shift - (shift - 1) * sigma)
    low, high = 0.3 / (shift - (shift - 1) * 0.3), 0.9 / (shift - (shift - 1) * 0.9)
    counts = torch.histc((uniform - low) / (high - low), bins=10, min=0, max=1)
    assert (counts - 100).abs().max() <= 1


def test_condition_latents_reach_the_model_without_noise():
    transformer = tiny_flux(channels=2, condition_channels=3)

    def batches(step):
        extra = {"condition_latents": torch.ones(2, 16, 12)}
        return smooth_latents(2, channels=2, seed=step), conditions(2, seed=step) | extra

    assert run(transformer, new_adapter(transformer), batches=batches, steps=2).steps == 2


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"schedule": "linear"}, "schedule must be"),
        ({"normalise": "sigma"}, "normalise must be"),
        ({"autocast": "fp8"}, "autocast must be"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\), got 1.0"),
        ({"noise_range": {2: (0.9, 0.3)}}, r"noise_range\[2\] must be \(low, high\)"),
    ],
)
def test_a_config_refuses_what_it_does_not_know(change, text):
    with pytest.raises(ValueError, match=text):
        DistillConfig(**change)


def test_scales_that_the_adapter_lacks_are_named():
    transformer = tiny_flux()
    with pytest.raises(ValueError, match=r"must name the adapter's scales \(2, 4\), got \[8\]"):
        run(transformer, new_adapter(transformer), steps=1, noise_range={8: (0.5, 1.0)})


def test_evaluation_needs_a_batch_of_clean_latents():
    transformer = tiny_flux()
    with pytest.raises(ValueError, match="at least one batch"):
        evaluate_coarse_error(transformer, Adapter.training_free(transformer), [], 2, [0.5])
    noisy = [(smooth_latents(2), conditions(2) | {"noise_level": torch.full((2,), 0.5)})]
    with pytest.raises(ValueError, match="clean latents.* got some with noise_level"):
        evaluate_coarse_error(transformer, Adapter.training_free(transformer), noisy, 2, [0.5])
