"""Features come from the same function of the same unmasked input, and leave no trace."""

from __future__ import annotations

import pytest
import torch

from polymask import UserError
from polymask.evaluation.features import encoder_features, evaluating, extract, raw_features


def test_features_do_not_depend_on_the_split_of_the_work(toy_data, toy_system):
    data, system = toy_data(), toy_system()
    with evaluating(system):
        rows = {"x": encoder_features(system)}
        whole = extract(rows, data.split("train"))["x"]
        parts = extract(rows, data.split("train"), batch_size=7, workers=2)["x"]
        some = extract(rows, data.split("train"), [5, 3, 80])["x"]
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(some, whole[[5, 3, 80]], rtol=0, atol=1e-6)
    assert whole.dtype == torch.float32 and not whole.requires_grad


def test_a_system_is_evaluated_in_eval_mode_and_left_as_it_was(toy_system):
    system = toy_system().train()
    system.dropout.eval()
    batch = {"image": torch.ones(4, 2, 4, 4)}
    with evaluating(system):
        function = encoder_features(system)
        first, second = function(batch), function(batch)
        assert torch.equal(first, second)
    assert system.training and system.proj.training and not system.dropout.training


def test_each_sample_is_read_once_for_all_rows(toy_data, toy_system):
    data, system = toy_data(), toy_system()
    with evaluating(system):
        extract({"one": encoder_features(system), "raw": raw_features("image")}, data.split("train"))
    assert data.split("train").reads == len(data.split("train"))


def test_samples_met_before_are_not_encoded_again_wherever_they_lie(toy_data, toy_system):
    data, system = toy_data(), toy_system()
    known, encoded = {}, []
    with evaluating(system):
        features = encoder_features(system)

        def counted(batch):
            encoded.append(len(batch["image"]))
            return features(batch)

        first = extract({"x": counted}, data.split("train"), [5, 3, 80], known=known)["x"]
        elsewhere = [data.split("train")[i] for i in (80, 1, 5, 2)]
        again = extract({"x": counted}, elsewhere, known=known)["x"]
        alone = extract({"x": features}, data.split("train"), [80, 1, 5, 2])["x"]
    assert encoded == [3, 2]
    assert torch.equal(again[[2, 0]], first[[0, 2]])
    torch.testing.assert_close(again, alone)


@pytest.mark.parametrize(
    "other",
    [{"x": [[1.0, 2.0]]}, {"x": [1.0, 2.5]}, {"x": [1.0, 2.0], "y": [0.0]}, {"y": [1.0, 2.0]}],
    ids=["shape", "value", "entry", "name"],
)
def test_samples_that_differ_in_anything_are_not_the_same(other):
    known = {}

    def count(batch):
        return torch.full((len(batch["id"]), 1), float(len(known)))

    for n, sample in enumerate(({"x": [1.0, 2.0]}, other)):
        sample = {key: torch.tensor(value) for key, value in sample.items()}
        assert extract({"n": count}, [sample], known=known)["n"].item() == n


def test_global_generators_stay_untouched(toy_data, toy_system):
    system, before = toy_system(), torch.get_rng_state()
    with evaluating(system):
        extract({"x": encoder_features(system)}, toy_data().split("test"))
    assert torch.equal(torch.get_rng_state(), before)


def test_raw_features_are_the_input(toy_data):
    data = toy_data()
    found = extract({"raw": raw_features("image")}, data.split("test"))["raw"]
    assert torch.equal(found, data.split("test").images.flatten(1))


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 20000), (20000,), (2, 16, 16, 16)])
def test_large_raw_input_is_averaged_down(shape):
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    found = raw_features("x", most=1024)({"x": x})
    assert 200 < found.shape[1] <= 1024
    torch.testing.assert_close(found.mean(1), x.flatten(1).mean(1), atol=0.02, rtol=0)


def test_features_that_are_not_finite_are_refused(toy_data, toy_system):
    system = toy_system()
    with torch.no_grad():
        system.proj.weight.fill_(torch.nan)
    with evaluating(system), pytest.raises(UserError, match="'x' are not finite.*diverged"):
        extract({"x": encoder_features(system)}, toy_data().split("test"))


def test_a_missing_class_token_is_named(toy_data, toy_system):
    system = toy_system()
    with evaluating(system), pytest.raises(UserError, match="no class token"):
        extract({"x": encoder_features(system, "prefix")}, toy_data().split("test"))
