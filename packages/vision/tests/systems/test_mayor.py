"""MAYOR: whose shape a box learns, which boxes count, what depends on what, from pixels to detections."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Batch, Mask, Step, UserError, build, default_registry
from polymask.data import collate, sample_of
from polymask.objectives import BinaryCrossEntropy, Dice
from polymask.testing import systems as checks
from polymask.testing.subject import Subject
from polymask_vision.datasets.base import ImageDataset
from polymask_vision.datasets.curved_text import curved_text
from polymask_vision.instance_masks import instances, rasterise

STEP = Step(3, 10, seed=1)
SIDE = 64
PROPOSED = {
    "boxes": "proposed",
    "anchor": 4.0,
    "anchors": 16,
    "before": 20,
    "after": 10,
    "rois": 16,
    "box_dim": 8,
}


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    facts = {"size": (SIDE, SIDE), "channels": 3}
    return build("vision/mayor", preset="tiny", facts=facts, **options).eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Three images of neighbouring lines, of which they have two to four, and one of a line alone."""
    given = {"pixels": SIDE, "height": (7.0, 10.0), "count": 8, "test": 0.0}
    samples = []
    for dense, numbers in ((1.0, (0, 1, 2)), (0.0, (3,))):
        samples += [ImageDataset(curved_text(dense=dense, **given)).split("train")[k] for k in numbers]
    return {**collate(samples), "id": torch.tensor([4, 8, 15, 16])}


def alone(batch: Batch, row: int) -> Batch:
    one = sample_of({name: x for name, x in batch.items() if name != "id"}, row)
    return {**collate([one]), "id": batch["id"][row : row + 1]}


def iou(one: Tensor, other: Tensor) -> Tensor:
    both, either = (one & other).flatten(-2).sum(-1), (one | other).flatten(-2).sum(-1)
    return both / either.clamp(min=1)


@pytest.mark.parametrize("objective", [BinaryCrossEntropy(), Dice()], ids=["bce", "dice"])
def test_the_loss_is_that_of_each_box_with_its_own_instance(batch: Batch, objective: Any) -> None:
    """Image by image and box by box, without padding."""
    name = "core/dice" if isinstance(objective, Dice) else "core/binary-cross-entropy"
    system = make(objective=name, margin=0.2)
    each = []
    for row in range(4):
        one = alone(batch, row)
        frames = system.framed(system.jittered(one, STEP))
        logits = system.draw_masks(system.pyramid(one["image"]), frames)
        for k, polygon in enumerate(one["polygons"][0]):
            truth = rasterise(polygon[None], frames[0, k : k + 1], (8, 8)).float()
            assert truth.any()
            each.append(objective(logits[:, k : k + 1].flatten(2), truth.flatten(1)[None]))
    loss = system(batch, STEP)
    assert list(loss) == ["mask"]
    torch.testing.assert_close(loss["mask"], torch.stack(each).mean())


def test_neighbours_are_ground_in_the_target_of_an_instance_and_text_in_that_of_pixels(batch: Batch) -> None:
    polygons, boxes, valid = instances(batch)
    owner = torch.arange(valid.shape[1]).expand_as(valid)
    own = make().truth(polygons, valid, boxes, owner)
    text = make(learn="text").truth(polygons, valid, boxes, owner)
    assert (text | own == text)[valid].all()
    more = (text & ~own).flatten(2).any(-1)
    assert more[:3][valid[:3]].float().mean() > 0.7 and not more[3, 0]
    moved = polygons.clone()
    moved[:, 1] += 100.0  # the second instance leaves
    again = make().truth(moved, valid, boxes, owner)
    assert torch.equal(again[:, 0], own[:, 0]) and torch.equal(again[:, 2:], own[:, 2:])
    assert not torch.equal(make(learn="text").truth(moved, valid, boxes, owner)[:, 0], text[:, 0])


def test_boxes_without_a_pixel_of_their_instance_do_not_count(batch: Batch) -> None:
    system = make()
    gone = {name: x.clone() for name, x in batch.items()}
    gone["polygons"][0, 0] = torch.tensor([1.0, 2.0])  # an outline without area, the box as it was
    frames = system.framed(system.jittered(gone, STEP))
    logits = system.draw_masks(system.pyramid(gone["image"]), frames)
    polygons, _, valid = instances(gone)
    owner = torch.arange(valid.shape[1]).expand_as(valid)
    truth = system.truth(polygons, valid, frames, owner)
    counted = valid.clone()
    counted[0, 0] = False
    expected = Dice()(logits.flatten(2), truth.flatten(2).float(), Mask(counted))
    torch.testing.assert_close(system(gone, STEP)["mask"], expected)
    none = {**gone, "polygons": torch.zeros_like(gone["polygons"])}
    assert system(none, STEP)["mask"] == 0


def test_padding_is_no_box_of_text_either(batch: Batch) -> None:
    """Its box, without extent at the corner of the image, lies within text here."""
    corner = {name: x[:2].clone() for name, x in batch.items()}
    square = torch.tensor([[-9.0, -9.0], [20.0, -9.0], [20.0, 20.0], [-9.0, 20.0]])
    corner["polygons"][:, 0] = square[torch.arange(16).clamp(max=3)]
    longer = {name: torch.nn.functional.pad(x, (0, 0, 0, 2)) for name, x in corner.items() if name == "boxes"}
    longer["polygons"] = torch.nn.functional.pad(corner["polygons"], (0, 0, 0, 0, 0, 2))
    system = make(learn="text")
    assert torch.equal(system({**corner, **longer}, STEP)["mask"], system(corner, STEP)["mask"])


def test_given_boxes_are_moved_a_little_at_random(batch: Batch) -> None:
    _, boxes, valid = instances(batch)
    assert torch.equal(make(jitter=0.0).jittered(batch, STEP), boxes)
    system = make(jitter=0.2)
    moved = system.jittered(batch, STEP)
    extent = (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2)
    share = ((moved - boxes) / extent)[valid]
    assert share.abs().max() <= 0.2 and share.std() > 0.08 and len(share.unique()) == share.numel()
    assert torch.equal(system.jittered(batch, STEP), moved)
    assert not torch.equal(system.jittered(batch, Step(4, 10, seed=1)), moved)
    one = system.jittered(alone(batch, 1), STEP)
    assert torch.equal(one[0], moved[1, : one.shape[1]])


def test_a_margin_shows_the_whole_of_what_a_box_cuts(batch: Batch) -> None:
    """The middle half of each box with a margin of half is the box."""
    polygons, boxes, valid = instances(batch)
    quarter = (boxes[..., 2:] - boxes[..., :2]) / 4
    cut = torch.cat([boxes[..., :2] + quarter, boxes[..., 2:] - quarter], dim=-1)
    system, owner = make(margin=0.5), torch.arange(valid.shape[1]).expand_as(valid)
    torch.testing.assert_close(system.framed(cut), boxes)
    whole = system.truth(polygons, valid, system.framed(cut), owner)
    assert (iou(whole, system.truth(polygons, valid, boxes, owner))[valid] > 0.95).all()


def test_image_boxes_and_targets_are_flipped_together(batch: Batch) -> None:
    """Features of a flipped box of the flipped image are the flipped ones, as is the target."""
    system, (polygons, boxes, valid) = make(), instances(batch)
    owner = torch.arange(valid.shape[1]).expand_as(valid)
    polygons_, boxes_ = polygons.clone(), boxes[..., [2, 1, 0, 3]].clone()
    polygons_[..., 0], boxes_[..., [0, 2]] = SIDE - polygons[..., 0], SIDE - boxes_[..., [0, 2]]
    flipped = system.truth(polygons_, valid, boxes_, owner).flip(-1)
    assert (iou(flipped, system.truth(polygons, valid, boxes, owner))[valid] > 0.95).all()
    flat = make(head="deconv")
    for layer in flat.mask_head.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            with torch.no_grad():
                layer.weight.copy_((layer.weight + layer.weight.flip(-1)) / 2)
    maps = [torch.randn(4, 8, SIDE // s, SIDE // s) for s in flat.pyramid.strides]
    one = flat.draw_masks([each.flip(-1) for each in maps], boxes_).flip(-1)
    torch.testing.assert_close(one[valid], flat.draw_masks(maps, boxes)[valid], atol=1e-4, rtol=1e-3)


def test_every_weight_learns_from_proposals_and_which_loss_reaches_what(batch: Batch) -> None:
    # the last norm of a block of timm begins at 0, and what is before it has no gradient then
    thin = {"channels": (8, 8, 8, 8), "stem_width": 8, "zero_init_last": False}
    system = make(**PROPOSED, arguments=thin)
    losses = system(batch, STEP)
    assert list(losses) == ["anchor", "anchor_box", "class", "box", "mask"]
    parts = {"anchor": "proposals", "anchor_box": "proposals", "class": "box_head", "box": "box_head"}
    reached: dict[str, set[str]] = {}
    for name, loss in losses.items():
        weights = dict(system.named_parameters())
        slopes = torch.autograd.grad(loss, list(weights.values()), retain_graph=True, allow_unused=True)
        for weight, slope in zip(weights, slopes, strict=True):
            if slope is not None and slope.any():
                reached.setdefault(weight, set()).add(name)
                own = parts.get(name, "mask_head")
                assert weight.split(".")[0] in (own, "pyramid"), (name, weight)
    assert {weight for weight in weights if weight not in reached} == set()
    assert all("mask" in reached[weight] for weight in weights if weight.startswith("mask_head"))


def test_an_image_without_text_teaches_where_there_is_none(batch: Batch) -> None:
    empty = {**alone(batch, 0), "boxes": torch.zeros(1, 0, 4), "polygons": torch.zeros(1, 0, 16, 2)}
    losses = make(**PROPOSED)(empty, STEP)
    assert losses["anchor"] > 0 and losses["class"] > 0
    assert all(losses[name] == 0 for name in ("anchor_box", "box", "mask"))
    assert make()(empty, STEP)["mask"] == 0


def test_losses_of_a_batch_are_those_of_its_images(batch: Batch) -> None:
    """All that is drawn for an image depends on its id, not on what it is with."""
    system = make(**PROPOSED)
    together = system(batch, STEP)
    each = [system(alone(batch, row), STEP) for row in range(4)]
    for name in ("anchor", "anchor_box", "class", "box"):
        mean = torch.stack([losses[name] for losses in each]).mean()
        torch.testing.assert_close(together[name], mean, rtol=1e-4, atol=1e-6)


def test_detections_are_of_each_image_and_their_masks_do_not_overlap(batch: Batch) -> None:
    system = make(**PROPOSED, margin=0.5)
    with torch.no_grad():  # masks that fill boxes twice as wide as those that were found
        system.mask_head.decoder[-1].bias.fill_(5.0)
    found = system.detect(batch, STEP, score=0.0, overlap=0.4)
    masks = found.pasted((SIDE, SIDE)) > 0.5
    assert masks.shape == (4, 10, SIDE, SIDE) and (found.score > 0).sum(1).min() >= 1
    for row in range(4):
        there = found.score[row] > 0
        assert (found.score[row][there].diff() <= 0).all()
        overlaps = iou(masks[row][there][:, None], masks[row][there][None])
        assert (overlaps - torch.eye(int(there.sum())) <= 0.4).all()
        (one,) = system.detect(alone(batch, row), STEP, score=0.0, overlap=0.4).score
        torch.testing.assert_close(one, found.score[row])
    given = {name: x for name, x in batch.items() if name in ("image", "id")}
    assert torch.equal(system.detect(given, STEP, score=0.0, overlap=0.4).score, found.score)


def test_given_boxes_have_a_mask_each(batch: Batch) -> None:
    system = make()
    found, (_, _, valid) = system.detect(batch, STEP), instances(batch)
    assert torch.equal(found.score > 0, valid) and torch.equal(found.boxes, system.jittered(batch, STEP))
    assert system.finds is False and make(**PROPOSED).finds


def test_pictures_show_outlines_of_what_is_found_and_of_what_is_there(batch: Batch) -> None:
    media = make().preview(batch, STEP).media
    assert list(media) == ["predicted", "true"]
    large = torch.nn.functional.interpolate(batch["image"], scale_factor=3)
    for picture in media.values():
        assert isinstance(picture, Tensor) and picture.shape == (4, 3, 3 * SIDE, 3 * SIDE)
        share = (picture != large).any(1).float().mean((1, 2))
        assert (share > 0).all() and (share < 0.3).all()
    (line,) = (media["true"][3:] != large[3:]).any(1).nonzero()[:, 1:].split(10**6)
    low, high = line.amin(0).flip(0) / 3, (line.amax(0).flip(0) + 1) / 3
    torch.testing.assert_close(torch.cat([low, high]), batch["boxes"][3, 0], atol=1.0, rtol=0)


def test_the_share_of_what_is_learned_is_told(batch: Batch) -> None:
    system, (polygons, _, valid) = make(), instances(batch)
    found = system.given(batch, STEP)
    owner = torch.arange(valid.shape[1]).expand_as(valid)
    overlap = iou(found.masks > 0.5, system.truth(polygons, valid, found.frames, owner))
    torch.testing.assert_close(system.monitor(batch, STEP)["mask_iou"], overlap[valid].mean())


@pytest.mark.parametrize(
    "check",
    [
        checks.check_system_trains_every_parameter,
        checks.check_system_is_a_function_of_the_step,
        checks.check_system_varies_with_the_step,
        checks.check_system_saves_all_it_needs,
        checks.check_system_survives_autocast,
        checks.check_system_loss_is_a_mean,
    ],
    ids=lambda check: check.__name__,
)
def test_proposals_pass_what_is_asked_of_systems(check: Any) -> None:
    registry = default_registry()
    check(Subject(registry.find("systems", "vision/mayor"), registry, {**PROPOSED, "anchors": 32}))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"jitter": 0.5}, "less than 0.5"),
        ({"model": "no_such_model"}, "no_such_model"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        make(**options)


def test_data_without_outlines_are_refused(batch: Batch) -> None:
    with pytest.raises(UserError, match="curved-text"):
        make()({name: x for name, x in batch.items() if name in ("image", "id")}, STEP)


@pytest.mark.compile
@pytest.mark.parametrize("learn", ["instance", "text"])
def test_it_compiles_in_one_graph_where_boxes_are_given(batch: Batch, learn: str) -> None:
    torch._dynamo.reset()
    system = make(learn=learn)
    compiled = torch.compile(system, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(batch, STEP)["mask"], system(batch, STEP)["mask"])
