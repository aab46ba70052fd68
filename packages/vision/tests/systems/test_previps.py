"""Views are matched over modalities and cameras, and masked poses are predicted from what is encoded."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Batch, Mask, Run, Step, UserError, build
from polymask.recipes import run_recipe
from polymask_vision.poses import SEEN, Figures
from polymask_vision.stick_figures import storyboards
from polymask_vision.view_matching import Views, match_views

FACTS = {
    "frames": 4,
    "size": (16, 16),
    "channels": 3,
    "persons": 2,
    "joints": 17,
    "views": 3,
}
TINY = {
    "tokenizer.run": "random:16x4",
    "target.run": "random:16x4",
    "encoder.dim": 24,
    "encoder.depth": 2,
    "encoder.heads": 2,
    "video_tokenizer.patch_size": 8,
    "video_encoder.dim": 24,
    "video_encoder.depth": 1,
    "video_encoder.heads": 2,
    "dim": 16,
    "decoder_depth": 1,
    "decoder_heads": 2,
    "masking.ratio": 0.3,
}
POSES = {"video_tokenizer": None, "video_encoder": None}
STEP = Step(6, 10, seed=1)
LOG = math.log


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    kept = {k: v for k, v in TINY.items() if k.partition(".")[0] not in options}
    return build("vision/previps", facts=FACTS, **(kept | options))


def shaken(system: Any) -> Any:
    """All parameters moved, so that nothing is equal by initialisation."""
    with torch.no_grad():
        for parameter in system.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return system


def windows(system: Any, n: int = 5) -> Batch:
    return {**system.example(n), "id": torch.arange(n) * 3}


def with_two_views(batch: Batch, row: int = 1) -> Batch:
    """The same, the third camera of one window being padding."""
    n, v = batch["pose"].shape[:2]
    length = torch.full((n,), v)
    length[row] = 2
    there = torch.arange(v) < length[:, None]

    def cut(x: Tensor) -> Tensor:
        return torch.where(there.view(n, v, *[1] * (x.dim() - 2)), x, 0)

    found = {key: cut(value) if key != "id" else value for key, value in batch.items()}
    return found | {f"{key}_length": length for key in ("video", "pose", SEEN)}


def embedded(system: Any, batch: Batch, mask: Mask | None = None) -> dict[str, Views]:
    tokens = system.tokenizer(batch)
    found: dict[str, Views] = system.embed(batch, tokens, system.read(tokens, mask, batch))
    return found


# ------------------------------------------------------------------------------------- matching


def clip(one: Tensor, other: Tensor, temperature: float = 0.07) -> Tensor:
    logits = F.normalize(one, dim=-1) @ F.normalize(other, dim=-1).T / temperature
    right = torch.arange(len(one))
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def test_losses_are_those_of_the_paper_by_hand() -> None:
    system = shaken(make())
    batch = windows(system)
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    found = embedded(system, batch, mask)
    i, j = found["video"].values, found["pose"].values
    assert found["video"].real.all() and found["pose"].real.all()
    pairs = [(p, q) for p, q in itertools.product(range(3), repeat=2) if p != q]
    cross = torch.stack([clip(i[:, p], j[:, q]) for p in range(3) for q in range(3)]).mean()
    own = sum(torch.stack([clip(x[:, p], x[:, q]) for p, q in pairs]).mean() for x in (i, j))
    losses = system(batch, STEP)
    torch.testing.assert_close(losses["match"], cross + own)
    s = i @ j.transpose(1, 2)
    geometry = (s - s.transpose(1, 2)).square().sum((1, 2))
    geometry = geometry + (i @ i.transpose(1, 2) - j @ j.transpose(1, 2)).square().sum((1, 2))
    torch.testing.assert_close(losses["geometry"], 0.5 * geometry.mean())
    assert set(losses) == {"match", "geometry", "masked"}
    system.match_weight = 0.3
    torch.testing.assert_close(system(batch, STEP)["match"], 0.3 * losses["match"])
    assert len(make(decoder_depth=3).decoder.blocks) == 3


def test_chance_costs_the_logarithm_of_the_batch() -> None:
    """Equal embeddings exactly, random ones a little more: the variance of logits at a low temperature."""
    objective = build("core/infonce", "objectives")
    generator = torch.Generator().manual_seed(0)
    there = torch.ones(64, 2, dtype=torch.bool)
    equal = Views(torch.ones(64, 2, 256), there)
    found = match_views(objective, {"video": equal, "pose": equal})
    assert float(found) == pytest.approx(3 * LOG(64), rel=1e-5)
    one, other = (Views(torch.randn(64, 2, 256, generator=generator), there) for _ in range(2))
    cost = float(match_views(objective, {"video": one, "pose": other})) / 3
    assert cost == pytest.approx(LOG(64) + 1 / (2 * 256 * 0.07**2), abs=0.12)
    sharp = build("core/infonce", "objectives", temperature=1e-3)
    assert match_views(sharp, {"video": one, "pose": one}) > 1  # its two views differ
    same = Views(one.values[:, :1].expand(-1, 2, -1), there)
    assert match_views(sharp, {"video": same, "pose": same}) < 1e-6
    # one view by one modality has nothing to be matched with
    assert match_views(objective, {"pose": Views(one.values[:, :1], there[:, :1])}) == 0


def test_a_missing_camera_takes_no_part_in_any_pair() -> None:
    system = shaken(make(masking=None)).eval()
    batch = with_two_views(windows(system))
    noisy = {**batch, "video": batch["video"].clone()}
    noisy["video"][1, 2] = 50.0
    torch.testing.assert_close(system(batch, STEP), system(noisy, STEP))
    found = embedded(system, batch)
    for views in found.values():
        assert views.real.tolist() == [[True] * 3, [True, True, False], *[[True] * 3] * 3]
    # pairs with the third camera are scored over the other windows
    others = [0, 2, 3, 4]
    i, j = found["video"].values, found["pose"].values
    third = system.match_objective(i[:, [2]], j[:, [0]], Mask(found["video"].real[:, [2]]))
    torch.testing.assert_close(third, clip(i[others, 2], j[others, 0]))
    # and a camera that one window alone has matches nothing, and is no part of the mean
    few, seen = {name: Views(x.values, x.real.clone()) for name, x in found.items()}, [0, 1, 2, 3]
    pair = {name: Views(x.values[:, :2], x.real[:, :2]) for name, x in found.items()}
    for views in few.values():
        views.real[seen, 2] = False
    torch.testing.assert_close(
        match_views(system.match_objective, few), match_views(system.match_objective, pair)
    )
    tokens = system.encode(batch)
    alone = {key: batch[key][[1], :2] for key in ("video", "pose", SEEN)}
    torch.testing.assert_close(tokens.pool()[1], system.encode(alone).pool()[0], rtol=1e-4, atol=1e-5)


def test_a_view_of_nobody_is_finite_and_matches_nothing() -> None:
    for options in ({}, {"encoder.class_token": False}):
        system = shaken(make(**options))
        batch = windows(system)
        batch[SEEN][0, 1] = 0
        batch[SEEN][2] = 0
        losses = system(batch, STEP)
        sum(losses.values()).backward()  # type: ignore[union-attr]
        assert all(p.grad.isfinite().all() for p in system.parameters() if p.grad is not None)
        found = embedded(system, batch)
        assert found["pose"].values.isfinite().all() and losses["match"].isfinite()
        assert not found["pose"].real[0, 1] and found["pose"].real.sum() == 11
        other = {**batch, "video": batch["video"].clone()}
        other["video"][0, 1] = torch.randn_like(other["video"][0, 1])
        again = system(other, STEP)
        assert torch.equal(again["geometry"], losses["geometry"])
        assert not torch.equal(again["match"], losses["match"])  # of two clips
        assert system.encode(batch).pool().isfinite().all()


def test_what_stands_in_empty_places_is_attended_to_by_nobody() -> None:
    for options in ({}, {"encoder.class_token": False}):
        system = shaken(make(**options)).eval()
        batch = windows(system)
        batch[SEEN][:, 0, 0, 0] = 0
        tokens = system.tokenizer(batch)
        assert not tokens.real[:, 0].any()
        other = type(tokens)(
            torch.where(tokens.real[..., None], tokens.values, 9.0), tokens.position, valid=tokens.valid
        )
        one, two = (system.embed(batch, x, system.read(x, None, batch))["pose"] for x in (tokens, other))
        assert torch.equal(one.values, two.values)


def test_empty_places_change_nothing() -> None:
    system = shaken(make()).eval()
    batch = windows(system)
    more = {**batch, "pose": F.pad(batch["pose"], (0, 0, 0, 0, 0, 2)), SEEN: F.pad(batch[SEEN], (0, 0, 0, 2))}
    for one, other in zip(embedded(system, batch).values(), embedded(system, more).values(), strict=True):
        torch.testing.assert_close(one.values, other.values, atol=1e-6, rtol=1e-5)
        assert torch.equal(one.real, other.real)


def test_times_have_an_order() -> None:
    system = shaken(make(masking=None)).eval()
    batch = windows(system)
    turned = {**batch, "pose": batch["pose"].flip(2), SEEN: batch[SEEN].flip(2)}
    before, after = (embedded(system, x)["pose"].values for x in (batch, turned))
    assert (before - after).abs().amax(-1).min() > 1e-4


def test_cameras_have_no_order_unless_they_have_codes() -> None:
    order = [2, 0, 1]
    for options, still in (({"masking": None}, True), ({"masking": None, "view_code": True}, False)):
        system = shaken(make(**options)).eval()
        batch = windows(system)
        turned = {key: value[:, order] if key != "id" else value for key, value in batch.items()}
        before, after = (embedded(system, x)["pose"].values for x in (batch, turned))
        same = torch.allclose(before[:, order], after, atol=1e-5)
        assert same == still
        if still:
            torch.testing.assert_close(system(batch, STEP), system(turned, STEP))
            torch.testing.assert_close(system.encode(batch).pool(), system.encode(turned).pool())


# ------------------------------------------------------------------------------- masked poses


def test_masked_poses_are_scored_by_their_codes_and_by_none_that_is_seen() -> None:
    system = shaken(make())
    batch = windows(system)
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    assert not (mask.hidden & ~tokens.real).any()
    counts = (mask.hidden.sum(1) / tokens.real.sum(1)).tolist()
    assert all(abs(share - 0.3) < 0.04 for share in counts)
    poses = system.read(tokens, mask, batch)
    features = system.decoder(poses).reshape(5, -1, 24)[mask.hidden]
    logits = system.decoder.head(features).view(-1, 4, 16)
    ids = system.target(batch, tokens)[mask.hidden]
    expected = F.cross_entropy(logits.flatten(0, 1), ids.flatten())
    torch.testing.assert_close(system(batch, STEP)["masked"], 0.5 * expected)


def test_what_is_masked_does_not_reach_predictions_and_what_is_not_does() -> None:
    system = shaken(make()).eval()
    batch = windows(system)
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    first = system.read(tokens, mask, batch).values
    for which, still in ((mask.hidden, True), (tokens.real & ~mask.hidden, False)):
        values = torch.where(which[..., None], torch.randn_like(tokens.values), tokens.values)
        other = type(tokens)(values, tokens.position, valid=tokens.valid)
        # everywhere, since poses of a view attend to each other
        assert torch.equal(system.read(other, mask, batch).values, first) == still


def test_predictions_come_of_what_is_encoded() -> None:
    """Decoded from the encoder's input, the masked term would teach the encoder's blocks nothing."""
    system = shaken(make())
    batch = windows(system)
    system(batch, STEP)["masked"].backward()
    blocks = [p for block in system.encoder.blocks for p in block.parameters()]
    assert all(p.grad is not None and p.grad.any() for p in blocks if p.numel() > 72)
    assert system.mask_token.grad.any()
    assert all(p.grad is None for p in system.video_encoder.parameters())
    assert system.pose_map.weight.grad is None


def test_views_do_not_see_each_other() -> None:
    system = shaken(make(masking=None)).eval()
    batch = windows(system)
    other = {**batch, "pose": batch["pose"].clone(), "video": batch["video"].clone()}
    other["pose"][:, 1] = torch.rand_like(other["pose"][:, 1])
    other["video"][:, 1] *= -1
    before, after = embedded(system, batch), embedded(system, other)
    for name in before:
        moved = (before[name].values - after[name].values).abs().amax(-1) > 1e-5
        assert moved.any(0).tolist() == [False, True, False]


@pytest.mark.slow
def test_codes_are_learned_from_context() -> None:
    """Poses that alternate in time: masked ones can be told from those before and after alone."""
    torch.manual_seed(0)
    facts = FACTS | {"views": 1, "persons": 1, "frames": 8}
    options = {k: v for k, v in TINY.items() if not k.startswith("video")} | POSES
    options |= {"match_weight": 0.0, "geometry_weight": 0.0, "mask_weight": 1.0}
    options |= {"tokenizer.run": "random:16x1", "target.run": "random:16x1"}
    system: Any = build("vision/previps", facts=facts, **options)
    generator = torch.Generator().manual_seed(0)
    kinds = torch.rand(6, 17, 2, generator=generator)
    optimiser = torch.optim.AdamW([p for p in system.parameters() if p.requires_grad], 5e-3)

    def alternating(n: int) -> Batch:
        one, other = torch.randint(6, (2, n, 1), generator=generator)
        time = torch.arange(8) % 2
        pose = kinds[torch.where(time == 0, one, other)]
        return {
            "pose": pose[:, None, :, None],
            SEEN: torch.ones(n, 1, 8, 1, 17).long(),
            "id": torch.arange(n),
        }

    for index in range(120):
        optimiser.zero_grad()
        system(alternating(32), Step(index, 120))["masked"].backward()
        optimiser.step()
    system.eval()
    batch = alternating(200)
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    with torch.no_grad():
        logits, ids, real = system.masked_codes(batch, tokens, mask, system.read(tokens, mask, batch))
        blank = type(tokens)(torch.zeros_like(tokens.values), tokens.position, valid=tokens.valid)
        blind, _, _ = system.masked_codes(batch, tokens, mask, system.read(blank, mask, batch))
    right, without = ((x.argmax(-1) == ids)[real].float().mean() for x in (logits, blind))
    commonest = ids[real].flatten().bincount().max() / real.sum()
    assert right > commonest + 0.3 and right > without + 0.3, (right, commonest, without)


# ---------------------------------------------------------------------------- parts of it, and what not


def test_poses_alone_and_one_view() -> None:
    alone = make(**POSES, match_weight=0.0, geometry_weight=0.0)
    batch = windows(alone)
    assert "video" not in batch and set(alone(batch, STEP)) == {"masked"}
    assert alone.encode(batch).values.shape == (5, 3, 24)
    matched = make(**POSES)
    assert set(matched(batch, STEP)) == {"match", "masked"}
    system = make()
    one = {key: value[:, :1] if key != "id" else value for key, value in windows(system).items()}
    losses = system(one, STEP)
    found = embedded(system, one, system.draw(system.tokenizer(one), one, STEP))
    torch.testing.assert_close(losses["match"], clip(found["video"].values[:, 0], found["pose"].values[:, 0]))
    assert losses["geometry"] < 1e-10 and system.encode(one).values.shape == (5, 2, 16)
    assert set(make(masking=None, geometry_weight=0.0)(windows(system), STEP)) == {"match"}


def test_features_are_the_mean_of_views_and_modalities() -> None:
    system = shaken(make()).eval()
    batch = windows(system)
    found = embedded(system, batch)
    expected = torch.cat([found["video"].values, found["pose"].values], dim=1).mean(1)
    torch.testing.assert_close(system.encode(batch).pool(), expected)
    torch.testing.assert_close(found["pose"].values.norm(dim=-1), torch.ones(5, 3))


def test_what_cannot_be_is_said() -> None:
    for options, message in (
        ({"match_objective": "core/mse"}, "--match_objective core/infonce"),
        ({"match_weight": 0.0}, "--video_encoder none"),
        ({"match_weight": 0.0, "geometry_weight": 0.0}, "clips teach nothing"),
        ({**POSES, "match_weight": 0.0}, "geometric terms are least"),
        ({"video_encoder": None}, "give both or neither"),
        ({"target": None}, "--target vision/pose-codes"),
        ({**POSES, "match_weight": 0.0, "geometry_weight": 0.0, "masking": None}, "nothing masked"),
        ({**POSES, "views": 1}, "one view match nothing"),
        ({"decoder_heads": 5}, "not divisible by 5 heads"),
        ({"target.run": "random:16x2"}, "codes of two runs"),
    ):
        with pytest.raises(UserError, match=message):
            make(**options)
    soft = make()
    soft.masking = lambda request: Mask(torch.full((5, request.sites), 0.5))
    with pytest.raises(UserError, match="hides them in part"):
        soft(windows(soft), STEP)
    system = make(view_code=True)
    assert all(0.01 < x.detach().std() < 0.03 for x in (system.camera, system.mask_token))
    batch = windows(system)
    del batch["video"]
    with pytest.raises(UserError, match="have no video"):
        system(batch, STEP)


def test_the_monitor_tells_what_is_matched_and_how_many_masked_codes_are_right() -> None:
    system = shaken(make(masking=lambda request: Mask(uneven(request), valid=request.valid))).eval()
    batch = windows(system)
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    found, views = system.monitor(batch, STEP), embedded(system, batch, mask)
    assert set(found) == {"video", "pose", "masked codes that are right"}
    for name in ("video", "pose"):
        torch.testing.assert_close(found[name], views[name].values[:, 0].detach())
    features = system.decoder(system.read(tokens, mask, batch)).reshape(5, -1, 24)[mask.hidden]
    logits, ids = system.decoder.logits(features), system.target(batch, tokens)[mask.hidden]
    expected = F.cross_entropy(logits.flatten(0, 1), ids.flatten())
    torch.testing.assert_close(system(batch, STEP)["masked"], 0.5 * expected)
    right = logits.argmax(-1) == ids
    torch.testing.assert_close(found["masked codes that are right"], right.float().mean())


def uneven(request: Any) -> Tensor:
    """One more person in each row than in the one before, of those who are there."""
    order = (request.valid.long().cumsum(1) - 1).masked_fill(~request.valid, request.sites)
    hidden: Tensor = order <= torch.arange(len(order))[:, None]
    return hidden


def test_the_preview_draws_masked_poses_as_their_codes_say() -> None:
    system = make().eval()
    batch = windows(system)
    figures = Figures.of(batch)
    hidden = system.draw(system.tokenizer(batch), batch, STEP).hidden.view(figures.seen.shape[:-1])
    assert hidden.any() and not figures.seen[hidden].all()
    system.target.joints = lambda ids: torch.zeros(*ids.shape[:-1], 17, 2)
    middle = torch.where(hidden[..., None, None], figures.centre[..., None, :], batch["pose"])
    whole, visible, guessed = system.preview(batch, STEP).media.values()
    assert whole.shape == (5, 3, 192, 256)
    assert torch.equal(whole, storyboards(batch["pose"], figures.seen, hidden))
    assert torch.equal(visible, storyboards(batch["pose"], figures.seen & ~hidden[..., None]))
    assert torch.equal(guessed, storyboards(middle, figures.seen | hidden[..., None], hidden))
    assert not make(masking=None).preview(batch, STEP).media


@pytest.mark.slow
def test_the_recipe_trains_a_tokenizer_and_a_system_of_its_codes(tmp_path: Path) -> None:
    data = {"name": "vision/camera-poses", "windows": 24, "test_windows": 8, "size": 16}
    shared = {"batch_size": 8, "seed": 3}
    stage = run_recipe(
        "vision/previps",
        data,
        tmp_path / "recipe",
        options={"preset": "tiny", "steps": 5},
        shared=shared,
        progress=False,
    )
    first, second = stage.done
    assert (first.step, second.step) == (2, 3) and set(stage.probes()) == {"pose-tokenizer", "previps"}
    book = first.system.coder.codebook.book
    system: Any = Run.open(tmp_path / "recipe" / "previps").system
    assert torch.equal(system.target.coder.codebook.book, book)
    assert torch.equal(system.tokenizer.coder.codebook.book, book)
