"""What targets start from: centroids of slots by hand, and each thing found once, whoever asks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask_pointcloud.slots import Boxes, Given, Slots
from polymask_pointcloud.surfaces import Curvature, Normals, Surface
from polymask_pointcloud.targets import Centroid, Occupancy
from polymask_pointcloud.tokenizers import Groups, Pillars, Voxels

TOKENIZERS: dict[str, Any] = {
    "groups": Groups(groups=5, neighbours=12),
    "voxels": Voxels(voxel=0.5, neighbours=8),
    "pillars": Pillars(pillar=0.5, neighbours=8),
}
each_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=list(TOKENIZERS))


def given_of(tokenizer: Any, rows: int = 1) -> tuple[Given, dict[str, Any]]:
    """Clouds of 80 points, and what the tokenizer tells targets."""
    points = 2 * torch.rand(rows, 80, 3, generator=torch.Generator().manual_seed(0)) - 1
    batch = {"points": points}
    facts = {key: value for key, value in tokenizer.provides.items() if key.startswith(("cell", "channels"))}
    return Given(batch, tokenizer(batch)), facts


@each_tokenizer
def test_centroids_are_means_of_the_points_of_slots(tokenizer: Any) -> None:
    """Put back in the cloud, the centroids weighed by their counts are the mean of the token's points."""
    given, facts = given_of(tokenizer)
    points, tokens = given.batch["points"], given.tokens
    part, token = Centroid(scales=((2, 3, 2), (1, 1, 1)), **facts).scales
    (fine, count), (whole, total) = given.find(part), given.find(token)
    assert ((fine >= 0) & (fine <= 1)).all() and torch.equal(count.sum(-1, keepdim=True), total)
    places, middle = part.places(fine, tokens), token.places(whole, tokens)
    mean = (places * count[..., None]).sum(2, keepdim=True) / total[..., None]
    torch.testing.assert_close(mean, middle, rtol=0, atol=1e-6)
    if "cell_low" in facts:
        assert int(total.sum()) == 80  # every point counts, not those alone that its token holds
        torch.testing.assert_close((middle * total[..., None]).sum((1, 2)) / 80, points.double().mean(1))
    else:
        own = tokens.values.view(*tokens.shape, -1, 3) + tokens.position[:, :, None] * 0.1
        torch.testing.assert_close(middle[:, :, 0].float(), own.mean(2), rtol=0, atol=1e-5)


def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often boxes, slots and surfaces are worked out."""
    found: Counter[str] = Counter()
    for kind in (Boxes, Slots, Surface):

        def count(self: Any, given: Given, kind: Any = kind, ask: Any = kind.__call__) -> Any:
            found[kind.__name__] += 1
            return ask(self, given)

        monkeypatch.setattr(kind, "__call__", count)
    return found


@each_tokenizer
def test_targets_that_start_from_the_same_have_it_found_once_and_say_what_each_says_alone(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, facts = given_of(tokenizer, 3)
    scales = ((4, 4, 2), (2, 2, 4), (1, 1, 1))
    targets = [
        Centroid(scales=scales, **facts),
        Occupancy(scales=scales[:2], **facts),
        Normals(**facts),
        Curvature(**facts),
    ]
    alone: list[Tensor] = [target(dict(given.batch), given.tokens) for target in targets]
    found = counted(monkeypatch)
    together = [target.answers(given) for target in targets]
    assert found == {"Boxes": 1, "Slots": 3, "Surface": 1}
    for one, several in zip(alone, together, strict=True):
        assert torch.equal(one, torch.cat([answer.values.flatten(2) for answer in several], dim=-1))


@pytest.mark.parametrize("other", [{"centre": "token"}, {"ratio": (1, 1, 2)}, {"channels": 4}])
def test_targets_that_start_from_something_else_have_their_own(
    other: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Voxels(voxel=0.5, neighbours=8)
    given, facts = given_of(tokenizer)
    found = counted(monkeypatch)
    normals, curvature = Normals(**facts), Curvature(**{**facts, **other})
    normals.answers(given)
    (answer,) = curvature.answers(given)
    assert found["Surface"] == 2
    assert torch.equal(answer.values[:, :, 0], curvature(dict(given.batch), given.tokens))
    Curvature(least=9, **facts).answers(given)
    Normals(sign="up", **facts).answers(given)  # other words for the same
    assert found["Surface"] == 3  # one of them for the call above
