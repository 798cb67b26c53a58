"""Checkpoints: the last few are kept, a damaged one is named and passed over, a full disk loses nothing."""

import json
import os
import resource
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from tiny_flux import tiny_flux, training_batch

from ddit_ext._files import replace_file, replace_text
from ddit_ext.coarse import Adapter, AdapterError
from ddit_ext.training import DistillConfig, SaveFailed, TrainingDiverged, distill
from ddit_ext.training.checkpoint import checkpoints

SETTINGS = {"lr": 3e-3, "warmup": 2, "log_every": 1, "checkpoint_every": 1, "ema": 0.9}


def run(folder, batches=training_batch, transformer=None, resume=True, **changes):
    transformer = transformer or tiny_flux()
    config = DistillConfig(**(SETTINGS | changes))
    adapter = Adapter.create(transformer, rank=2)
    return distill(transformer, adapter, batches, config, out_dir=folder, progress=False, resume=resume)


@contextmanager
def largest_file(size):
    """Inside, writing beyond ``size`` bytes of a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_the_last_few_are_kept_and_a_damaged_one_is_passed_over(tmp_path):
    through = run(tmp_path / "a", steps=4, keep_checkpoints=3)
    paths = checkpoints(tmp_path / "a")
    assert [path.name for path in paths] == [f"step-0000000{step}.safetensors" for step in (4, 3, 2)]
    content = bytearray(paths[0].read_bytes())
    content[-100] ^= 1  # a number changes, the file stays readable
    paths[0].write_bytes(content)
    with pytest.warns(UserWarning, match=f"{paths[0].name} is damaged.*before it"):
        resumed = run(tmp_path / "a", steps=4)
    assert same(through.adapter, resumed.adapter)


def test_the_state_just_saved_stays_beside_a_damaged_newer_one(tmp_path):
    run(tmp_path, steps=3, keep_checkpoints=2)
    newest = checkpoints(tmp_path)[0]
    newest.write_bytes(newest.read_bytes()[:-10])
    two = iter([training_batch(0), training_batch(1)])
    with pytest.warns(UserWarning, match="step-00000003"), pytest.raises(ValueError, match="ended after 2"):
        run(tmp_path, two, steps=4, keep_checkpoints=1)
    with pytest.warns(UserWarning, match="step-00000003"):
        assert [line["step"] for line in run(tmp_path, steps=4).log] == [1, 2, 3, 4]


def test_what_an_earlier_run_has_done_is_neither_mixed_with_nor_shortened(tmp_path):
    run(tmp_path, steps=2)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    with pytest.raises(ValueError, match=f"out_dir: {tmp_path} holds checkpoints.*resume=True"):
        run(tmp_path, steps=3, resume=False)
    with pytest.raises(ValueError, match="steps must be at least 2, those done in .*, got 1"):
        run(tmp_path, steps=1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == files


def test_a_run_goes_on_with_an_average_and_in_another_precision(tmp_path):
    before = run(tmp_path, steps=2, ema=0.0)
    low = tiny_flux().to(torch.bfloat16)
    again = run(tmp_path, transformer=low, steps=2, ema=0.9, autocast="bfloat16")
    assert same(before.adapter, again.adapter)
    with pytest.raises(AdapterError, match="belongs to another adapter: .*weights of x_embedder differ by"):
        run(tmp_path, transformer=tiny_flux(seed=1), steps=3)


def test_weights_that_are_not_finite_at_the_end_are_no_result(tmp_path, monkeypatch):
    def overflow(self):
        self.param_groups[0]["params"][0].data.fill_(torch.inf)

    run(tmp_path, steps=1)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    monkeypatch.setattr(torch.optim.AdamW, "step", overflow)
    with pytest.raises(
        TrainingDiverged, match=f"not finite after step 2; what was saved before is in {tmp_path}"
    ):
        run(tmp_path, steps=2)
    with pytest.raises(TrainingDiverged, match="not finite after step 1$"):
        run(None, steps=1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")} == files


def test_two_writers_of_a_file_even_of_one_process_number(tmp_path):
    path = tmp_path / "shard"

    def write(to):
        Path(to).write_text("ours")
        replace_file(path, lambda other: Path(other).write_text("theirs"), shared=True)
        assert path.read_text() == "theirs"

    replace_file(path, write, shared=True)
    assert path.read_text() == "ours" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_replaced(tmp_path):
    (tmp_path / ".settings.json.partial").write_text("half")
    replace_text(tmp_path / "settings.json", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


def test_what_a_killed_writer_left_in_a_shared_folder_goes_after_an_hour(tmp_path, monkeypatch):
    """Whatever machine it ran on and whatever it wrote; what may still be written stays, and what is not ours."""

    def replace(text):
        replace_file(tmp_path / "step-2", lambda to: Path(to).write_text(text), shared=True)

    names = [".step-1.0123abcd.partial", ".a.76543210.partial", ".b.partial", "c.76543210.partial"]
    left, live, *others = (tmp_path / name for name in names)
    for path in (left, live, *others):
        path.write_text("half")
    for path in (left, *others):
        os.utime(path, (time.time() - 3700,) * 2)
    os.utime(live, (time.time() - 3500,) * 2)
    replace("whole")
    assert not left.exists() and live.exists() and all(path.exists() for path in others)

    def refuse(path):
        raise PermissionError

    os.utime(live, (time.time() - 3700,) * 2)
    monkeypatch.setattr(Path, "unlink", refuse)
    replace("again")
    assert (tmp_path / "step-2").read_text() == "again" and live.exists()


def test_a_full_disk_on_the_way_is_named_and_the_run_goes_on(tmp_path):
    def batches(step):
        if step == 1:
            limits.enter_context(largest_file(1000))
        if step == 3:
            limits.close()
        return training_batch(step)

    with (
        ExitStack() as limits,
        pytest.warns(UserWarning, match="step 2: checkpoint .*step-00000002.* could not be"),
    ):
        result = run(tmp_path / "a", batches, steps=5)
    assert same(result.adapter, run(tmp_path / "b", steps=5).adapter)
    lines = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert lines == result.log and [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert not list(tmp_path.rglob(".*.partial"))


def test_a_full_disk_at_the_end_is_an_error_and_the_last_checkpoint_stays(tmp_path):
    run(tmp_path, steps=2, schedule="constant")
    whole = checkpoints(tmp_path)[0].read_bytes()
    with (
        largest_file(1000),
        pytest.warns(UserWarning, match="log .*log.jsonl could not be written"),
        pytest.raises(SaveFailed, match="step-00000003.safetensors could not be written"),
    ):
        run(tmp_path, steps=3, schedule="constant")
    assert checkpoints(tmp_path)[0].read_bytes() == whole
    assert run(tmp_path, steps=3, schedule="constant").steps == 3


def test_accumulation_trains_as_one_larger_batch(tmp_path):
    def half(number):
        latents, text = training_batch(number // 2)
        part = slice(2 * (number % 2), 2 * (number % 2) + 2)
        return latents[part], {name: value[part] for name, value in text.items()}

    whole = run(tmp_path / "whole", steps=3)
    halves = run(tmp_path / "halves", half, steps=3, accumulate=2)
    for ours, theirs in zip(halves.log, whole.log, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)


def test_prodigy_resumes_bit_for_bit(tmp_path):
    pytest.importorskip("prodigyopt")
    settings = {"optimizer": "prodigy", "lr": None, "schedule": "constant", "warmup": 0}
    through = run(tmp_path / "a", steps=5, **settings)

    def until_killed(step):
        if step == 3:
            raise KeyboardInterrupt
        return training_batch(step)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", until_killed, steps=5, **settings)
    assert same(through.adapter, run(tmp_path / "b", steps=5, **settings).adapter)
    start = Adapter.create(tiny_flux(), rank=2)
    assert not same(through.adapter, start)
    with pytest.raises(AdapterError, match="belongs to another optimizer: expected AdamW, got Prodigy"):
        run(tmp_path / "a", steps=6)


def test_prodigy_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "prodigyopt", None)
    with pytest.raises(ModuleNotFoundError, match="pip install prodigyopt"):
        run(None, steps=1, optimizer="prodigy", lr=None)


def test_latents_that_are_noisy_already_are_trained_at_their_level(tmp_path):
    levels = torch.tensor([0.95, 0.75, 0.45, 0.35])

    def batches(step):
        latents, text = training_batch(step)
        return latents, text | {"noise_level": levels}

    result = run(tmp_path, batches, steps=1, noise_range={2: (0.3, 0.8), 4: (0.7, 1.0)})
    found = {scale: set(entry["levels"]) for scale, entry in result.log[0]["scales"].items()}
    assert found == {"2": {"0.3", "0.4", "0.7"}, "4": {"0.7", "0.9"}}
    nothing = run(None, batches, steps=1, noise_range={2: (0.0, 0.1), 4: (0.0, 0.1)})
    assert nothing.log[0]["scales"] == {}
    assert json.loads((tmp_path / "log.jsonl").read_text())["step"] == 1
