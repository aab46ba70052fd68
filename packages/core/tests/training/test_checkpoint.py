from __future__ import annotations

import itertools
import os
import pickle
import shutil

import lightning.pytorch as pl
import pytest
import torch

from polymask import RunConfig, UserError
from polymask.checkpoints import read_checkpoint
from polymask.data import FileDataset, Splits, whole
from polymask.run import Run
from polymask.training import fit, read_metrics
from polymask.training.digest import changes, digest

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


def test_full_disk_ends_a_run_in_one_message(toy, tmp_path, monkeypatch):
    """Room runs out at the third checkpoint; with room again, the run goes on to the same end."""
    whole = toy.train(tmp_path / "whole", steps=6, checkpoint_every=2)
    sizes = itertools.chain([2**30, 2**30], itertools.repeat(1000))
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

    monkeypatch.setattr("torch.save", limited)
    with pytest.raises(UserError, match="No space left on device; make room") as caught:
        toy.train(tmp_path / "full", steps=6, checkpoint_every=2)
    (note,) = caught.value.__notes__
    assert note.startswith(f"step 2 of 6 is saved, in {last(tmp_path / 'full')}: go on with --resume")
    assert "the steps from there to 4 are lost" in note
    monkeypatch.undo()
    assert read_checkpoint(last(tmp_path / "full"))["global_step"] == 2
    resumed = toy.train(tmp_path / "full", steps=6, checkpoint_every=2, resume=True)
    for one, two in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_a_disk_that_is_full_from_the_start_saves_nothing_and_does_not_claim_to(toy, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(UserError, match="No space left on device; make room") as caught:
        toy.train(tmp_path / "run", steps=6)
    assert not getattr(caught.value, "__notes__", [])


def test_what_a_callback_stops_between_two_checkpoints_is_saved(toy, tmp_path, capsys):
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = trainer.global_step == 3

    whole = toy.train(tmp_path / "whole", steps=6, checkpoint_every=6)
    toy.train(tmp_path / "run", steps=6, checkpoint_every=6, callbacks=[Stop()])
    assert read_checkpoint(last(tmp_path / "run"))["global_step"] == 3
    assert "stopped at step 3 of 6, saved" in capsys.readouterr().err
    resumed = toy.train(tmp_path / "run", steps=6, checkpoint_every=6, resume=True)
    for one, two in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("keep", [0, 100, 0.5, -1])
def test_truncated(toy, run, keep):
    content = last(run).read_bytes()
    last(run).write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    said = refused(toy, run)
    assert "is damaged or none at all: put back a copy" in said and "torch" not in said


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


def stop_at(toy, step):
    class Stop(toy.pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            trainer.should_stop = trainer.global_step == step

    return Stop()


def test_of_other_data(toy, run):
    assert "samples: 50 then, 40 now" in refused(toy, run, data=toy.Data(n=40))


def test_options_that_are_no_more(toy, run):
    """A value that the checkpoint has and the run lacks, as when its part gave an option up."""
    checkpoint = torch.load(last(run), weights_only=True)
    checkpoint["polymask"]["run"]["gone"] = 3
    torch.save(checkpoint, last(run))
    assert "gone: 3 then, not set now" in refused(toy, run)


def changed(toy, what):
    data = toy.Data()
    if what == "contents":
        data.x[5:] += 1
    elif what == "lengths":
        data.lengths = lambda name: torch.full((50,), 6)
    else:
        data.classes = ["a", "b"]
        if what == "labels":
            data.labels = lambda name: torch.arange(50) % 2
    return data


@pytest.mark.parametrize("what", ["contents", "classes"])
def test_of_changed_data(toy, run, what):
    message = refused(toy, run, data=changed(toy, what))
    assert "is not what this run was begun with" in message and "--data_changed" in message
    assert what in message
    toy.train(run, resume=True, steps=6, data=changed(toy, what), data_changed=True)


def test_going_on_with_other_data(toy, tmp_path):
    """Fewer samples, explicitly; from then on they are the run's own."""
    toy.train(tmp_path, checkpoint_every=4, callbacks=[stop_at(toy, 4)])
    assert "samples: 50 then, 40 now" in refused(toy, tmp_path, steps=12, data=toy.Data(n=40))
    fewer = {"data": toy.Data(n=40), "data_changed": True, "resume": True}
    toy.train(tmp_path, checkpoint_every=4, callbacks=[stop_at(toy, 8)], **fewer)
    toy.train(tmp_path, data=toy.Data(n=40), resume=True)
    assert read_checkpoint(last(tmp_path))["global_step"] == 12


def test_files_are_told_apart_by_name_and_size(tmp_path):
    class Data(FileDataset):
        what, provides, key = "files", {}, "x"

        def read(self, source, number, augment):
            return {"x": torch.rand(3)}  # reads no sample twice alike

    class Files:
        root = tmp_path

        def __init__(self, names):
            self.names = names

        def __len__(self):
            return len(self.names)

        def name(self, index):
            return self.names[index]

    def found(names):
        split = whole(Files(names))
        return digest(Data(Splits(train=split, test=split)))

    for name in "abc":
        (tmp_path / name).write_text("")
    before = found(["a", "b"])
    assert changes(before, found(["a", "b"])) == []
    assert changes(before, found(["a", "c"])) == ["names are not the same"]
    (tmp_path / "b").write_text("longer")
    assert changes(before, found(["a", "b"])) == ["sizes are not the same"]


def test_of_other_parts(registry, tmp_path):
    def run(ratio):
        return Run.create(RunConfig.resolve({**CONFIG, "masking.ratio": ratio}, registry=registry), tmp_path)

    fit(run(0.75), progress=False)
    with pytest.raises(UserError, match=r"masking.ratio: 0.75 then, 0.5 now"):
        fit(run(0.5), resume=True)


def test_what_does_not_change_the_run_may_change(toy, tmp_path):
    toy.train(tmp_path, checkpoint_every=4, callbacks=[stop_at(toy, 4)])
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


def test_a_folder_of_somebody_else_is_not_written(toy, tmp_path):
    (tmp_path / "metrics.csv").write_text("mine")
    with pytest.raises(UserError, match=r"holds something else than a run \(metrics.csv\): give another"):
        toy.train(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    assert (tmp_path / "metrics.csv").read_text() == "mine"


def test_a_run_has_one_writer(toy, run, launch):
    """It is refused while it is trained, and free when the process that trained it was killed."""
    shutil.rmtree(run)

    class Second(toy.pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == 4:
                holder = (run / ".lock").read_text()
                assert holder.startswith(f"process {os.getpid()} on ")
                # another process, since a lock is its process's own
                assert launch(run, resume=True, steps=6) == [2]

    toy.train(run, steps=6, callbacks=[Second()])
    assert [row["step"] for row in read_metrics(run / "metrics.csv")] == [4, 6]
    assert not (run / ".lock").exists()


@pytest.mark.parametrize("content", [None, b"", b"{}", b"system: [", b"\xff"])
def test_a_run_opens_without_its_configuration(registry, tmp_path, content):
    run = Run.create(RunConfig.resolve(CONFIG, registry=registry), tmp_path)
    fit(run, progress=False)
    path = tmp_path / "config.yaml"
    before = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"config.yaml was missing or damaged"):
        opened = Run.open(tmp_path, registry=registry)
    assert opened.step == 2 and path.read_bytes() == before
    path.unlink()
    with pytest.warns(UserWarning, match=r"config.yaml was missing or damaged"):
        fit(Run.create(run.config, tmp_path), resume=True, progress=False)
    assert path.read_bytes() == before


def test_a_failure_between_steps_saves_them(toy, tmp_path):
    """Nobody can write metrics.csv any more: the steps done are saved, and it is said."""

    class Vanish(toy.pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == 7:
                shutil.rmtree(tmp_path / "run")

    whole = toy.train(tmp_path / "whole")
    with pytest.raises(UserError, match=r"metrics.csv cannot be written: No such file.*deleted\?") as caught:
        toy.train(tmp_path / "run", checkpoint_every=12, callbacks=[Vanish()])
    assert caught.value.__notes__ == [
        f"step 8 of 12 is saved, in {last(tmp_path / 'run')}: go on with --resume"
    ]
    resumed = toy.train(tmp_path / "run", resume=True)
    for one, two in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_another_run_moved_to_the_place_of_one_is_left_as_it_is(toy, tmp_path):
    """Rows and checkpoints of the one that trains go nowhere, and it is said."""
    run, other = tmp_path / "run", tmp_path / "other"

    class Move(toy.pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == 7:
                run.rename(tmp_path / "moved")
                shutil.copytree(other, run)

    toy.train(other, steps=5)
    for options in ({"checkpoint_every": 12}, {"checkpoint_every": 8, "log_every": 12}):
        with pytest.raises(UserError, match="was another run moved to its place") as caught:
            toy.train(run, **options, callbacks=[Move()])
        (note,) = caught.value.__notes__
        assert note.endswith(f"the steps from there to {8} are lost")
        for path in other.rglob("*.c*"):
            assert (run / path.relative_to(other)).read_bytes() == path.read_bytes()
        shutil.rmtree(run), shutil.rmtree(tmp_path / "moved")


def test_a_failure_within_a_step_tells_what_is_lost(toy, tmp_path):
    class Broken(toy.Toy):
        def forward(self, batch, step):
            if step.index == 7:
                raise MemoryError("none left")
            return super().forward(batch, step)

    with pytest.raises(MemoryError) as caught:
        toy.train(tmp_path, system=Broken(), checkpoint_every=5)
    assert "step 5 of 12 is saved" in caught.value.__notes__[0]
    assert "the steps from there to 7 are lost" in caught.value.__notes__[0]
    assert read_checkpoint(last(tmp_path))["global_step"] == 5


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
