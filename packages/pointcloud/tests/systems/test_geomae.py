"""GeoMAE tells the geometry of hidden pillars from visible ones, each known part once, by two decoders."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Mask, Step, UserError, build
from polymask.data import length_key
from polymask_pointcloud import surfaces
from polymask_pointcloud.targets import Answers

TINY = {
    "tokenizer.pillar": 0.25,
    "tokenizer.neighbours": 8,
    "encoder.dim": 24,
    "encoder.depth": 2,
    "encoder.heads": 2,
    "decoder_dim": 24,
    "decoder_depth": 1,
    "decoder_heads": 2,
}
STEP = Step(3, 10, seed=1)
PLACE = ("centroid 1", "centroid 2", "centroid 3", "occupancy 1", "occupancy 2")
SURFACE = ("normal", "curvature")
NONE = {"centroid_weights": (0, 0, 0), "occupancy_weights": (0, 0), "normal_weight": 0, "curvature_weight": 0}


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    system: Any = build("pointcloud/geomae", **(TINY | options))
    return system


def clouds(lengths: tuple[int, ...] = (200, 120, 200, 160), seed: int = 0) -> dict[str, Tensor]:
    """Clouds that fill their pillars unevenly, zeros after their ends."""
    generator = torch.Generator().manual_seed(seed)
    points = (torch.rand(len(lengths), 200, 3, generator=generator) - 0.5) * torch.tensor([1.9, 1.9, 1.2])
    points[..., 2] = points[..., 2].abs() * (points[..., 0] > 0) + 0.3 * points[..., 1]
    points[torch.arange(200) >= torch.tensor(lengths)[:, None]] = 0
    return {
        "points": points,
        length_key("points"): torch.tensor(lengths),
        "id": torch.arange(len(lengths)) + 7,
    }


def known(system: Any, batch: dict[str, Tensor]) -> tuple[Any, Mask, dict[str, Answers]]:
    """Tokens, what is hidden of them, and what is so at all of them, by name of the term."""
    tokens = system.tokenizer(batch)
    answers = {term.name: answer for term, answer in system.answers(batch, tokens).items()}
    return tokens, system.draw(tokens, batch, STEP), answers


# ----------------------------------------------------------------------------------- what is hidden


def test_seven_of_ten_pillars_of_each_sample_are_hidden_and_padding_never() -> None:
    """As the release keeps int(0.3 V) of V, and each pillar as often as any other."""
    system, batch = make(), clouds()
    tokens = system.tokenizer(batch)
    count = tokens.valid.sum(1)
    hidden = torch.zeros(tokens.shape)
    for index in range(100):
        mask = system.draw(tokens, batch, Step(index, 100)).hidden
        assert (
            torch.equal(mask.sum(1), count - (0.3 * count + 1e-9).long()) and not (mask & ~tokens.valid).any()
        )
        hidden += mask
    assert not torch.equal(mask[0], mask[2])  # samples of a batch differ
    for row in range(4):
        n = int(count[row])
        p = math.ceil(0.7 * n - 1e-9) / n
        spread = (hidden[row, :n] / 100 - p).abs().max()
        assert spread < 4.5 * math.sqrt(p * (1 - p) / 100)


# ------------------------------------------------------------------------------------ what is seen


def test_decoders_are_as_wide_as_in_the_release() -> None:
    """Feed-forward layers of 256 over 128, as in its encoder."""
    facts = {"features": 1, "feature_names": ("intensity",)}
    system = build("pointcloud/geomae", preset="paper", facts=facts, **{"encoder.depth": 1})
    widths = {block.mlp.fc1.out_features for decoder in system.decoders.values() for block in decoder.blocks}
    assert widths == {256} == {block.mlp.fc1.out_features for block in system.encoder.blocks}


def test_hidden_points_reach_neither_the_encoder_nor_any_prediction() -> None:
    system, batch = make().eval(), clouds()
    tokens, mask, before = known(system, batch)
    index, _ = system.tokenizer.cells.index(batch["points"])
    key = system.tokenizer.cells.key(index)
    own = system.tokenizer.cells.key(system.tokenizer.cells.index(_centres(system, tokens))[0])
    gone = ((key[:, :, None] == own[:, None]) & mask.hidden[:, None]).any(-1)
    other = {**batch, "points": batch["points"].clone()}
    other["points"][..., 2][gone] = -other["points"][..., 2][gone] / 2 + 0.1  # stays in its pillar
    changed, _, after = known(system, other)
    assert torch.equal(changed.position, tokens.position)
    guesses = [system.predict(x, mask) for x in (tokens, changed)]
    assert all(torch.equal(guesses[0][term], guesses[1][term]) for term in guesses[0])
    assert all(not torch.equal(before[name].values, after[name].values) for name in (*PLACE, *SURFACE))
    seen = {**batch, "points": batch["points"].clone()}
    seen["points"][..., 2][~gone] /= 2
    guess = system.predict(system.tokenizer(seen), mask)
    assert all(not torch.equal(guesses[0][term], guess[term]) for term in guess)


def _centres(system: Any, tokens: Any) -> Tensor:
    return torch.nn.functional.pad(tokens.position * 0.1, (0, 1))


# --------------------------------------------------------------------------------------- the loss


def test_losses_are_those_of_the_release_by_hand() -> None:
    """Weights 10, 8, 10, 5, 2, 4, 4; means over what is known of the hidden pillars of the whole batch."""
    system, batch = make(), clouds()
    tokens, mask, answers = known(system, batch)
    losses = system(batch, STEP)
    assert tuple(losses) == PLACE + SURFACE
    weights = dict(zip(losses, (10, 8, 10, 5, 2, 4, 4), strict=True))
    costs: dict[str, list[float]] = {name: [] for name in losses}
    guesses = {term.name: guess for term, guess in system.predict(tokens, mask).items()}
    for name, answer in answers.items():
        for row in range(len(mask.hidden)):
            for place, site in enumerate(mask.hidden[row].nonzero()[:, 0].tolist()):
                for part in answer.known[row, site].nonzero()[:, 0].tolist():
                    x, y = guesses[name][row, place, part].detach(), answer.values[row, site, part]
                    if name.startswith("occupancy"):  # the release: both logits against one of two
                        p = torch.stack([-x, x]).sigmoid()
                        both = torch.stack([1 - y, y])
                        cost = -(both * p.log() + (1 - both) * (1 - p).log()).mean()
                    elif name == "normal":
                        cost = 1 - (x @ y / x.norm() / y.norm()) ** 2
                    else:
                        cost = (x - y).square().mean()
                    costs[name].append(float(cost))
    for name, loss in losses.items():
        assert float(loss.detach()) == pytest.approx(
            weights[name] * sum(costs[name]) / len(costs[name]), rel=1e-4
        )
    hidden = int(mask.hidden.sum())
    assert [len(costs[name]) for name in ("centroid 3", "occupancy 1", "occupancy 2")] == [
        hidden,
        128 * hidden,
        16 * hidden,
    ]
    assert hidden < len(costs["centroid 2"]) < len(costs["centroid 1"]) < 128 * hidden


def test_empty_slots_padding_and_surfaces_of_too_few_places_get_no_gradient() -> None:
    system, batch = make(**{"normal_target.least": 12, "curvature_target.least": 12}), clouds()
    tokens, mask, answers = known(system, batch)
    guesses = {term: guess.detach().requires_grad_() for term, guess in system.predict(tokens, mask).items()}
    system.predict = lambda *_: guesses
    sum(system(batch, STEP).values()).backward()
    for term, guess in guesses.items():
        moved = guess.grad.ne(0).any(-1)
        for row in range(len(moved)):
            sites = mask.hidden[row].nonzero()[:, 0]
            assert torch.equal(moved[row, : len(sites)], answers[term.name].known[row, sites])
            assert not moved[row, len(sites) :].any()
        assert moved.any() and (term.kind == "occupancy" or term.name == "centroid 3" or not moved.all())


@pytest.mark.parametrize("terms", [PLACE, SURFACE], ids=["place", "surface"])
def test_each_decoder_learns_from_its_own_terms(terms: tuple[str, ...]) -> None:
    system, batch = make(), clouds()
    losses = system(batch, STEP)
    torch.stack([losses[name] for name in terms]).sum().backward()
    mine, other = ("place", "surface") if terms == PLACE else ("surface", "place")
    moved = {name: p.grad is not None and bool(p.grad.any()) for name, p in system.named_parameters()}
    shared = {"embed", "mask_token"}
    own = {n: x for n, x in moved.items() if n.startswith(f"decoders.{mine}")}
    others = {
        n: x for n, x in moved.items() if n.startswith(f"decoders.{other}") and n.split(".")[2] not in shared
    }
    assert own and all(own.values()) and others and not any(others.values())
    assert (
        moved["decoders.place.mask_token"] and moved["decoders.place.embed.weight"]
    )  # one sequence for both
    assert "decoders.surface.mask_token" not in moved
    assert moved["encoder.blocks.0.attn.qkv.weight"]


def test_a_pillar_counts_alike_in_any_batch() -> None:
    """The loss of two samples is the mean of theirs by how many parts are known, not of means."""
    system, batch = make().eval(), clouds()
    one, two = ({key: value[part] for key, value in batch.items()} for part in (slice(0, 1), slice(1, 2)))
    both = {key: value[:2] for key, value in batch.items()}
    losses = [system(x, STEP) for x in (one, two, both)]
    for name in losses[0]:
        counts = []
        for x in (one, two):
            _, mask, answers = known(system, x)
            counts.append(int((answers[name].known & mask.hidden[..., None]).sum()))
        mean = (counts[0] * losses[0][name] + counts[1] * losses[1][name]) / sum(counts)
        torch.testing.assert_close(losses[2][name], mean, rtol=1e-4, atol=1e-6)


def test_what_weighs_nothing_is_neither_predicted_nor_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    one = make(**NONE | {"occupancy_weights": (0, 2.0)})
    monkeypatch.setattr(one.normal_target, "answers", None)  # would fail if asked
    assert list(one(clouds(), STEP)) == ["occupancy 2"] and list(one.decoders) == ["place"]
    assert one.decoders["place"].head.out_features == 16
    surface = make(**NONE | {"normal_weight": 1.0})
    assert list(surface(clouds(), STEP)) == ["normal"] and list(surface.decoders) == ["surface"]
    whole = make()
    assert [whole.decoders[x].head.out_features for x in whole.decoders] == [3 * 145 + 144, 6]


def test_what_targets_share_is_found_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shape around a token is one, unless its targets are set up to see it otherwise."""
    shapes: list[Any] = []
    shape = surfaces.local_shape
    monkeypatch.setattr(surfaces, "local_shape", lambda *x: shapes.append(x) or shape(*x))
    make()(clouds(), STEP)
    assert len(shapes) == 1
    make(**{"curvature_target.centre": "token"})(clouds(), STEP)
    assert len(shapes) == 3


# -------------------------------------------------------------------------- as released, and swaps


def test_random_signs_make_nothing_the_best_guess_under_squared_error() -> None:
    """It costs 1/3; with a sign settled, or none taken notice of, a right guess costs nothing."""
    batch = clouds()
    released = {"normal_objective": "core/mse", "normal_weight": 1.0}
    for sign, floor in (("none", 1 / 3), ("outward", 0.0)):
        system = make(**NONE | released, **{"normal_target.sign": sign})
        tokens, _, answers = known(system, batch)
        values = answers["normal"].values
        flip = (
            torch.where(torch.rand(values.shape[:3]) < 0.5, -1.0, 1.0)[..., None] if sign == "none" else 1.0
        )
        objective = system.normal_objective
        assert float(
            objective(torch.zeros(1, 99, 3), (flip * values).view(1, -1, 3)[:, :99])
        ) == pytest.approx(1 / 3)
        if not floor:
            again = system.answers(batch, tokens)
            assert all(torch.equal(a.values, values) for a in again.values())
    undirected = make().normal_objective
    normal = torch.nn.functional.normalize(torch.randn(1, 5, 3), dim=-1)
    assert float(undirected(-2 * normal, normal)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("tokenizer", ["pointcloud/voxels", "pointcloud/groups"])
def test_other_tokens_have_geometry_too(tokenizer: str) -> None:
    small = {key: value for key, value in TINY.items() if not key.startswith("tokenizer")}
    system: Any = build("pointcloud/geomae", preset="tiny", tokenizer=tokenizer, **small)
    losses = system(clouds(), STEP)
    assert tuple(losses) == PLACE + SURFACE and all(loss.isfinite() and loss > 0 for loss in losses.values())


def test_any_target_may_stand_in_a_slot() -> None:
    """One that speaks of whole tokens weighs as one scale; the points of each pillar by Chamfer distance."""
    system = make(
        **NONE | {"centroid_weights": (3.0,)},
        centroid_target="pointcloud/coordinates",
        centroid_objective="pointcloud/chamfer",
    )
    losses = system(clouds(), STEP)
    assert list(losses) == ["centroid"] and system.decoders["place"].head.out_features == 24


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (NONE, "nothing to predict"),
        ({"centroid_weights": (1.0, 1.0)}, "centroid: weights .* for 3 scales"),
        ({"normal_weight": -1.0}, "normal: weights .* 0 or more"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**options)


# -------------------------------------------------------------------------------------- it learns


def roofs(n: int, seed: int) -> dict[str, Tensor]:
    """Points at random on two slopes that meet, higher in one cloud than in another."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (2 * torch.rand(2, n, 400, generator=generator) - 1).unbind(0)
    height = torch.rand(n, 1, generator=generator) - 0.5
    return {"points": torch.stack([x, y, 0.4 - 0.8 * x.abs() + height], dim=-1), "id": torch.arange(n) + seed}


@pytest.mark.slow
def test_it_beats_guesses_that_know_nothing_on_unseen_clouds() -> None:
    """They are the mean of centroids and of curvature, how often each slot is occupied, and the direction
    that normals are nearest to, all of the very pillars that are asked for."""
    weights = {"centroid 1": 4.0, "centroid 2": 2.0, "occupancy": 5.0, "normal": 4.0, "curvature": 20.0}
    system = make(
        **{"tokenizer.pillar": 0.4, "encoder.dim": 48, "decoder_dim": 48},
        **{"centroid_target.scales": ((1, 1, 4), (1, 1, 1)), "occupancy_target.scales": ((1, 1, 8),)},
        centroid_weights=(weights["centroid 1"], weights["centroid 2"]),
        occupancy_weights=(weights["occupancy"],),
        normal_weight=weights["normal"],
        curvature_weight=weights["curvature"],
    )
    optimizer = torch.optim.AdamW(system.parameters(), lr=3e-3)
    for i in range(120):
        optimizer.zero_grad()
        sum(system(roofs(12, i + 1), Step(i, 120)).values()).backward()
        optimizer.step()
    system.eval()
    batch = roofs(64, 0)
    _, mask, answers = known(system, batch)
    with torch.no_grad():
        found = {name: float(loss) / weights[name] for name, loss in system(batch, STEP).items()}
    share = answers["occupancy"].values[mask.hidden].mean(0).clamp(1e-6, 1 - 1e-6)
    least = {"occupancy": float(-(share * share.log() + (1 - share) * (1 - share).log()).mean())}
    for name in ("centroid 1", "centroid 2", "curvature", "normal"):
        values = answers[name].values[answers[name].known & mask.hidden[..., None]]
        least[name] = float(values.var(0, unbiased=False).mean())
        if name == "normal":
            least[name] = 1 - float(torch.linalg.eigvalsh(values.T @ values / len(values))[-1])
    assert all(found[name] < 0.8 * least[name] for name in weights), (found, least)


# ------------------------------------------------------------------------------------ what it shows


def test_pictures_show_predicted_centroids_where_occupied_and_normals() -> None:
    system, batch = make(), clouds((200, 120))
    columns = system.preview(batch, STEP).media
    assert len(columns) == 5 and all(len(shown) == 2 for shown in columns.values())
    tokens, mask, _ = known(system, batch)
    term, guess = next(iter(system.predict(tokens, mask).items()))
    held = next(x for t, x in system.predict(tokens, mask).items() if t.name == "occupancy 1")
    assert term.name == "centroid 1" and guess.shape[2] == 128
    of_slots = "visible, hidden and predicted: centroids of its {} slots, if thought occupied"
    finest = columns[of_slots.format(128)][1]
    sites = int(mask.hidden[1].sum())
    assert len(finest.layers["predicted"]) == int((held[1, :sites] > 0).sum())
    assert len(finest.layers["visible"]) + len(finest.layers["hidden"]) == 120
    assert list(columns) == [
        *(of_slots.format(n) for n in (128, 16)),
        "visible, hidden and predicted: the centroid of each token",
        "true normals: the more along x, y and z, the more red, green and blue",
        "predicted normals: in the same colours",
    ]
    *_, true, _ = columns.values()
    colours = torch.from_numpy(true[1].colours["hidden"])
    torch.testing.assert_close(colours.norm(dim=1), torch.ones(len(colours)).double(), atol=1e-5, rtol=0)
