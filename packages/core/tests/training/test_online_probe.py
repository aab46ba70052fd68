"""Probes of an encoder on the way: what they find, and that they change nothing."""

from __future__ import annotations

import pytest
import torch

from polymask import UserError
from polymask.evaluation.classifiers import knn, linear
from polymask.training.metrics import read_metrics


def labelled(toy):
    """The toy's data with two classes that overlap: the sign of what is added to them."""

    class Labelled(toy.Data):
        def __init__(self):
            super().__init__(n=60)
            self.y = torch.arange(60) % 2
            self.x += 0.2 * (2 * self.y - 1)[:, None, None]

        def labels(self, name):
            return self.y

    return Labelled()


def test_rows_hold_the_accuracy_of_that_step(toy, tmp_path):
    data = labelled(toy)
    toy.train(tmp_path / "whole", data=data, steps=10, log_every=4, probe_every=5)
    rows = read_metrics(tmp_path / "whole" / "metrics.csv")
    assert [row["step"] for row in rows] == [4, 5, 8, 10]
    assert [row["step"] for row in rows if "kNN" in row] == [5, 10]
    # training and test samples are the same ones here, without augmentation
    end = toy.train(tmp_path / "again", data=data, steps=10, log_every=4).eval()
    features = end.encode({"x": data.x}).pool().detach()
    for method, classify in (("kNN", knn), ("linear", linear)):
        right = classify(features, data.y, features).predicted == data.y
        assert 0.5 < rows[-1][method] < 1
        assert rows[-1][method] == pytest.approx(float(right.float().mean()))


def test_probing_changes_nothing(toy, tmp_path):
    data = labelled(toy)
    often = toy.train(tmp_path / "often", data=data, steps=12, probe_every=1)
    never = toy.train(tmp_path / "never", data=data, steps=12)
    for one, two in zip(often.state_dict().values(), never.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    assert often.training


def test_without_labels_nothing_is_trained(toy, tmp_path):
    with pytest.raises(UserError, match="needs labels"):
        toy.train(tmp_path / "run", probe_every=5)
    assert not (tmp_path / "run").exists()
