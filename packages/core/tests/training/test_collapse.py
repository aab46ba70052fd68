from __future__ import annotations

import math
import warnings

import pytest
import torch

from polymask.report import progress
from polymask.training.collapse import spread_and_rank
from polymask.training.metrics import read_metrics


def test_spread_and_rank_in_closed_form():
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    spread, rank = spread_and_rank(signs * torch.tensor([3.0, 1.0]))
    assert spread == pytest.approx(1.0)  # their mean is zero
    assert rank == pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))
    spread, rank = spread_and_rank(signs + 10)
    assert spread == pytest.approx(math.sqrt(1 / 101))
    assert rank == pytest.approx(2.0)


def test_tokens_are_averaged_and_scale_does_not_matter():
    x = torch.randn(8, 5, 3)
    assert spread_and_rank(x) == pytest.approx(spread_and_rank(1000 * x.mean(1)))


def test_equal_features_have_no_spread_and_no_rank():
    assert spread_and_rank(torch.full((8, 3), 0.7)) == pytest.approx((0.0, 0.0), abs=1e-6)
    assert spread_and_rank(torch.zeros(8, 3)) == (0.0, 0.0)


def test_features_on_a_line_have_rank_one():
    assert spread_and_rank(torch.randn(8, 1) * torch.randn(1, 5))[1] == pytest.approx(1.0, abs=1e-3)


def test_collapse_is_reported_once(toy, tmp_path):
    class Collapsing(toy.Toy):
        def encode(self, batch):
            tokens = super().encode(batch)
            tokens.values.fill_(1.0)
            return tokens

    with pytest.warns(UserWarning, match="feature_std is 0") as caught:
        toy.train(tmp_path / "bad", system=Collapsing(), steps=4, log_every=1)
    assert len([w for w in caught if "collapsed" in str(w.message)]) == 1
    row = read_metrics(tmp_path / "bad" / "metrics.csv")[-1]
    assert (row["feature_std"], row["feature_rank"]) == (0.0, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        toy.train(tmp_path / "good", steps=4, log_every=1)
    row = read_metrics(tmp_path / "good" / "metrics.csv")[-1]
    assert row["feature_std"] > 0.1
    assert row["feature_rank"] > 2


def test_latent_targets_are_measured_too(toy, tmp_path):
    class Latent(toy.Toy):
        def monitor(self, batch, step):
            assert not self.training
            return {"target": self.teacher(batch["x"])}

    toy.train(tmp_path, system=Latent(), steps=2)
    row = read_metrics(tmp_path / "metrics.csv")[-1]
    assert row["target_std"] > 0.1
    assert row["target_rank"] > 2


def test_what_a_system_says_of_itself_is_logged_and_is_no_loss(toy, tmp_path):
    class Gauged(toy.Toy):
        def monitor(self, batch, step):
            assert not self.training and not torch.is_grad_enabled()
            return {"steps behind": torch.tensor(float(step.index)), "samples": torch.tensor(len(batch["x"]))}

    toy.train(tmp_path, system=Gauged(), steps=3, log_every=1)
    row = read_metrics(tmp_path / "metrics.csv")[-1]
    assert row["steps behind_gauge"] == 2
    assert row["samples_gauge"] > 1
    drawn = progress.training(progress.columns(read_metrics(tmp_path / "metrics.csv")))
    charts = {curve.title: curve.svg for curve in drawn}
    assert {"Steps behind", "Samples"} < charts.keys()
    assert "gauge" not in charts["Loss"]


def test_what_is_not_finite_is_told_once_and_stands_in_no_row(toy, tmp_path):
    class Broken(toy.Toy):
        def monitor(self, batch, step):
            return {"target": torch.full((8, 2), math.nan), "scale": torch.tensor(math.inf)}

    with pytest.warns(UserWarning, match="which metrics.csv does not hold") as warned:
        toy.train(tmp_path, system=Broken(), steps=2, log_every=1)
    said = [str(w.message) for w in warned if "does not hold" in str(w.message)]
    assert [text.split(": ")[1].split(",")[0] for text in said] == [
        "target_std is nan",
        "target_rank is nan",
        "scale_gauge is inf",
    ]
    row = read_metrics(tmp_path / "metrics.csv")[-1]
    assert "feature_std" in row and not {"target_std", "target_rank", "scale_gauge"} & row.keys()


def test_watching_changes_nothing(toy, tmp_path):
    """Modes are put back, and training with dropout goes the same way however often one looks."""

    def run(folder, every):
        return toy.train(tmp_path / folder, steps=12, log_every=every)

    often, seldom = run("often", 1), run("seldom", 12)
    for one, two in zip(often.state_dict().values(), seldom.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    assert often.training
    assert not often.teacher.training
