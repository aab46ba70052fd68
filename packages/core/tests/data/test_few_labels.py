"""A share of the labels is of each class alike, nested, at least one of each; the rest stays as it is."""

from __future__ import annotations

import itertools
import pickle

import pytest
import torch

from polymask import UserError
from polymask.data import as_dataset
from polymask.data.few_labels import few_labels, stratified

COUNTS = (100, 50, 7)
LABELS = torch.repeat_interleave(torch.tensor([0, 1, 2, -1]), torch.tensor([*COUNTS, 20]))


def data(labels=LABELS, classes=None):
    samples = [(torch.full((1, 2, 2), k / 256), int(label)) for k, label in enumerate(labels)]
    return as_dataset(samples, test=samples[:9], classes=classes)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.01, (1, 1, 1)), (0.1, (10, 5, 1)), (0.25, (25, 12, 2)), (1.0, COUNTS)]
)
def test_each_class_keeps_its_share_and_one_at_least(share, expected):
    chosen = LABELS[stratified(LABELS, share, seed=0)]
    assert tuple((chosen == k).sum().item() for k in range(3)) == expected
    assert (chosen >= 0).all()


def test_smaller_shares_lie_within_larger_ones_and_seeds_differ():
    found = [set(stratified(LABELS, share, seed=3).tolist()) for share in (0.01, 0.1, 0.5, 1.0)]
    assert all(one < other for one, other in itertools.pairwise(found))
    assert set(stratified(LABELS, 0.1, seed=4).tolist()) != found[1]
    places = stratified(LABELS, 0.5, seed=3)
    assert torch.equal(places, places.sort().values)


def test_the_training_split_is_what_was_chosen_and_the_test_split_stays():
    whole = data()
    few, places = few_labels(data=whole, share=0.1, seed=1), stratified(LABELS, 0.1, 1)
    train = few.split("train", augment=True)
    assert [256 * float(train[i]["image"].mean()) for i in range(len(train))] == places.tolist()
    assert torch.equal(few.labels("train"), LABELS[places])
    assert len(few.split("test")) == len(whole.split("test")) == 9
    assert torch.equal(few.labels("test"), whole.labels("test"))
    assert len(whole.split("train")) == len(LABELS)  # the other data set is as it was
    assert len(pickle.loads(pickle.dumps(train))) == len(places)


def test_lengths_and_their_number_are_those_of_what_was_chosen():
    class Texts:
        key, classes, skipped = "text", ("a", "b", "c"), []
        provides = {"samples": len(LABELS), "length": 9}

        def split(self, name, *, augment=False):
            return range(len(LABELS))

        def labels(self, name):
            return LABELS

        def lengths(self, name):
            return torch.arange(len(LABELS))

    few, places = few_labels(data=Texts(), share=0.5), stratified(LABELS, 0.5, 0)
    assert torch.equal(few.lengths("train"), places) and len(few.lengths("test")) == len(LABELS)
    assert few.provides == {"samples": len(places), "length": 9}


def test_no_labels_and_no_share_are_refused():
    with pytest.raises(UserError, match="no training sample has one"):
        few_labels(data=as_dataset([torch.zeros(1, 2, 2)] * 8))
    with pytest.raises(UserError, match="share=0: choose one above 0"):
        few_labels(data=data(), share=0)


def test_a_class_without_a_training_sample_is_told():
    with pytest.warns(UserWarning, match="no training sample is labelled d, e: such samples can only be"):
        few_labels(data=data(classes=["a", "b", "c", "d", "e"]))
