from __future__ import annotations

import os
import warnings
from types import SimpleNamespace

import pytest
import torch

from polymask.training.metrics import MetricsFile, read_metrics


def test_rows_after_the_checkpoint_are_taken_back(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n4,1.5\n8,1.25\n12,1.125\n16,1.0")  # the last line was not finished
    assert [row["step"] for row in read_metrics(path)] == [4, 8, 12]
    file = MetricsFile(path, keep=8)
    assert path.read_text() == "step,loss\n4,1.5\n8,1.25\n"
    file.log_metrics({"loss": 0.5}, 12)
    assert path.read_text() == "step,loss\n4,1.5\n8,1.25\n12,0.5\n"


@pytest.mark.parametrize("line", [b"8,x", b"8", b"8,1,2", b",1", b"\xff\x00", b"", b'"'])
def test_a_damaged_line_does_not_keep_a_run_from_going_on(tmp_path, line):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"step,loss\n4,1.5\n" + line + b"\n12,1.125\n")
    with pytest.warns(UserWarning, match=r"metrics.csv: 1 lines cannot be read and are left out"):
        assert [row["step"] for row in read_metrics(path)] == [4, 12]
    MetricsFile(path, keep=12)
    assert path.read_text() == "step,loss\n4,1.5\n12,1.125\n"
    assert line in (tmp_path / "metrics.damaged.csv").read_bytes()


def test_a_damaged_header_is_kept_aside(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"\x00\x00\n4,1.5\n")
    MetricsFile(path, keep=12)
    assert path.read_text() == "" and (tmp_path / "metrics.damaged.csv").read_bytes() == b"\x00\x00\n4,1.5\n"


def test_rows_are_on_the_disk_before_a_checkpoint_counts_on_them(toy, tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def note(handle):
        synced.append(os.stat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)
    toy.train(tmp_path, steps=4)
    metrics, checkpoint = (
        os.stat(tmp_path / name).st_ino for name in ("metrics.csv", "checkpoints/last.ckpt")
    )
    synced.reverse()  # numbers are given again to new files
    assert synced[synced.index(checkpoint) + 1] == metrics


def test_a_new_column_widens_the_file(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv")
    file.log_metrics({"loss": 1.0}, 1)
    file.log_metrics({"loss": 0.5, "extra": 2.0}, 2)
    file.log_metrics({"loss": 0.25}, 3)
    assert file.path.read_text() == "step,loss,extra\n1,1.0,\n2,0.5,2.0\n3,0.25,\n"
    assert read_metrics(file.path)[0] == {"step": 1, "loss": 1.0}
    assert read_metrics(file.path)[1] == {"step": 2, "loss": 0.5, "extra": 2.0}


def test_numbers_survive_the_file(tmp_path):
    file = MetricsFile(tmp_path / "metrics.csv")
    value = float(torch.rand(()) / 3)
    file.log_metrics({"loss": value}, 1)
    assert read_metrics(file.path)[0]["loss"] == value


def test_rows_are_means_over_steps_and_parts(toy, tmp_path):
    """Every fourth row of steps of a run that writes each is the row of one that writes each fourth."""
    data = toy.Data(augment=False)
    toy.train(tmp_path / "1", data=data, steps=10, accumulate=2, log_every=1)
    toy.train(tmp_path / "4", data=data, steps=10, accumulate=2, log_every=4)
    fine, coarse = (read_metrics(tmp_path / name / "metrics.csv") for name in "14")
    assert [row["step"] for row in coarse] == [4, 8, 10]  # the end has a row of its own
    for row, (first, last) in zip(coarse, [(0, 4), (4, 8), (8, 10)], strict=True):
        for key in ("loss", "reconstruction", "latent", "grad_norm"):
            mean = sum(r[key] for r in fine[first:last]) / (last - first)
            assert row[key] == pytest.approx(mean, rel=1e-5)
        assert row["loss"] == pytest.approx(row["reconstruction"] + row["latent"], rel=1e-5)
        assert row["lr"] == fine[last - 1]["lr"]
        assert 0 <= row["data_wait"] <= 1


def test_speed_and_waiting(toy, tmp_path, monkeypatch):
    """A clock that moves one second per look, of which there are two per batch."""
    now = iter(range(10**6))
    clock = SimpleNamespace(perf_counter=lambda: float(next(now)))
    monkeypatch.setattr("polymask.training.metrics.time", clock)
    monkeypatch.setattr("polymask.training.loader.time", clock)
    toy.train(tmp_path, steps=8, log_every=4)
    for row in read_metrics(tmp_path / "metrics.csv"):
        # nine looks from row to row: one at the row itself, two at each of four batches
        assert row["samples_per_second"] == pytest.approx(4 * 16 / 9)
        assert row["data_wait"] == pytest.approx(4 / 9)


def test_steps_that_score_nothing_are_told_once(toy, tmp_path):
    class Sparse(toy.Toy):
        def forward(self, batch, step):
            scored = float(step.index not in self.empty)
            return {name: scored * term for name, term in super().forward(batch, step).items()}

    system = Sparse()
    system.empty = (1, 2, 5)
    with pytest.warns(UserWarning, match="gradient of exactly 0") as told:
        toy.train(tmp_path / "some", system=system, steps=8, log_every=4)
    assert len(told) == 1 and str(told[0].message).startswith("2 of the last 4 steps")
    assert "idle" not in read_metrics(tmp_path / "some" / "metrics.csv")[0]


def test_a_loss_that_scores_nothing_beside_others_is_told(toy, tmp_path):
    class Half(toy.Toy):
        def forward(self, batch, step):
            return {**super().forward(batch, step), "rest": 0.0 * self.head.weight.sum()}

    with pytest.warns(UserWarning, match="^rest was exactly 0 in the last 4 steps"):
        toy.train(tmp_path / "some", system=Half(), steps=4, log_every=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        toy.train(tmp_path / "none", steps=4, log_every=4)
