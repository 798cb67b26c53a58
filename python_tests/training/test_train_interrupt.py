"""Signals: the run ends after its step, saved, with a message and a status; it goes on as if never stopped."""

import os
import signal
import threading

import pytest
import torch
from test_train_run import config
from tiny_flux import tiny_flux, training_batch

from ddit_ext.cli import main
from ddit_ext.coarse import Adapter
from ddit_ext.training import DistillConfig, Interrupted, distill
from ddit_ext.training.checkpoint import checkpoints
from ddit_ext.training.interrupt import SIGNALS, Stop
from ddit_ext.training.trainer import Trainer

CONFIG = DistillConfig(steps=4, lr=3e-3, warmup=1, ema=0.9, checkpoint_every=50)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_run_after_its_step_and_it_goes_on(tmp_path, number):
    transformer = tiny_flux()
    handlers = {each: signal.getsignal(each) for each in SIGNALS}
    through = distill(
        transformer, Adapter.create(transformer, rank=2), training_batch, CONFIG, progress=False
    )

    def batches(step):
        if step == 1:
            send(number)
        return training_batch(step)

    new = Adapter.create(transformer, rank=2)
    text = f"stopped by {number.name} after step 2 of 4; saved in {tmp_path}, go on with --resume"
    with pytest.raises(Interrupted, match=text) as error, Stop() as stop:
        distill(transformer, new, batches, CONFIG, out_dir=tmp_path, progress=False, stop=stop)
    assert error.value.status == 128 + number
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000002.safetensors"]
    assert {each: signal.getsignal(each) for each in SIGNALS} == handlers
    new = Adapter.create(transformer, rank=2, seed=5)
    resumed = distill(transformer, new, training_batch, CONFIG, out_dir=tmp_path, progress=False)
    for a, b in zip(through.adapter.parameters(), resumed.adapter.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_second_signal_acts_at_once():
    # A shell starts what runs in its background with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), Stop() as stop:
            send(signal.SIGINT)
            assert stop.received == signal.SIGINT
            send(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_may_train():
    seen = []

    def enter():
        with Stop() as stop:
            seen.append(stop.received)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [None]


def test_the_command_says_so_and_goes_on(tmp_path, monkeypatch, capsys):
    path, step = config(tmp_path, training__checkpoint_every=50), Trainer.step

    def interrupted(self, number, batches):
        send(signal.SIGTERM)
        return step(self, number, batches)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", interrupted)
        assert main(["train", str(path)]) == 143
    assert "ddit train: stopped by SIGTERM after step 1 of 2" in capsys.readouterr().err
    assert main(["train", str(path), "--resume"]) == 0
    assert [file.name for file in checkpoints(tmp_path / "out")][0] == "step-00000002.safetensors"
