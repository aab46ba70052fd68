"""Supervised systems get labels wherever their ``forward`` runs, and no other system does."""

from __future__ import annotations

import sys

import pytest
import torch

from polymask import Preview, Run, Step, UserError
from polymask.data import describe, facts_of
from polymask.evaluation.heldout_loss import batches
from polymask.report import write_report
from polymask.supervision import labels_for
from polymask.training import fit
from polymask.training.sanity_check import sanity_check


@pytest.fixture
def labelled(toy):
    """A data set of which every fourth label is unknown."""

    class Labelled(toy.Data):
        def labels(self, name):
            labels = torch.arange(len(self.x), dtype=torch.int32) * 3 % 7
            labels[::4] = -1
            return labels

    return Labelled()


@pytest.fixture
def supervised(toy):
    """A system that checks its labels against their ids at every call."""

    class Supervised(toy.Toy):
        supervised = True

        def forward(self, batch, step):
            ids, label = batch["id"], batch["label"]
            assert label.dtype == torch.int64 and label.shape == ids.shape
            assert torch.equal(label, torch.where(ids % 4 == 0, -1, ids * 3 % 7))
            self.seen.append(len(ids))
            return super().forward(batch, step)

        def monitor(self, batch, step):
            return {"labels": torch.tensor(len(batch["label"]))}

    return Supervised()


def test_training_and_the_monitor_give_labels(toy, labelled, supervised, tmp_path):
    toy.train(tmp_path, system=supervised, data=labelled, steps=3, log_every=1)
    assert len(supervised.seen) == 3


def test_the_sanity_check_and_held_out_batches_give_labels(labelled, supervised):
    sanity_check("toy", supervised, labelled)
    found = list(batches(supervised, labelled, None, 10))
    assert len(found) == 5
    for batch in found:
        supervised(batch, Step())
    assert supervised.seen == [2, *[10] * 5]


@pytest.mark.slow
def test_a_report_gives_labels(toy, labelled, supervised, tmp_path):
    class Shows(type(supervised)):
        def preview(self, batch, step):
            return Preview(lines={"labels seen": batch["label"].float()})

    run = Run(tmp_path, Shows(), labelled, toy.options(steps=3))
    fit(run, progress=False)
    assert "labels seen by block" in write_report(run).read_text()


def test_other_systems_get_none(toy, labelled):
    assert all("label" not in batch for batch in batches(toy.Toy(), labelled, None, 10))
    assert labels_for(toy.Toy(), labelled, "train") is None


def test_data_without_labels_is_refused_before_anything_is_written(toy, supervised, tmp_path):
    message = "Supervised learns from labels, and the train split of this data has none"
    with pytest.raises(UserError, match=message):
        sanity_check("toy", supervised, toy.Data())
    with pytest.raises(UserError, match=message):
        toy.train(tmp_path / "run", system=supervised, data=toy.Data(), steps=1)
    assert not (tmp_path / "run").exists()


def test_gradients_are_enabled_in_the_sanity_check(toy):
    class Differentiates(toy.Toy):
        def forward(self, batch, step):
            losses = super().forward(batch, step)
            torch.autograd.grad(losses["reconstruction"], self.head.weight, retain_graph=True)
            return losses

    system = Differentiates()
    with torch.no_grad():
        sanity_check("toy", system, toy.Data())
    assert all(p.grad is None for p in system.parameters()) and system.training


LOSSES = {
    "a tensor": (lambda losses: sum(losses.values()), "forward returned Tensor, not losses by name"),
    "none": (lambda losses: {}, "not losses by name"),
    "a vector": (
        lambda losses: {"a": torch.stack([*losses.values()])},
        r"of shape \[2\], not a scalar",
    ),
    "a number": (lambda losses: {"a": 0.0}, "the loss 'a' is float, not a scalar tensor"),
    "constant": (lambda losses: {n: x.detach() for n, x in losses.items()}, "no loss has a gradient"),
    "an exit": (lambda losses: sys.exit(0), "SystemExit: 0"),
    "no exception": (lambda losses: (_ for _ in ()).throw(GeneratorExit("enough")), "GeneratorExit: enough"),
    **{
        name: (
            lambda losses, name=name: losses | {name: losses["latent"]},
            f"metrics.csv has a column '{name}' of its own: give this loss another name",
        )
        for name in ("lr", "seconds", "grad_norm", "step", "loss", "idle", "kNN", "feature_std")
    },
    **{
        f"a name {name!r}": (
            lambda losses, name=name: losses | {name: losses["latent"]},
            "a loss is called .*: give it a name of one line",
        )
        for name in ("a\nb", "", 3)
    },
}


@pytest.mark.parametrize("case", LOSSES)
def test_what_cannot_be_trained_fails_before_training(toy, case):
    change, said = LOSSES[case]

    class Changed(toy.Toy):
        def forward(self, batch, step):
            return change(super().forward(batch, step))

    with pytest.raises(UserError, match=f"^toy does not run with these parts on this data: .*{said}"):
        sanity_check("toy", Changed(), toy.Data())


def test_losses_are_named_as_one_likes_otherwise(toy):
    class Named(toy.Toy):
        def forward(self, batch, step):
            loss = sum(super().forward(batch, step).values())
            return {"loss": loss} if self.alone else {'a, b "c"': loss, "x_std": loss}

        def monitor(self, batch, step):
            return {"little, much": torch.zeros(()), "y": torch.zeros(2, 3)}

    for alone in (True, False):
        system = Named()
        system.alone = alone
        sanity_check("toy", system, toy.Data())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "feature",
            "metrics.csv has a column 'feature_std' already: let monitor give 'feature' another name",
        ),
        ("of loss", "metrics.csv has a column 'of loss_gauge' already"),
        ("a\nb", "monitor calls something .*: give it a name of one line"),
    ],
)
def test_what_is_monitored_has_columns_of_its_own(toy, name, said):
    class Monitored(toy.Toy):
        def forward(self, batch, step):
            return super().forward(batch, step) | {"of loss_gauge": self.mask_token.sum()}

        def monitor(self, batch, step):
            return {name: torch.zeros(())}

    with pytest.raises(UserError, match=f"^toy does not run with these parts on this data: .*{said}"):
        sanity_check("toy", Monitored(), toy.Data())


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (None, "monitor returned NoneType, not tensors by name"),
        ({"a": 1.0}, "monitor returned 'a' as float: give a scalar tensor"),
        ({"a": torch.zeros(3)}, r"monitor returned 'a' of shape \[3\]: give a scalar tensor"),
    ],
)
def test_what_is_monitored_is_tensors(toy, found, said):
    class Monitored(toy.Toy):
        def monitor(self, batch, step):
            return found

    with pytest.raises(UserError, match=said):
        sanity_check("toy", Monitored(), toy.Data())


@pytest.mark.parametrize("lengths", [[4] * 9, torch.ones(2, dtype=torch.int64), torch.tensor(3), "abc"])
def test_lengths_are_those_of_the_samples(toy, lengths):
    data = toy.Data()
    data.lengths = lambda split: lengths
    with pytest.raises(UserError, match="lengths of this data are .*, and must be int64"):
        sanity_check("toy", toy.Toy(), data)


@pytest.mark.parametrize(("name", "value"), [("classes", 7), ("provides", None)])
def test_facts_of_another_kind_are_told(toy, name, value):
    data = toy.Data()
    setattr(data, name, value)
    with pytest.raises(UserError, match=f"{name} of this data is {value}: let it be a "):
        facts_of(data)


def test_a_description_of_another_kind_ends_no_report(toy):
    data = toy.Data()
    data.describe = lambda: 7
    with pytest.warns(UserWarning, match="what this data says of its samples is no text by name"):
        assert describe(data) == {"left out": "none"}


def test_nothing_to_train_fails_before_training(toy):
    class Group(toy.Toy):
        def parameter_groups(self):
            return [{"params": [], "rate": 1}]

    with pytest.raises(UserError, match="a group has params, weight_decay and lr_scale, and this one has"):
        sanity_check("toy", Group(), toy.Data())
