from __future__ import annotations

import os
import signal

import pytest
import torch

from polymask.run import read_checkpoint


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


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_the_step_is_finished_and_saved(toy, tmp_path, number, raised, capsys):
    """Told to stop between the two parts of step 5, a run saves step 6 and goes on to the same end."""
    before = signal.getsignal(number)
    with pytest.raises(raised) as caught:
        toy.train(tmp_path / "run", accumulate=2, callbacks=[Send(toy, number, parts=11)])
    if raised is SystemExit:
        assert caught.value.code == 143
    assert signal.getsignal(number) is before
    assert "stopped at step 6 of 12, saved; go on with --resume" in capsys.readouterr().err
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 6
    resumed = toy.train(tmp_path / "run", accumulate=2, resume=True)
    whole = toy.train(tmp_path / "whole", accumulate=2)
    for one, two in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_a_second_interrupt_stops_at_once(toy, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        toy.train(tmp_path, checkpoint_every=4, callbacks=[Send(toy, signal.SIGINT, parts=6, times=2)])
    signal.signal(signal.SIGINT, before)
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 4
