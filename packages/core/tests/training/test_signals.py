from __future__ import annotations

import multiprocessing
import os
import signal

import pytest
import torch

from polymask import UserError
from polymask.checkpoints import read_checkpoint


class Send:
    """Sends this process a signal after some parts."""

    def __new__(cls, toy, number, parts, times=1):
        class Callback(toy.pl.Callback):
            left = parts

            def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
                self.left -= 1
                if self.left == 0:
                    for _ in range(times):
                        os.kill(os.getpid(), number)

        return Callback()


def test_a_command_that_goes_on_by_itself_says_so(toy, tmp_path, capsys):
    with pytest.raises(SystemExit):
        toy.train(tmp_path, callbacks=[Send(toy, signal.SIGTERM, parts=5)], resume=None)
    assert "stopped at step 6 of 12, saved; the same command goes on" in capsys.readouterr().err
    toy.train(tmp_path, resume=None)
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 12


@pytest.mark.parametrize(
    ("number", "raised"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGHUP, SystemExit)],
)
def test_the_step_is_finished_and_saved(toy, tmp_path, number, raised, capsys):
    """Told to stop between the two parts of step 5, a run saves step 6 and goes on to the same end."""
    before = signal.getsignal(number)
    with pytest.raises(raised) as caught:
        toy.train(tmp_path / "run", accumulate=2, callbacks=[Send(toy, number, parts=11)])
    if raised is SystemExit:
        assert caught.value.code == 128 + number
    assert signal.getsignal(number) is before
    assert "stopped at step 6 of 12, saved; go on with --resume" in capsys.readouterr().err
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 6
    resumed = toy.train(tmp_path / "run", accumulate=2, resume=True)
    whole = toy.train(tmp_path / "whole", accumulate=2)
    for one, two in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_nohup_is_obeyed(toy, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        toy.train(tmp_path, callbacks=[Send(toy, signal.SIGHUP, parts=3)])
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 12


class ToWorkers:
    """Sends a signal to worker processes after some parts."""

    def __new__(cls, toy, number, parts, count=None):
        class Callback(toy.pl.Callback):
            left = parts

            def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
                self.left -= 1
                if self.left == 0:
                    for worker in multiprocessing.active_children()[:count]:
                        os.kill(worker.pid, number)

        return Callback()


def test_workers_leave_it_to_the_main_process_to_stop(toy, tmp_path):
    """Signals to a group of processes reach the workers too."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    both = [ToWorkers(toy, number, parts=5) for number in numbers] + [Send(toy, signal.SIGTERM, parts=5)]
    with pytest.raises(SystemExit):
        toy.train(tmp_path / "run", workers=2, checkpoint_every=12, callbacks=both)
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 6
    toy.train(tmp_path / "run", workers=2, resume=True, callbacks=[ToWorkers(toy, signal.SIGTERM, parts=1)])


def test_a_dead_worker_costs_no_step(toy, tmp_path):
    before = signal.getsignal(signal.SIGCHLD)
    kill = ToWorkers(toy, signal.SIGKILL, parts=5, count=1)
    with pytest.raises(UserError, match=r"1 of 2 processes that read data ended by SIGKILL") as caught:
        toy.train(tmp_path / "run", steps=40, workers=2, checkpoint_every=40, callbacks=[kill])
    assert signal.getsignal(signal.SIGCHLD) == before
    step = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"]
    assert step >= 5 and f"step {step} of 40 is saved" in caught.value.__notes__[0]
    resumed = toy.train(tmp_path / "run", steps=40, workers=2, resume=True)
    whole = toy.train(tmp_path / "whole", steps=40)
    for one, two in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_what_a_worker_says_comes_without_its_traceback(toy, tmp_path):
    class Data(toy.Data):
        def split(self, name, *, augment=False):
            found = super().split(name, augment=augment)
            return Refusing(found) if augment else found

    class Refusing:
        def __init__(self, found):
            self.found = found

        def __len__(self):
            return len(self.found)

        def __getitem__(self, index):
            raise UserError("no sample\ncan be read")

    with pytest.raises(UserError) as caught:
        toy.train(tmp_path, data=Data(), workers=1)
    assert str(caught.value) == "no sample\ncan be read"


@pytest.mark.slow
def test_a_second_interrupt_stops_at_once(toy, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        toy.train(tmp_path, checkpoint_every=4, callbacks=[Send(toy, signal.SIGINT, parts=6, times=2)])
    signal.signal(signal.SIGINT, before)
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 4
