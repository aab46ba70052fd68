"""The probe of a run: rows, draws, refusals, and the file it leaves."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from polymask import Run, UserError
from polymask.config import TrainOptions
from polymask.evaluation import ProbeResult, evaluate, probe
from polymask.evaluation.probe import draw
from polymask.evaluation.result import RAW, TRAINED, UNTRAINED


@pytest.fixture
def run(tmp_path, monkeypatch, toy_data, toy_system):
    """A run whose pre-trained system is a copy of the input and whose untrained one is a constant."""
    data = toy_data()
    trained, untrained = toy_system(dim=8), toy_system(dim=8)
    with torch.no_grad():
        untrained.proj.weight.zero_()
    opened = SimpleNamespace(folder=tmp_path, system=trained, data=data, step=70, training=TrainOptions())
    opened.untrained = lambda: untrained

    def open_run(folder):
        assert str(folder) == str(tmp_path)
        return opened

    monkeypatch.setattr(Run, "open", open_run)
    return opened


def test_rows_are_pretrained_untrained_and_raw(run):
    result = probe(run)
    assert [(r.features, r.method, r.dim) for r in result.rows] == [
        (TRAINED, "kNN", 8),
        (TRAINED, "linear", 8),
        (UNTRAINED, "kNN", 8),
        (UNTRAINED, "linear", 8),
        (RAW, "kNN", 32),
        (RAW, "linear", 32),
    ]
    assert result.train == 90 and result.test == 60
    assert result.chance == pytest.approx(1 / 3)
    assert result.accuracy(RAW).mean > 0.9
    assert result.accuracy(UNTRAINED).mean == pytest.approx(1 / 3)
    gain = result.differences[UNTRAINED, "linear"]
    assert gain.verdict == "higher"
    expected = result.accuracy(TRAINED).mean - result.accuracy(UNTRAINED).mean
    assert gain.mean == pytest.approx(expected)


def test_probe_json_holds_the_result(run):
    result = probe(str(run.folder), raw=False, neighbours=5)
    written = json.loads((run.folder / "probe.json").read_text())
    assert ProbeResult.from_json(written) == result
    assert written["settings"]["step"] == 70 and written["settings"]["neighbours"] == 5
    assert "never stand for those of a paper" in written["caveat"]
    assert [p.name for p in run.folder.iterdir()] == ["probe.json"]


def test_probing_twice_gives_the_same(run):
    assert probe(run) == probe(run, batch_size=11)


def test_the_table_names_every_row(run):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(probe(run).table())
    text = console.export_text()
    for name in (TRAINED, UNTRAINED, RAW, "kNN", "linear", "most frequent class"):
        assert name in text


def test_data_without_labels_is_refused(run):
    run.data.labelled = False
    with pytest.raises(UserError, match="needs labels.*a class to each sample"):
        probe(run)
    assert not (run.folder / "probe.json").exists()


def test_samples_without_a_label_are_left_out(run):
    run.data._labels["train"][::2] = -1
    run.data._labels["test"][::3] = -1
    result = probe(run)
    assert (result.train, result.test) == (45, 40)
    # the classes that are left still go with the samples they belong to
    assert result.accuracy(RAW).mean > 0.9
    (pick,) = draw(run.data.labels("train"), None, 1, None, seed=0)
    assert pick.tolist() == list(range(1, 90, 2))
    run.data._labels["test"][:] = -1
    with pytest.raises(UserError, match="no test sample has one"):
        probe(run)


def test_few_labels_are_drawn_per_class(run):
    result = probe(run, labels_per_class=2, draws=3)
    assert result.train == 6 and result.settings["draws"] == 3
    assert result.accuracy(TRAINED).mean < probe(run).accuracy(TRAINED).mean


def test_draws_are_balanced_differ_and_repeat():
    labels = torch.tensor([0] * 50 + [1] * 10 + [2] * 40)
    picks = draw(labels, 4, 3, None, seed=1)
    assert [labels[p].bincount().tolist() for p in picks] == [[4, 4, 4]] * 3
    assert len({tuple(p.tolist()) for p in picks}) == 3
    again = draw(labels, 4, 3, None, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(picks, again, strict=True))
    with pytest.raises(UserError, match="choose 1 to 10"):
        draw(labels, 11, 1, None, seed=1)


def test_a_limit_draws_at_random_without_repeats():
    (pick,) = draw(torch.zeros(100).long(), None, 5, 30, seed=0)
    assert len(pick.unique()) == 30 and pick.tolist() != list(range(30))
    (everything,) = draw(torch.zeros(10).long(), None, 5, 30, seed=0)
    assert everything.tolist() == list(range(10))


def test_draws_that_differ_count_towards_the_interval():
    generator = torch.Generator().manual_seed(0)
    labels, test_labels = torch.arange(60) % 3, torch.arange(300) % 3
    centres = torch.randn(3, 4, generator=generator)
    train = centres[labels] + torch.randn(60, 4, generator=generator)
    test = centres[test_labels] + torch.randn(300, 4, generator=generator)
    picks = draw(labels, 1, 6, None, seed=0)
    many = evaluate({"x": (train, test)}, labels, test_labels, picks=picks).accuracy("x", "kNN")
    one = [evaluate({"x": (train, test)}, labels, test_labels, picks=[p]) for p in picks]
    singles = [r.accuracy("x", "kNN").mean for r in one]
    assert many.mean == pytest.approx(sum(singles) / 6)
    assert many.error > torch.tensor(singles).std() / 6**0.5 * 0.99


def test_blocks_that_cannot_be_read_are_refused(run):
    with pytest.raises(UserError, match="cannot be read"):
        probe(run, layers=True)


def test_classes_that_training_lacks_are_named(run):
    train = run.data._labels["train"]
    run.data._labels["train"] = torch.where(train == 2, -1, train)
    with pytest.warns(UserWarning, match=r"20 of 60 test samples are of classes without .* \(c\)"):
        probe(run)


@pytest.mark.parametrize(
    "labels",
    [torch.arange(5) % 3, torch.arange(90) % 4, (torch.arange(90) % 3).float(), torch.zeros(90, 1).long()],
)
def test_labels_that_are_none_of_the_samples_classes_are_refused(run, labels):
    run.data._labels["train"] = labels
    with pytest.raises(UserError, match="the train split has 90 samples of 3 classes, and labels"):
        probe(run)
    assert not (run.folder / "probe.json").exists()


def test_a_result_without_rows_is_none(run):
    found = probe(run).to_json()
    with pytest.raises(ValueError, match="no rows"):
        ProbeResult.from_json({**found, "rows": []})
