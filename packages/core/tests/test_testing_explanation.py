"""The check of what systems say that their answers depend on passes what is right and catches the rest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from polymask import Batch, Host, Step, System
from polymask.protocols import Tokenizer
from polymask.systems.base import Explains
from polymask.systems.host import implementing
from polymask.testing import check_part

CHECK = "check_system_explains"


class Says(System):
    """Says that its answer depends on some tokens, drawn by sample.

    Args:
        tokenizer: cuts the input into tokens.
    """

    def __init__(self, *, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer, self.head = tokenizer, nn.Linear(tokenizer.provides["in_dim"], 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        return {"guess": self.head(self.tokenizer(batch).values).square().mean()}

    def explain(self, batch: Batch, step: Step) -> Tensor:
        return self.noise(batch["id"], step).view(-1, *(self.tokenizer(batch).grid or ()))

    def noise(self, ids: Tensor, step: Step) -> Tensor:
        return step.noise(ids, self.tokenizer(self.tokenizer.example(1)).shape[1])


class Finer(Says):
    def explain(self, batch: Batch, step: Step) -> Tensor:
        return super().explain(batch, step).repeat_interleave(3, dim=1).repeat_interleave(2, dim=2)


class Flat(Says):
    def explain(self, batch: Batch, step: Step) -> Tensor:
        return super().explain(batch, step).flatten(1)


class Uneven(Says):
    def explain(self, batch: Batch, step: Step) -> Tensor:
        return super().explain(batch, step)[:, 1:]


class ByRow(Says):
    def noise(self, ids: Tensor, step: Step) -> Tensor:
        return super().noise(torch.arange(len(ids)), step)


class ByGlobalChance(Says):
    def noise(self, ids: Tensor, step: Step) -> Tensor:
        return torch.rand_like(super().noise(ids, step))


class ByLabel(Says):
    supervised = True

    def explain(self, batch: Batch, step: Step) -> Tensor:
        return super().explain(batch, step) * (0.5 if "label" in batch else 1)


class NaN(Says):
    def noise(self, ids: Tensor, step: Step) -> Tensor:
        return super().noise(ids, step) * torch.nan


class TooMuch(Says):
    def noise(self, ids: Tensor, step: Step) -> Tensor:
        return super().noise(ids, step) * 3


class Double(Says):
    def noise(self, ids: Tensor, step: Step) -> Tensor:
        return super().noise(ids, step).double()


class WithGradient(Says):
    def noise(self, ids: Tensor, step: Step) -> Tensor:
        return super().noise(ids, step) * self.head.bias.sigmoid()


class Counts(Says):
    def noise(self, ids: Tensor, step: Step) -> Tensor:
        self.calls += 1
        return super().noise(ids, step)


class Around(Host):
    """Passes on what its host says.

    Args:
        host: says it.
    """


def checked(cls: type, **options: object) -> tuple[str, str]:
    (result,) = check_part(cls, kind="systems", only=[CHECK], options=options)
    return result.outcome, result.message


@pytest.mark.parametrize("right", [Says, Finer])
def test_maps_of_tokens_and_of_finer_places_pass(right: type) -> None:
    assert checked(right) == ("passed", "")


@pytest.mark.parametrize(
    ("wrong", "message"),
    {
        Flat: "samples have tokens on a grid of",
        Uneven: "samples have tokens on a grid of",
        ByRow: "depends on the samples beside",
        ByGlobalChance: "moves the global generator of torch",
        ByLabel: "depends on the label",
        NaN: "not finite",
        TooMuch: "not from 0 to 1",
        Double: "the map is torch.float64, not float32",
        WithGradient: "carries gradient",
        Counts: "explain changes calls",
    }.items(),
    ids=lambda x: getattr(x, "__name__", None),
)
def test_the_check_catches(wrong: type, message: str) -> None:
    outcome, found = checked(wrong)
    assert outcome == "failed" and message in found


def test_systems_that_explain_nothing_are_not_asked() -> None:
    class Silent(System):
        pass

    assert implementing(Silent(), Explains) is None


def test_a_host_explains_by_what_it_hosts() -> None:
    says = Says.__new__(Says)
    System.__init__(says)
    assert implementing(Around(says), Explains) is says
