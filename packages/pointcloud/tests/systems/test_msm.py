"""Masked Scene Modeling: masks handed down, hidden cells absent, cells matched, a loss per level."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import polymask
from polymask import Batch, Request, Step, Tokens, UserError
from polymask.data import open_data, sample_of
from polymask.maskings import Random
from polymask.report import views
from polymask.training.collapse import SPREAD, spread_and_rank
from polymask_pointcloud.colours import Colours
from polymask_pointcloud.datasets.draw import by_token
from polymask_pointcloud.maskings import Hierarchy
from polymask_pointcloud.operations.sparse import MIDDLE, unpack
from polymask_pointcloud.systems.msm import MSM
from polymask_pointcloud.tokenizers import UNIT, Voxels

STEP = Step(2, 10, 0)
STILL = {"turn": 0.0, "tilt": 0.0, "flip": 0.0, "scale": (1.0, 1.0), "jitter": 0.0}


def clouds(rows: int = 4, n: int = 600) -> Batch:
    """Spheres with dents, of several sizes."""
    generator = torch.Generator().manual_seed(0)
    points = F.normalize(torch.randn(rows, n, 3, generator=generator), dim=-1)
    points = points * (0.6 + 0.3 * (3 * points[..., :1]).sin())
    length = torch.tensor([n, n - 100, n - 7, n - 300])[:rows]
    points[torch.arange(n) >= length[:, None]] = 0
    return {"points": points, "points_length": length, "id": torch.arange(rows) * 3 + 1}


def build(**options: Any) -> MSM:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "tokenizer.voxel": 0.1,
        "encoder.down_dims": (8, 16, 16),
        "encoder.up_dims": (8, 16, 24),
        "encoder.head_dim": 4,
    }
    system = polymask.build("pointcloud/msm", preset="tiny", **{**sizes, **options})
    assert isinstance(system, MSM)
    return system.train()


# ------------------------------------------------------------------ masks


def requested(voxel: float = 0.05) -> tuple[Request, Tensor]:
    """A request over voxels, and where each lies in finest cells."""
    batch = clouds()
    tokens = Voxels(voxel=voxel)(batch)
    index = ((tokens.position.double() * 0.1 + 1) / voxel).floor().long()
    return Request.of(tokens, batch, STEP), index


def hierarchy(stride: int, voxel: float = 0.05, ratio: float = 0.4) -> Hierarchy:
    return Hierarchy(ratio=ratio, stride=stride, cell_low=(-1.0,) * 3, cell_size=(voxel,) * 3)


def states(hidden: Tensor, valid: Tensor, cell: Tensor) -> tuple[list[float], list[list[bool]]]:
    """For each sample, the share of its coarse cells that are hidden wholly, and the states met in each."""
    shares, met = [], []
    for row in range(len(hidden)):
        found: dict[tuple[int, ...], set[bool]] = {}
        for place, state, real in zip(
            cell[row].tolist(), hidden[row].tolist(), valid[row].tolist(), strict=True
        ):
            if real:
                found.setdefault(tuple(place), set()).add(state)
        shares.append(sum(s == {True} for s in found.values()) / len(found))
        met += [sorted(s) for s in found.values()]
    return shares, met


@pytest.mark.parametrize("stride", [1, 4, 8])
def test_a_cell_of_any_size_is_hidden_wholly_or_not_at_all(stride: int) -> None:
    request, index = requested()
    mask = hierarchy(stride)(request)
    assert request.valid is not None
    for finer in (stride, max(stride // 2, 1), 1):
        _, met = states(mask.hidden, request.valid, index // finer)
        assert all(len(s) == 1 for s in met)
    shares, met = states(mask.hidden, request.valid, index // stride)
    for row, share in enumerate(shares):
        cells = len({tuple(p) for p in (index // stride)[row][request.valid[row]].tolist()})
        assert share == int(0.4 * cells + 0.5) / cells


def test_hiding_voxels_one_by_one_leaves_some_of_almost_every_coarse_cell() -> None:
    request, index = requested()
    assert request.valid is not None
    handed_down, _ = states(hierarchy(8)(request).hidden, request.valid, index // 8)
    one_by_one, met = states(Random(ratio=0.4)(request).hidden, request.valid, index // 8)
    assert min(handed_down) > 0.35
    assert max(one_by_one) < 0.1 and sum(len(s) == 2 for s in met) > 0.8 * len(met)


def test_every_coarse_cell_is_hidden_as_often_as_any_other() -> None:
    request, _ = requested(0.1)
    masking = hierarchy(4, 0.1)
    rows = 500
    ids = torch.arange(rows)
    one = dataclasses.replace(
        request,
        ids=ids,
        position=request.position[:1].expand(rows, -1, -1),  # type: ignore[index]
        valid=request.valid[:1].expand(rows, -1),  # type: ignore[index]
    )
    rate = masking(one).hidden.double().mean(0)[request.valid[0]]  # type: ignore[index]
    assert (rate - rate.mean()).abs().max() < 5 * (0.4 * 0.6 / rows) ** 0.5


def test_cells_too_large_to_hide_any_are_refused() -> None:
    with pytest.raises(UserError, match="in one cell of 64"):
        hierarchy(64, 0.05)(requested()[0])


def test_the_masking_takes_the_size_of_coarsest_cells_from_the_encoder() -> None:
    system = build()
    assert isinstance(system.masking, Hierarchy) and system.masking.stride == 4
    assert system.masking.size == (0.1,) * 3


# ------------------------------------------------------------------ what the student sees


def test_each_view_draws_a_mask_of_its_own() -> None:
    """Views that are not moved have the same voxels, so masks of one stream would be equal."""
    system = build(**STILL)
    one, other = (system.view(clouds(), STEP, number) for number in (0, 1))
    assert one.mask is not None and other.mask is not None
    assert torch.equal(one.tokens.position, other.tokens.position)
    assert not torch.equal(one.mask.hidden, other.mask.hidden)
    again = system.view(clouds(), STEP, 1)
    assert again.mask is not None and torch.equal(other.mask.hidden, again.mask.hidden)


def test_hidden_cells_are_absent_at_every_level_of_the_encoder() -> None:
    system = build()
    view = system.view(clouds(), STEP, 0)
    assert view.mask is not None
    kept = view.mask.keep(view.tokens)
    seen = system.encoder.cells(kept.position, kept.valid)
    _, hidden = system.predict(view)
    for level, (known, whole) in enumerate(zip(seen.levels, view.cells.levels, strict=True)):
        assert len(known) < len(whole) and int(hidden[level].sum()) == len(whole) - len(known)
        if whole.parent is not None:  # hidden with its parent, and never otherwise
            assert torch.equal(hidden[level], hidden[level + 1][whole.parent])


def test_what_is_hidden_reaches_nothing_that_the_student_makes() -> None:
    system = build().eval()
    view = system.view(clouds(), STEP, 0)
    assert view.mask is not None
    noise = torch.randn(view.tokens.values.shape)

    def changed(at: polymask.Mask) -> list[Tensor]:
        tokens = dataclasses.replace(view.tokens, values=at.fill(view.tokens.values, noise))
        return system.predict(dataclasses.replace(view, tokens=tokens))[0]

    before, _ = system.predict(view)
    assert all(torch.equal(a, b) for a, b in zip(before, changed(view.mask), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before, changed(view.mask.invert()), strict=True))


def test_points_added_where_all_is_hidden_leave_the_encoding_as_it_is() -> None:
    system = build().eval()
    view = system.view(clouds(), STEP, 0)
    assert view.mask is not None
    kept = view.mask.keep(view.tokens)
    # a second token in the cell of each hidden one, and one in the same coarsest cell beside it
    more = dataclasses.replace(
        view.tokens,
        values=view.tokens.values.repeat(1, 2, 1),
        position=torch.cat([view.tokens.position, (view.tokens.position * 0.4).floor() / 0.4 + 0.1], dim=1),
        valid=torch.cat([view.tokens.valid, view.mask.hidden], dim=1),  # type: ignore[list-item]
    )
    hidden = torch.cat([view.mask.hidden, view.mask.hidden], dim=1)
    longer = polymask.Mask(hidden, None, more.valid).keep(more)

    def encoded(tokens: polymask.Tokens) -> list[Tensor]:
        cells = system.encoder.cells(tokens.position, tokens.valid)
        found: list[Tensor] = system.encoder.down(system.encoder.embed(tokens.values), cells)
        return found

    assert all(torch.equal(a, b) for a, b in zip(encoded(kept), encoded(longer), strict=True))


def test_tokens_for_hidden_cells_enter_at_the_coarsest_level() -> None:
    system = build()
    predictions, hidden = system.predict(system.view(clouds(), STEP, 0))
    assert system.mask_tokens is not None
    tokens = list(system.mask_tokens)
    # the coarsest level depends on its own token alone, the finest on all of them
    coarse = torch.autograd.grad(predictions[2].sum(), tokens, retain_graph=True, allow_unused=True)
    assert [g is not None for g in coarse] == [False, False, True]
    fine = torch.autograd.grad(predictions[0].square().sum(), tokens)
    assert all(bool(g.any()) for g in fine)
    assert all(bool(h.any()) for h in hidden)


# ------------------------------------------------------------------ matching


@pytest.mark.parametrize("level", [0, 1, 2])
def test_unmoved_views_match_themselves(level: int) -> None:
    system = build(**STILL)
    one, other = (system.view(clouds(), STEP, number) for number in (0, 1))
    at, found = system.match(one, other, level)
    assert found.all() and torch.equal(at, torch.arange(len(at)))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_cells_that_match_lie_within_half_a_cell_of_each_other(level: int) -> None:
    system = build(jitter=0.0, flip=0.5)
    batch = clouds()
    one, other = (system.view(batch, STEP, number) for number in (0, 1))
    assert (one.motion.matrix - other.motion.matrix).abs().amax((1, 2)).min() > 0.1
    at, found = system.match(one, other, level)
    assert found.double().mean() > 0.8
    mine, theirs = one.cells.levels[level], other.cells.levels[level]
    assert torch.equal(theirs.sample[at[found]], mine.sample[found])
    # where my cell lies in the other view, against the middle of the cell it was matched to
    place = other.motion.move(one.place[level], mine.sample)
    size = 0.1 * 2**level
    middle = (theirs.index - (MIDDLE >> level) + 0.5) * size - 1
    assert (place[found] - middle[at[found]]).abs().max() <= size / 2 + 1e-9
    # and no cell that it could be matched to was left out
    for cell in (~found).nonzero()[:5, 0].tolist():
        same = theirs.sample == mine.sample[cell]
        assert (middle[same] - place[cell]).abs().amax(1).min() > size / 2 - 1e-9
    # at a place that is the same before either was moved
    raw = (one.place[level][found] - other.place[level][at[found]]).abs().amax(1)
    assert raw.max() < 2 * size


def test_matching_where_views_put_them_pairs_others() -> None:
    system = build(jitter=0.0)
    batch = clouds()
    one, other = (system.view(batch, STEP, number) for number in (0, 1))
    at, found = system.match(one, other, 0)
    unturned = dataclasses.replace(other, motion=one.motion)
    wrong, also = system.match(one, unturned, 0)
    both = found & also
    assert (at == wrong)[both].double().mean() < 0.5


# ------------------------------------------------------------------ losses


def by_hand(system: MSM, batch: Batch, step: Step) -> list[Tensor]:
    """The loss of each level, cell by cell."""
    views = [system.view(batch, step, number) for number in (0, 1)]
    total = [torch.zeros(()) for _ in system.heads]
    for here, there in (views, views[::-1]):
        predictions, hidden = system.predict(here)
        with torch.no_grad():
            teacher: Any = system.teacher.module
            encoded = teacher.down(teacher.embed(there.tokens.values), there.cells)
            targets = teacher.up(encoded, there.cells, there.cells)
        for level, head in enumerate(system.heads):
            row, index = unpack(there.cells.levels[level].key)
            known = {(r, *p): i for i, (r, p) in enumerate(zip(row.tolist(), index.tolist(), strict=True))}
            mine, losses = here.cells.levels[level], []
            place = there.motion.move(here.place[level], mine.sample)
            for cell in hidden[level].nonzero()[:, 0].tolist():
                where = ((place[cell] + 1) / 0.1).floor().long() // 2**level + (MIDDLE >> level)
                match = known.get((int(mine.sample[cell]), *where.tolist()))
                if match is None:
                    continue
                target = targets[level][match]
                target = (target - target.mean()) / (target.var(unbiased=False) + 1e-5).sqrt()
                losses.append(1 - F.cosine_similarity(head(predictions[level][cell]), target, dim=0))
            total[level] = total[level] + torch.stack(losses).mean() / len(system.heads)
    return total


def test_hidden_cells_that_the_other_view_has_are_scored_and_levels_count_alike() -> None:
    system, batch = build(crop=0.7).eval(), clouds(2, 200)
    losses = system(batch, STEP)
    assert list(losses) == ["level 0", "level 1", "level 2"]
    torch.testing.assert_close(list(losses.values()), by_hand(system, batch, STEP), rtol=1e-4, atol=1e-5)


def test_a_cell_that_only_one_view_has_is_not_scored() -> None:
    system, batch = build(crop=0.6).eval(), clouds()
    one, other = (system.view(batch, STEP, number) for number in (0, 1))
    _, found = system.match(one, other, 0)
    assert 0.1 < found.double().mean() < 0.95
    # what the teacher says of cells that nothing is matched to makes no difference
    spied = system.teach

    def look(view: Any) -> list[Tensor]:
        targets = spied(view)
        for level, target in enumerate(targets):
            first, second = (
                (one, other) if len(view.cells.levels[0]) == len(other.cells.levels[0]) else (other, one)
            )
            at, found = system.match(first, second, level)
            alone = torch.ones(len(target), dtype=torch.bool)
            alone[at[found]] = False
            assert alone.any()
            target[alone] = torch.nan
        return targets

    assert len(one.cells.levels[0]) != len(other.cells.levels[0])
    before = system(batch, STEP)
    system.teach = look  # type: ignore[method-assign]
    after = system(batch, STEP)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_teacher_like_the_student_is_met_exactly_where_nothing_is_hidden() -> None:
    system = build(masking=None, **STILL).eval()
    system.heads = nn.ModuleList(Normalised() for _ in system.heads)
    losses = system(clouds(), STEP)
    assert all(float(loss) == pytest.approx(0, abs=1e-5) for loss in losses.values())
    moved = build(masking=None).eval()
    moved.heads = system.heads
    assert all(float(loss) > 1e-3 for loss in moved(clouds(), STEP).values())


class Normalised(nn.Module):
    """The head that makes a prediction what the target is made to be."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[1:])


# ------------------------------------------------------------------ gradients and the teacher


def test_each_level_trains_its_head_and_the_levels_above_it() -> None:
    system = build()
    losses = system(clouds(), STEP)
    system.zero_grad()
    losses["level 2"].backward(retain_graph=True)

    def touched(module: nn.Module) -> bool:
        return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())

    assert [touched(head) for head in system.heads] == [False, False, True]
    assert [touched(stage) for stage in system.encoder.up_stages] == [False, False, True]
    assert all(touched(stage) for stage in system.encoder.down_stages)
    losses["level 0"].backward()
    assert [touched(head) for head in system.heads] == [True, False, True]
    assert all(touched(stage) for stage in system.encoder.up_stages)
    assert not touched(system.teacher)


def test_the_teacher_is_an_average_of_the_student() -> None:
    system, batch = build(momentum=0.9, final_momentum=1.0), clouds()
    optimizer = torch.optim.SGD([p for p in system.parameters() if p.requires_grad], lr=0.5)
    before = [p.clone() for p in system.teacher.parameters()]
    sum(system(batch, STEP).values()).backward()  # type: ignore[union-attr]
    optimizer.step()
    system.after_step(STEP)
    m = system.teacher.momentum(STEP)
    assert 0.9 < m < 1 and system.teacher.momentum(Step(10, 10, 0)) == 1
    students = list(system.encoder.parameters())
    assert any(not torch.equal(s, b) for s, b in zip(students, before, strict=True))
    for teacher, old, student in zip(system.teacher.parameters(), before, students, strict=True):
        torch.testing.assert_close(teacher, m * old + (1 - m) * student.detach(), rtol=1e-5, atol=1e-6)
        assert teacher.grad is None


@pytest.mark.slow
def test_targets_collapse_without_a_teacher_and_keep_apart_with_one() -> None:
    batch = clouds(4, 300)

    def spreads(taught: bool) -> list[float]:
        system = build(masking=None, momentum=0.9)
        if not taught:  # both views by one network, drawn to each other
            system.teach = lambda view: [Normalised()(x) for x in system.predict(view)[0]]  # type: ignore
            system.objective = lambda x, y, mask: (1 - F.cosine_similarity(x, y, dim=-1)).mean()
            system.heads = nn.ModuleList(nn.Identity() for _ in system.heads)
        optimizer = torch.optim.Adam([p for p in system.parameters() if p.requires_grad], lr=3e-3)
        for index in range(15):
            optimizer.zero_grad()
            sum(system(batch, Step(index, 30, 0)).values()).backward()  # type: ignore[union-attr]
            optimizer.step()
            system.after_step(Step(index, 30, 0))
        return [spread_and_rank(x)[0] for x in system.teach(system.view(batch, STEP, 0))]

    for taught, alone in zip(spreads(True), spreads(False), strict=True):
        assert taught > 0.15 and taught > 3 * alone


def test_what_the_teacher_says_of_cells_is_watched_at_every_level() -> None:
    system, batch = build(), clouds()
    found = system.monitor(batch, STEP)
    assert list(found) == ["target 0", "target 1", "target 2"]
    assert [x.shape[1] for x in found.values()] == [8, 16, 24]
    assert all(spread_and_rank(x)[0] > SPREAD for x in found.values())
    for parameter in system.teacher.parameters():
        parameter.data.zero_()
    assert all(spread_and_rank(x)[0] < SPREAD for x in system.monitor(batch, STEP).values())


# ------------------------------------------------------------------ the whole


def test_features_are_of_the_student_and_of_the_whole_cloud() -> None:
    system, batch = build().eval(), clouds()
    tokens = system.encode(batch)
    assert tokens.values.shape[2] == 8 + 16 + 24 and tokens.shape == system.tokenizer(batch).shape
    for parameter in system.teacher.parameters():
        parameter.data.zero_()
    assert torch.equal(system.encode(batch).values, tokens.values)
    for parameter in system.encoder.parameters():
        parameter.data.mul_(0.5)
    assert not torch.equal(system.encode(batch).values, tokens.values)


def test_encoders_without_levels_are_refused() -> None:
    with pytest.raises(UserError, match="no levels: use pointcloud/unet"):
        polymask.build("pointcloud/msm", encoder={"name": "pointcloud/transformer", "dim": 24, "heads": 2})


@pytest.mark.parametrize("tokenizer", ["pointcloud/groups", "pointcloud/pillars"])
def test_other_tokens_train_too(tokenizer: str) -> None:
    torch.manual_seed(0)
    system = polymask.build("pointcloud/msm", preset="tiny", tokenizer=tokenizer)
    losses = system(clouds(), STEP)
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())


def cell(place: Tensor) -> Tensor:
    """Which voxel of :func:`build` a place lies in."""
    return ((place.double() + 1) / 0.1).floor().long()


@pytest.mark.parametrize("crop", [1.0, 0.6])
def test_masks_are_over_the_tokens_of_the_inputs_of_their_names(crop: float) -> None:
    """Those of moved clouds, by which a picture tells what of them is hidden."""
    system, batch = build(crop=crop), clouds()
    shown = system.masks(batch, STEP)
    assert list(shown) == ["view 1", "view 2"]
    for number, name in enumerate(shown):
        mask, inputs = shown[name].mask, shown[name].batch
        view, tokens = system.view(batch, STEP, number), system.tokenizer(inputs)
        assert torch.equal(shown[name].tokens.values, tokens.values)
        assert torch.equal(tokens.values, view.tokens.values)
        assert torch.equal(tokens.position, view.tokens.position)
        assert view.mask is not None and torch.equal(mask.hidden, view.mask.hidden)
        assert tokens.shape == mask.hidden.shape != system.tokenizer(batch).shape
        for row in range(4):
            cloud = sample_of(inputs, row)["points"]
            assert len(cloud) == round(crop * len(sample_of(batch, row)["points"]))
            real = tokens.valid[row]
            hidden = mask.hidden[row, real]
            own = Tokens(tokens.values[row, real][None], tokens.position[row, real][None])
            coloured = by_token(cloud, own, hidden).bool()
            gone = {tuple(x) for x in cell(own.position[0] * UNIT)[hidden].tolist()}
            assert coloured.tolist() == [tuple(x) in gone for x in cell(cloud).tolist()]


def test_look_draws_moved_clouds_with_what_is_hidden_of_them_in_colour() -> None:
    data = open_data("pointcloud/shapes")
    system = polymask.build("pointcloud/msm", preset="tiny", facts=data.provides).eval()
    batch = views.batch_of(data.split("test"), [0, 40])
    pictures = views.pictures_of(data, batch, 168)
    found = views.of_system(system)(batch, STEP)
    assert list(found) == ["view 1", "view 2"]
    for view in found.values():
        for before, drawn in zip(pictures, view.pixels(data, batch, pictures), strict=True):
            coloured = drawn[..., 2] - drawn[..., 0] > 0.2
            grey = (drawn.max(-1) < 0.95) & (drawn.max(-1) - drawn.min(-1) < 0.02)
            assert drawn.shape == before.shape
            assert 0.1 < coloured.sum() / (coloured | grey).sum() < 0.8
            # bars would fill whole columns
            assert (drawn.min(-1) > 0.98).mean() > 0.4


def test_pictures_show_what_is_hidden_and_colours_of_features() -> None:
    system, batch = build().eval(), clouds(2)
    columns = system.preview(batch, STEP).media
    assert len(columns) == 5 and all(len(column) == 2 for column in columns.values())
    view = system.view(batch, STEP, 0)
    sample = view.cells.levels[0].sample
    _, hidden = system.predict(view)
    first, teacher, guess = list(columns.values())[:3]
    for row in (0, 1):
        mine = sample == row
        assert len(first[row].layers["hidden"]) == int(hidden[0][mine].sum())
        assert len(first[row].layers["visible"]) == int((~hidden[0])[mine].sum())
        assert len(guess[row].layers["predicted"]) == int(hidden[0][mine].sum())
        colours = torch.from_numpy(guess[row].colours["predicted"])
        assert len(colours) == len(guess[row].layers["predicted"])
        assert colours.min() >= 0 and colours.max() <= 1 and colours.std(0).max() > 0.02
        assert torch.from_numpy(teacher[row].colours["features"]).std(0).min() > 0.05


def test_colours_are_alike_where_features_are() -> None:
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    colours = Colours(x)
    assert torch.allclose(colours(x)[:5], colours(x[:5]))
    torch.testing.assert_close(colours(x.mean(0, keepdim=True)), torch.full((1, 3), 0.5))
    assert torch.isfinite(Colours(torch.zeros(4, 2))(torch.ones(4, 2))).all()


def test_masking_and_network_serve_another_system() -> None:
    torch.manual_seed(0)
    system = polymask.build(
        "pointcloud/mae",
        preset="tiny",
        tokenizer={"name": "pointcloud/voxels", "voxel": 0.25, "neighbours": 4},
        encoder={"name": "pointcloud/unet", "down_dims": (8, 16), "up_dims": (8, 16)},
        masking={"name": "pointcloud/hierarchy", "ratio": 0.5},
    )
    batch = clouds()
    assert isinstance(system.masking, Hierarchy) and system.masking.stride == 2
    mask = system.masks(batch, STEP)["mask"].mask
    tokens = system.tokenizer(batch)
    index = ((tokens.position.double() * 0.1 + 1) / 0.25).floor().long()
    shares, met = states(mask.hidden, tokens.valid, index // 2)
    assert all(len(s) == 1 for s in met) and min(shares) > 0.35
    loss = sum(system(batch, STEP).values())
    assert isinstance(loss, Tensor) and loss.isfinite()
