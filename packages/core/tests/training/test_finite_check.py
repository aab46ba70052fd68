from __future__ import annotations

import functools
import json

import pytest
import torch

from polymask import UserError
from polymask.checkpoints import read_checkpoint
from polymask.training import Diverged, finite_check


def weights_at(folder):
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")


def report(folder, step):
    return json.loads((folder / "failed" / f"step-{step}" / "report-0.json").read_text())


def failing(toy, where):
    """A toy system in which numbers cease to be finite at step 7, in a place of choice."""

    class Failing(toy.Toy):
        def forward(self, batch, step):
            self.block.linear1.broken = where == "module" and step.index == 7
            terms = super().forward(batch, step)
            if where == "loss" and step.index == 7:
                terms["latent"] = terms["latent"] / 0
            if where == "gradient" and step.index == 7:
                zero = (self.head.weight * 0).sum()
                terms["latent"] = terms["latent"] + zero.sqrt()  # 0, with a gradient of 0 * inf
            return terms

    system = Failing()

    def look(module, inputs, output):
        return output * float("inf") if module.broken else None

    # linear1 is called as a module only in training, which is when it matters
    system.block.linear1.register_forward_hook(look)
    return system


@pytest.mark.parametrize(
    ("where", "cause"),
    [
        ("module", "output that is not finite is that of block.linear1 (Linear)"),
        ("loss", "the loss itself is at fault"),
        ("gradient", "the loss is finite, the gradient is not, from head.weight backwards"),
    ],
)
def test_run_stops_and_names_the_place(toy, tmp_path, where, cause):
    with pytest.raises(Diverged) as caught:
        toy.train(tmp_path, system=failing(toy, where), checkpoint_every=3, accumulate=2)
    message = str(caught.value)
    assert isinstance(caught.value, UserError)
    assert caught.value.step == 7
    assert "stopped at step 7" in message
    assert cause in message
    assert str(tmp_path / "failed" / "step-7") in message
    if where != "gradient":
        assert "= nan" in message or "= inf" in message
    checkpoint = weights_at(tmp_path)
    assert checkpoint["global_step"] == 6
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    batch = torch.load(tmp_path / "failed" / "step-7" / "batch-0-0.pt", weights_only=True)
    assert batch["id"].tolist() == report(tmp_path, 7)[0]["samples"]


@pytest.mark.compile
def test_a_module_within_compiled_blocks_is_named(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))

    class Failing(toy.Toy):
        def forward(self, batch, step):
            with torch.no_grad():  # finite, but not a sum of several
                self.block[1].linear1.bias.fill_(3e38 if step.index == 4 else 0.0)
            return super().forward(batch, step)

    with pytest.raises(Diverged, match=r"stopped at step 4.*that of block\.1\.linear2 \(Linear\)"):
        toy.train(tmp_path, system=Failing(depth=2), compile=True, steps=6)


def test_bad_data_is_named_by_sample(toy, tmp_path):
    data = toy.Data()
    data.x[29, 2, 1] = float("nan")
    with pytest.raises(Diverged, match=r"the data is not: 'x' of samples \[29\]") as caught:
        toy.train(tmp_path, data=data)
    step = caught.value.step
    batch = torch.load(tmp_path / "failed" / f"step-{step}" / "batch-0-0.pt", weights_only=True)
    assert batch["x"][batch["id"] == 29].isnan().any()
    assert report(tmp_path, step)[0]["batch"]["x"]["finite"] is False


def test_weights_stay_where_they_were_until_somebody_looks(toy, tmp_path, monkeypatch):
    """On a GPU one looks seldom: the optimiser leaves out the failed step and all after it."""
    monkeypatch.setattr(finite_check.FiniteCheck, "on_train_batch_end", lambda *args: None)
    good = toy.train(tmp_path / "good", steps=12, checkpoint_every=7, callbacks=[stop_at(toy, 7)])
    system = failing(toy, "module")
    with pytest.raises(Diverged, match="stopped at step 7") as caught:
        toy.train(tmp_path / "bad", system=system, checkpoint_every=12, steps=12)
    assert "block.linear1" in str(caught.value)
    for (name, one), two in zip(system.named_parameters(), good.parameters(), strict=True):
        if "teacher" not in name:  # it goes on following the student, which stands still
            assert torch.equal(one, two), name


def stop_at(toy, step):
    class Stop(toy.pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == step:
                trainer.should_stop = True

    return Stop()


def test_broken_weights_are_never_saved(toy, tmp_path):
    class Breaking(toy.Toy):
        def after_step(self, step):
            if step.index == 4:
                with torch.no_grad():
                    self.head.bias[1] = float("nan")

    with pytest.raises(Diverged, match=r"the weights themselves are not finite, first head\.bias"):
        toy.train(tmp_path, system=Breaking(), checkpoint_every=5)
    assert weights_at(tmp_path)["global_step"] == 0


def test_finite_runs_leave_no_folder(toy, tmp_path):
    toy.train(tmp_path)
    assert not (tmp_path / "failed").exists()
