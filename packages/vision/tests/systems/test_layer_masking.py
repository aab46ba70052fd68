"""Layer masking explains by hiding: a regression in closed form, and what hidden parts do to answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from polymask import Batch, Mask, Step, System, UserError, build
from polymask_vision.evaluations.removal import GREY, LEFT_OUT, MEAN, NOISE, Removal
from polymask_vision.systems.layer_masking import ridge_weights, without

STEP = Step(3, 10, seed=1)
FACTS = {"size": (16, 16), "channels": 3, "classes": 5, "mean": (0.5,) * 3, "std": (0.25,) * 3}


def make(name: str = "vision/layer-masking", **options: Any) -> Any:
    torch.manual_seed(0)
    return build(name, preset="tiny", facts=FACTS, **options).eval()


def batch(n: int = 4) -> Batch:
    images = torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return {"image": images, "id": torch.arange(n) * 3, "label": torch.arange(n) % 5}


def test_weights_are_those_of_ridge_regression() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = (torch.rand(3, 40, 6, generator=generator) < 0.5).float()
    told = torch.rand(3, 40, generator=generator)
    found = ridge_weights(seen, told, 2.0)
    for k in range(3):
        expected = Ridge(alpha=2.0).fit(seen[k].numpy(), told[k].numpy()).coef_
        torch.testing.assert_close(found[k], torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-5)


def test_the_token_that_decides_is_the_one_that_explains() -> None:
    system, given = make(draws=64), batch()
    place = torch.tensor([0, 5, 10, 15])

    def ask(tokens: Any, mask: Mask | None = None) -> Tensor:
        seen = torch.ones(4, 16) if mask is None else (~mask.hidden).float()
        there = seen.gather(1, place[:, None])
        return torch.cat([4 * there, 0 * there.expand(-1, 4)], dim=1)

    object.__setattr__(system, "ask", ask)
    found = system.explain(given, STEP).flatten(1)
    assert torch.equal(found.argmax(1), place) and torch.equal(found.amax(1), torch.ones(4))
    assert found.sort(dim=1).values[:, -2].max() < 0.2


@pytest.mark.parametrize("encoder", ["vision/layer-masked", "vision/vit"])
@torch.no_grad()
def test_answers_do_not_depend_on_what_is_hidden(encoder: str) -> None:
    system, given = make(**{"host.encoder": encoder}), batch()
    tokens = system.tokenizer(given)
    mask = system.draw(tokens, given, STEP)
    changed = mask.fill(tokens.values, torch.tensor(9.0))
    other = system.tokenizer({"image": system.tokenizer.inverse(changed)})
    assert torch.equal(system.ask(tokens, mask), system.ask(other, mask))
    assert not torch.allclose(system.ask(tokens), system.ask(other))
    all_hidden = Mask(torch.ones(4, 16, dtype=torch.bool))
    if encoder == "vision/layer-masked":
        torch.testing.assert_close(system.ask(tokens, all_hidden), system.host.head.bias.expand(4, -1))
    assert torch.equal(without(tokens, mask).valid, ~mask.hidden)


def test_what_cannot_ignore_or_classify_is_refused() -> None:
    with pytest.raises(UserError, match="ResNet reads the whole grid, also what is hidden"):
        make(**{"host.encoder": "vision/resnet"})
    with pytest.raises(UserError, match="MAE is none"):
        make(host="vision/mae")


class Data:
    """Twelve images, each of one class."""

    key, provides = "image", FACTS

    def split(self, name: str, *, augment: bool = False) -> list[dict[str, Tensor]]:
        assert name == "test"
        return [{"image": x} for x in batch(12)["image"]]

    def labels(self, name: str) -> Tensor | None:
        return torch.tensor([0, 1, 2, 3, 4, -1] * 2)


class Knows(System):
    """Says 0 where all it sees is what the images hold, and 1 where something else is."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        host = make().host
        self.tokenizer, self.encoder, self.weight = host.tokenizer, encoder, torch.nn.Parameter(torch.ones(1))
        self.values = self.tokenizer(batch(12)).values
        self.painted: list[Tensor] = []
        self.left: list[int] = []

    def logits(self, tokens: Any) -> Tensor:
        same = (tokens.values[:, None] == self.values).all(-1)  # [B, 12, N]
        if tokens.valid is None and not same.all(-1).any(-1).all():
            self.painted.append(tokens.values[~same.any(1)])
        if tokens.valid is not None:
            self.left += (~tokens.valid).sum(1).tolist()
        answer = (~same.all(-1).any(-1)).long()
        return torch.nn.functional.one_hot(answer, 5).float()


def measured(system: System, **options: Any) -> dict[tuple[str, str], float]:
    run: Any = SimpleNamespace(system=system, data=Data())
    return {(one.row, one.metric): one.value for one in Removal(shares=(0.25, 0.5), **options)(run)}


def test_what_is_left_out_stays_and_what_is_painted_over_is_seen() -> None:
    system = Knows(make().encoder)
    found = measured(system)
    assert {row for row, _ in found} == {LEFT_OUT, GREY, MEAN, NOISE}
    assert system.left == [4] * 12 + [8] * 12
    assert found[LEFT_OUT, "unchanged"] == 1 and found[LEFT_OUT, "accuracy"] == pytest.approx(0.2)
    for row in (GREY, MEAN, NOISE):
        assert found[row, "unchanged"] == found[row, "unchanged, 50% removed"] == 0
        assert found[row, "accuracy"] == pytest.approx(0.2)  # says 1
    grey, mean, noise = system.painted[:3]
    assert grey.shape[0] == mean.shape[0] == noise.shape[0] == 12 * 4
    assert (grey == 0).all() and (mean == 0).all()  # the mean of the data is middle grey
    assert 0.9 < noise.std() < 1.1
    assert measured(system, seed=0) == measured(system, seed=0, batch_size=5)


def test_encoders_of_whole_grids_leave_nothing_out() -> None:
    found = measured(Knows(make("vision/supervised", encoder="vision/resnet").encoder))
    assert {row for row, _ in found} == {GREY, MEAN, NOISE}
    with pytest.raises(UserError, match="MAE classifies no tokens"):
        measured(make("vision/mae"))
