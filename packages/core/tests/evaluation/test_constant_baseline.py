"""The rival that looks at nothing: its closed forms, and what it is asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polymask import Mask, System, Tokens, UserError
from polymask.evaluation.constant_baseline import BY_POSITION, CONSTANT, DIFFERENCE, ConstantBaseline
from polymask.evaluation.result import TRAINED
from polymask.functional import masked_loss
from polymask.objectives import L1, MSE, CrossEntropy
from polymask.objectives.ranking import Pairwise
from polymask.protocols import Objective


class Asks(System):
    """Asks its objective about given predictions and targets, as often as there are."""

    def __init__(self, *, objective: Objective, ask: Any = None) -> None:
        super().__init__()
        self.objective, self.ask = objective, ask
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, batch, step):
        questions = [ask if isinstance(ask, tuple) else (*ask(batch), None) for ask in self.ask]
        return {str(i): self.objective(*question) for i, question in enumerate(questions)}


class Hosts(System):
    def __init__(self, *, host: System) -> None:
        super().__init__()
        self.host = host

    def forward(self, batch, step):
        return self.host(batch, step)


def pixels(batch) -> Tensor:
    """``[B, 16, 2]``"""
    return batch["image"].flatten(2).transpose(1, 2)


def scored(system: System, data: Any, **options: Any) -> dict[tuple[str, str], Any]:
    run = SimpleNamespace(system=system, data=data, step=10, name="toy/asks")
    with torch.no_grad():
        return {(score.row, score.metric): score for score in ConstantBaseline(**options)(run)}


@pytest.fixture
def data(toy_data):
    return toy_data(test=40)


def every(data) -> Tensor:
    return pixels({"image": torch.stack([data.split("test")[i]["image"] for i in range(40)])})


def test_constant_of_squares_is_the_mean_and_costs_the_variance(data):
    system = Asks(objective=MSE(), ask=[lambda batch: (pixels(batch) + 0.5, pixels(batch))])
    found = scored(system, data, batch_size=10)
    values = every(data).flatten(0, 1)
    assert found[CONSTANT, "objective"].value == pytest.approx(values.var(0, unbiased=False).mean().item())
    assert found[TRAINED, "objective"].value == pytest.approx(0.25)
    gain = found[DIFFERENCE, "objective"]
    assert gain.value == pytest.approx(0.25 - found[CONSTANT, "objective"].value)
    assert gain.low < gain.value < gain.high < 0


def test_constant_of_distances_is_the_median(data):
    system = Asks(objective=L1(), ask=[lambda batch: (0 * pixels(batch), pixels(batch))])
    values = every(data).flatten(0, 1)
    least = (values - values.median(0).values).abs().mean().item()
    assert scored(system, data)[CONSTANT, "objective"].value == pytest.approx(least, abs=1e-3)


def test_constant_of_classes_is_their_frequency_and_costs_its_entropy(data):
    """No better by the samples that it is fitted to, so a constant system never beats it."""

    def ask(batch):
        classes = (pixels(batch)[..., 0] * 2).long().clamp(-2, 3) + 2
        return torch.randn(6).expand(*classes.shape, 6), classes

    found = scored(Asks(objective=CrossEntropy(), ask=[ask]), data, batch_size=10)
    share = ((every(data)[..., 0] * 2).long().clamp(-2, 3) + 2).flatten().bincount(minlength=6) / 640
    entropy = -(share * share.log()).nansum().item()
    assert found[CONSTANT, "objective"].value == pytest.approx(entropy, rel=1e-4)
    assert found[DIFFERENCE, "objective"].value > 0


def test_hidden_sites_alone_count(data):
    class Half(Asks):
        def forward(self, batch, step):
            hidden = torch.arange(16).expand(len(batch["image"]), 16) < 4
            target = torch.where(hidden[..., None], 3.0, pixels(batch))
            return {"": self.objective(0 * target, target, Mask(hidden, 12))}

    found = scored(Half(objective=MSE()), data)
    assert found[TRAINED, "objective"].value == pytest.approx(9)
    assert found[CONSTANT, "objective"].value == pytest.approx(0, abs=1e-6)


def test_each_question_of_a_step_has_a_constant_of_its_own(data):
    def ask(sign: int):
        return lambda batch: (0 * pixels(batch), 0 * pixels(batch) + sign)

    found = scored(Asks(objective=MSE(), ask=[ask(1), ask(-1)]), data)
    assert found[TRAINED, "objective"].value == pytest.approx(1)
    assert found[CONSTANT, "objective"].value == pytest.approx(0, abs=1e-6)


def test_order_without_a_look_is_a_coin(data):
    found = scored(Asks(objective=Pairwise(), ask=[lambda b: (pixels(b), pixels(b))]), data)
    assert found[CONSTANT, "objective"].value == pytest.approx(0.6931, abs=1e-4)
    assert found[TRAINED, "objective"].value < 0.6


def test_objectives_that_are_asked_by_site_count_too(data):
    class BySite(Asks):
        def forward(self, batch, step):
            return {"": self.objective.sites(pixels(batch), pixels(batch)).mean()}

    values = every(data).flatten(0, 1)
    found = scored(BySite(objective=MSE()), data, batch_size=10)
    assert found[CONSTANT, "objective"].value == pytest.approx(values.var(0, unbiased=False).mean().item())


def test_hosted_systems_are_asked_and_all_is_put_back(data):
    class Learns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, prediction, target, mask=None):
            return (self.scale * (prediction - target)).square().mean()

    plain, module = MSE(), Learns()
    for objective in (plain, module):
        host = Hosts(host=Asks(objective=objective, ask=[lambda batch: (pixels(batch), pixels(batch))]))
        names = list(host.state_dict())
        assert scored(host, data)[TRAINED, "host.objective"].value == 0
        assert host.host.objective is objective and list(host.state_dict()) == names


def test_systems_without_an_objective_are_refused(data, toy_system):
    with pytest.raises(UserError, match="toy/asks has no objective"):
        scored(toy_system(), data)


class Placed(System):
    """Predicts zero, at other sites from batch to batch, and says where they lie."""

    def __init__(self, *, objective: Objective) -> None:
        super().__init__()
        self.objective = objective
        self.weight = nn.Parameter(torch.zeros(1))
        self.asked: list[tuple[slice, Tensor]] = []

    def forward(self, batch, step):
        values = pixels(batch)
        places = torch.arange(16.0)[None, :, None].expand(len(values), -1, -1)
        kept = (slice(0, 9), slice(6, 16))[len(self.asked) % 2]
        self.asked.append((kept, values[:, kept]))
        tokens = Tokens(values[:, kept], places[:, kept])
        return {"loss": masked_loss(self.objective, torch.zeros_like(tokens.values), tokens)}


@pytest.mark.parametrize("objective", [MSE(), L1()])
def test_the_best_constant_of_each_position_is_its_mean_or_its_median(data, objective):
    """By hand, over all samples of which a site was asked about."""
    system = Placed(objective=objective)
    found = scored(system, data, batch_size=10, by_position=True)
    assert len(system.asked) == 4
    everything = torch.full((4, 10, 16, 2), torch.nan)
    for batch, (kept, values) in zip(everything, system.asked, strict=True):
        batch[:, kept] = values
    pooled = everything.flatten(0, 1)
    centre = pooled.nanmedian(0).values if isinstance(objective, L1) else pooled.nanmean(0)
    off = everything - centre
    costs = (off.abs() if isinstance(objective, L1) else off.square()).flatten(1).nanmean(1)
    ours = found[BY_POSITION, "objective"].value
    assert ours == pytest.approx(costs.mean().item(), rel=5e-3)
    assert ours < found[CONSTANT, "objective"].value - 0.001
    gain = found[f"{TRAINED} minus {BY_POSITION}", "objective"].value
    assert gain == pytest.approx(found[TRAINED, "objective"].value - ours)


def test_a_system_that_says_no_places_has_no_constant_of_each(data):
    system = Asks(objective=MSE(), ask=[lambda batch: (pixels(batch) + 0.5, pixels(batch))])
    with pytest.raises(UserError, match="does not say where"):
        scored(system, data, by_position=True)
