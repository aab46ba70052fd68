"""kNN and the linear probe against scikit-learn and on data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier

from polymask.evaluation import classifiers
from polymask.evaluation.classifiers import knn, linear


def blobs(n: int, spread: float, seed: int, classes: int = 4, dim: int = 6):
    """Normal clouds around fixed centres, and the class of each point."""
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    return centres[labels] + spread * torch.randn(n, dim, generator=generator), labels


@pytest.mark.parametrize("neighbours", [1, 7, 50])
def test_knn_is_scikit_learns(neighbours):
    train, labels = blobs(300, 1.0, 1)
    test, _ = blobs(200, 1.0, 2)
    theirs = KNeighborsClassifier(
        neighbours, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    )
    expected = theirs.fit(train.double().numpy(), labels.numpy()).predict(test.double().numpy())
    found = knn(train, labels, test, neighbours=neighbours, at_once=10_000).predicted
    assert found.tolist() == expected.tolist()


def test_knn_weights_votes_by_similarity():
    train = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    labels = torch.tensor([0, 1, 1])
    test = torch.tensor([[1.0, 0.2]])
    assert knn(train, labels, test, neighbours=3).predicted.item() == 0
    assert knn(train, labels, test, neighbours=3, temperature=1e3).predicted.item() == 1


def test_knn_with_fewer_samples_than_neighbours():
    train, labels = blobs(5, 0.1, 1)
    assert len(knn(train, labels, train, neighbours=20).predicted) == 5


def test_linear_separates_separable_data_of_any_scale():
    train, labels = blobs(400, 0.05, 1)
    test, expected = blobs(100, 0.05, 2)
    scale = torch.tensor([1e-4, 1e4, 1.0, 1.0, 1.0, 1.0])
    shift = torch.tensor([0.0, 1e5, -3.0, 0.0, 0.0, 0.0])
    found = linear(train * scale + shift, labels, test * scale + shift)
    assert found.predicted.tolist() == expected.tolist() and found.converged


def test_linear_regularises_where_features_are_noise():
    generator = torch.Generator().manual_seed(4)
    train, labels = blobs(120, 1.0, 1)
    test, expected = blobs(1000, 1.0, 2)
    noisy_train = torch.cat([train, torch.randn(120, 400, generator=generator)], dim=1)
    noisy_test = torch.cat([test, torch.randn(1000, 400, generator=generator)], dim=1)
    chosen = linear(noisy_train, labels, noisy_test)
    plain = linear(train, labels, test)
    assert chosen.strength < 0.1
    assert (plain.predicted == expected).float().mean() > (chosen.predicted == expected).float().mean() > 0.4


def test_linear_ignores_features_that_never_vary():
    train, labels = blobs(200, 0.1, 1)
    test, _ = blobs(50, 0.1, 2)
    constant = torch.full((200, 1), 0.1)
    found = linear(torch.cat([train, constant], 1), labels, torch.cat([test, constant[:50] + 1], 1))
    assert found.predicted.tolist() == linear(train, labels, test).predicted.tolist()


def test_linear_of_few_samples_holds_out_each_part_in_turn(monkeypatch):
    """Every sample is held out once, beside the others of its class; of many, a fifth is."""
    fitted = []
    plain = classifiers._fit

    def fit(model, x, y):
        fitted.append(x[:, 0].tolist())
        return plain(model, x, y)

    monkeypatch.setattr(classifiers, "_fit", fit)
    labels = torch.arange(4).repeat_interleave(10)
    train = torch.cat([torch.arange(40.0)[:, None], torch.randn(40, 3)], dim=1)
    held = []
    for few in (40, 39):
        monkeypatch.setattr(classifiers, "FEW", few)
        fitted.clear()
        linear(train, labels, train)
        everything = set(fitted[-1])
        held.append([sorted(everything - set(seen)) for seen in fitted[:-1]])
    in_turn, once = held
    rounds = len(in_turn) // 5
    assert rounds > 1 and in_turn == in_turn[:5] * rounds
    assert sorted(i for part in in_turn[:5] for i in part) == sorted(everything)
    assert [len(part) for part in in_turn[:5]] == [8] * 5
    assert len(once) > 1 and all(part == in_turn[0] for part in once)


def test_linear_goes_on_where_strong_regularisation_knows_one_class_alone():
    """Of few samples of a rare class, whose features differ by little among many that do not."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(300) % 12 == 0).long()
    x = torch.randn(300, 100, generator=generator)
    x[:, :3] += 1.5 * labels[:, None]
    found = linear(x[:200], labels[:200], x[200:])
    first = classifiers._regression(C=classifiers.STRENGTHS[2]).fit(x[:200].numpy(), labels[:200].numpy())
    assert not first.predict(x[200:].numpy()).any()
    assert found.strength > classifiers.STRENGTHS[2] and found.predicted.any()


def test_linear_never_chooses_by_test_samples():
    train, labels = blobs(200, 1.0, 1)
    test, _ = blobs(50, 1.0, 2)
    assert linear(train, labels, test).strength == linear(train, labels, test * 100).strength


def test_linear_says_when_it_did_not_converge(monkeypatch):
    monkeypatch.setattr(classifiers, "MOST", 1)
    train, labels = blobs(200, 2.0, 1)
    assert not linear(train, labels, train).converged


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_linear_with_one_class_or_one_label_each(labels):
    train = torch.eye(3)
    assert linear(train, torch.tensor(labels), train).predicted.tolist() == labels


def test_more_features_than_samples_give_the_answers_of_those_that_vary() -> None:
    """Wide features are solved among the samples: ninety constant ones beside ten change no answer."""
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.randn(n, 10, generator=generator) for n in (40, 200))
    labels = (train[:, 0] > 0).long()
    few = linear(train, labels, test)
    many = linear(F.pad(train, (0, 90)), labels, F.pad(test, (0, 90), value=3.0))
    assert torch.equal(few.predicted, many.predicted) and few.strength == many.strength
    assert (few.predicted == (test[:, 0] > 0)).float().mean() > 0.8
