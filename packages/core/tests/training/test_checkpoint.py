from __future__ import annotations

import pickle
import shutil

import pytest
import torch

from polymask import RunConfig, UserError
from polymask.run import Run, read_checkpoint
from polymask.training import fit, read_metrics
from polymask.training.checkpoint import AtomicIO

CONFIG = {
    "system": "t/toy",
    "masking": "core/random",
    "data": "t/sequences",
    "steps": 2,
    "batch_size": 8,
    "precision": "32",
    "accelerator": "cpu",
    "workers": 0,
}


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    toy.train(folder, steps=6, checkpoint_every=2)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def last(folder):
    return folder / "checkpoints" / "last.ckpt"


def refused(toy, folder, **changed):
    """What resuming says, nothing having been touched."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        toy.train(folder, resume=True, **{"steps": 6, **changed})
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return str(caught.value)


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicIO().save_checkpoint({"x": torch.ones(3)}, path)
    whole = path.read_bytes()
    # every byte written to this device fails for want of room
    (path.parent / ".last.ckpt.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left on device.*the previous checkpoint is whole"):
        AtomicIO().save_checkpoint({"x": torch.zeros(3_000_000)}, path)
    assert path.read_bytes() == whole
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


def test_full_disk_ends_a_run_in_one_message(toy, tmp_path, monkeypatch):
    """Room runs out at the third checkpoint; with room again, the run goes on to the same end."""
    whole = toy.train(tmp_path / "whole", steps=6, checkpoint_every=2)
    sizes = iter([2**30, 2**30, 1000])
    save = torch.save

    def limited(checkpoint, file):
        room = next(sizes)
        write = file.write
        file = open(file.name, "wb")  # noqa: SIM115

        class Disk:
            def __getattr__(self, name):
                return getattr(file, name)

            def write(self, data):
                nonlocal room
                room -= len(data)
                if room < 0:
                    raise OSError(28, "No space left on device")
                return write(data)

        save(checkpoint, Disk())

    monkeypatch.setattr("polymask.training.checkpoint.torch.save", limited)
    with pytest.raises(UserError, match="No space left on device.*Make room, then --resume"):
        toy.train(tmp_path / "full", steps=6, checkpoint_every=2)
    monkeypatch.undo()
    assert read_checkpoint(last(tmp_path / "full"))["global_step"] == 2
    resumed = toy.train(tmp_path / "full", steps=6, checkpoint_every=2, resume=True)
    for one, two in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("keep", [0, 100, 0.5, -1])
def test_truncated(toy, run, keep):
    content = last(run).read_bytes()
    last(run).write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    assert "is damaged or none at all" in refused(toy, run)


def test_pickled_code_is_not_run(toy, run, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    torch.save({"polymask": {}, "state_dict": {}, "x": Evil()}, last(run))
    assert "is damaged or none at all" in refused(toy, run)
    last(run).write_bytes(pickle.dumps(Evil()))
    assert "is damaged or none at all" in refused(toy, run)
    assert not (tmp_path / "touched").exists()


def test_a_checkpoint_of_somebody_else(toy, run):
    torch.save({"state_dict": {}}, last(run))
    assert "not one of polymask's" in refused(toy, run)


def test_of_another_system(toy, run):
    message = refused(toy, run, system=toy.Toy(width=16))
    assert "of another system (Toy)" in message
    assert "block.linear1.weight [16, 8] in the checkpoint, [16, 16] in the system" in message

    class Other(toy.Toy):
        def __init__(self):
            super().__init__()
            del self.head
            self.tail = torch.nn.Linear(8, 4)

    message = refused(toy, run, system=Other())
    assert "head.bias only in the checkpoint" in message
    assert "tail.weight only in the system" in message


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"steps": 9}, "steps: 6 then, 9 now"),
        ({"batch_size": 8}, "batch_size: 16 then, 8 now"),
        ({"seed": 3}, "seed: 0 then, 3 now"),
        ({"lr": 0.5}, "lr: 0.01 then, 0.5 now"),
        ({"clip": 1.0}, "clip: None then, 1.0 now"),
        ({"precision": "bf16-mixed"}, "precision: 32 then, bf16-mixed now"),
    ],
)
def test_of_other_options(toy, run, changed, said):
    message = refused(toy, run, **changed)
    assert said in message
    assert message.count("\n  ") == 1
    assert "to resume is to go on with the same run" in message


def test_of_other_data(toy, run):
    assert "samples: 50 then, 40 now" in refused(toy, run, data=toy.Data(n=40))


def test_of_other_parts(registry, tmp_path):
    def run(ratio):
        return Run.create(RunConfig.resolve({**CONFIG, "masking.ratio": ratio}, registry=registry), tmp_path)

    fit(run(0.75), progress=False)
    with pytest.raises(UserError, match=r"masking.ratio: 0.75 then, 0.5 now"):
        fit(run(0.5), resume=True)


def test_what_does_not_change_the_run_may_change(toy, tmp_path):
    class Stop(toy.pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            trainer.should_stop = trainer.global_step == 4

    toy.train(tmp_path, checkpoint_every=4, callbacks=[Stop()])
    assert read_checkpoint(last(tmp_path))["global_step"] == 4
    toy.train(tmp_path, checkpoint_every=5, workers=1, accumulate=2, log_every=2, resume=True)
    assert read_checkpoint(last(tmp_path))["global_step"] == 12


def test_an_existing_run_is_not_overwritten(toy, run):
    with pytest.raises(UserError, match="holds a run already, at step 6 of 6: go on with --resume"):
        toy.train(run)
    last(run).unlink()
    with pytest.raises(UserError, match="holds a run already, without a whole checkpoint"):
        toy.train(run)


def test_a_finished_run_resumes_to_its_end(toy, run):
    fresh = toy.Toy(seed=9)
    rows = (run / "metrics.csv").read_text()
    result = fit(Run(run, fresh, toy.Data(), toy.options(steps=6, checkpoint_every=2)), resume=True)
    assert (result.step, result.metrics["step"]) == (6, 6)
    assert (run / "metrics.csv").read_text() == rows
    saved = read_checkpoint(last(run))["state_dict"]
    assert all(torch.equal(saved[f"system.{name}"], value) for name, value in fresh.state_dict().items())


def test_nothing_to_resume(toy, tmp_path):
    with pytest.raises(UserError, match="holds no run to resume"):
        toy.train(tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_a_run_killed_before_its_first_checkpoint_begins_anew(toy, run):
    shutil.rmtree(run / "checkpoints")
    toy.train(run, steps=6, checkpoint_every=2, resume=True)
    assert [row["step"] for row in read_metrics(run / "metrics.csv")] == [4, 6]


def test_a_folder_that_cannot_be_written(toy, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        toy.train(tmp_path / "file" / "run")
