"""MoM hides features of objects, paints their crops, and tells their distance from the same encoding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polymask import Batch, Mask, Step, Tokens, UserError, build
from polymask.data import collate
from polymask_vision.distance_head import DistanceHead

STEP = Step(3, 10, seed=1)
FACTS = {"size": (64, 64), "channels": 3, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
GRID, N = (8, 8), 64


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    return build("vision/mom", preset="tiny", facts=FACTS, **options)


def sample(seed: int, n: int) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=chance) * 24
    box = torch.cat([corner, corner + 12 + 20 * torch.rand(n, 2, generator=chance)], dim=1)
    image = torch.randn(3, 64, 64, generator=chance)
    return {"image": image, "boxes": box, "distance": 1 + 3 * torch.rand(n, generator=chance)}


def batch_of(*counts: int) -> Batch:
    batch = collate([sample(seed, n) for seed, n in enumerate(counts)])
    return {**batch, "id": torch.arange(len(counts)) + 7}


def gradients(system: Any, loss: Tensor) -> dict[str, bool]:
    """Which parts of a system a loss reaches."""
    parts = {
        "backbone": system.regions.pyramid.backbone,
        "regions": system.regions.project,
        "encoder": system.encoder,
        "decoder": system.decoder,
        "head": system.head,
    }
    found = {}
    for name, part in parts.items():
        weights = [p for p in part.parameters() if p.requires_grad]
        given = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        found[name] = any(g is not None and bool(g.any()) for g in given)
    return found


# ------------------------------------------------------------------------------------------- mask


def test_half_of_the_cells_of_each_object_are_hidden_each_object_its_own() -> None:
    system, batch = of_pixels(), batch_of(*[4] * 75)
    objects = system.regions(batch, system.tokenizer)
    hidden = system.hide(objects, STEP).hidden
    assert hidden.shape == (300, N) and (hidden.sum(1) == 32).all()
    assert len({tuple(row) for row in hidden.tolist()}) == 300
    assert ((hidden.double().mean(0) - 0.5).abs() < 4 * (0.25 / 300) ** 0.5).all()
    alone = {name: x[3:4] for name, x in batch.items()}
    again = system.hide(system.regions(alone, system.tokenizer), STEP).hidden
    assert torch.equal(again, hidden[12:16])  # whatever is beside it
    assert not torch.equal(system.hide(objects, Step(4, 10, seed=1)).hidden, hidden)


def test_the_encoder_sees_the_visible_tokens_alone_and_the_head_their_mean() -> None:
    system, batch = make(), batch_of(2, 3)
    seen, told = [], []
    system.encoder.register_forward_hook(lambda m, inputs, out: seen.append((inputs[0], out)))
    system.head.register_forward_hook(lambda m, inputs, out: told.append(inputs[0]))
    system(batch, STEP)
    assert seen[0][0].shape == (6, 32, 32) and told[0].shape == (2, 3, 32)
    torch.testing.assert_close(told[0].flatten(0, 1), seen[0][1].mean(1))
    system.distances(batch)
    assert seen[1][0].shape == (6, N, 32)
    torch.testing.assert_close(told[1].flatten(0, 1), seen[1][1].mean(1))


def test_of_rows_that_differ_in_what_is_visible_only_that_is_averaged() -> None:
    system = make(masking="core/bernoulli")
    objects = system.regions(batch_of(2, 2), system.tokenizer)
    mask = system.hide(objects, STEP)
    assert mask.visible is None
    pooled = system.pool(system.see(mask.keep(objects.tokens)), mask)
    for row in range(4):
        one = Mask(mask.hidden[row : row + 1], int((~mask.hidden[row]).sum()))
        tokens = Tokens(objects.tokens.values[row : row + 1], objects.tokens.position[row : row + 1], GRID)
        expected = system.see(one.keep(tokens)).mean(1)[0]
        torch.testing.assert_close(pooled[row], expected, rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------------- tokens


class Pixels(nn.Module):
    """In the place of a pyramid: the image itself."""

    strides = (1,)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [image]


def of_pixels(**options: Any) -> Any:
    """A system whose tokens are mean colours."""
    system = make(**options)
    system.regions.pyramid, system.regions.level = Pixels(), 0
    system.regions.project, system.regions.norm = nn.Identity(), nn.Identity()
    return system


def test_token_and_cell_of_one_number_are_of_one_place() -> None:
    system = of_pixels()
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    image = torch.stack([x, y, x * y]).expand(2, 3, 64, 64)
    boxes = torch.tensor([[[3.0, 10.0, 60.0, 45.0], [20.5, 7.0, 44.0, 61.0]]]).expand(2, 2, 4)
    objects = system.regions({"image": image, "boxes": boxes, "id": torch.arange(2)}, system.tokenizer)
    cells = objects.crops.values.view(4, N, -1, 3).mean(2)
    tokens = objects.tokens.values * system.regions.std.flatten() + system.regions.mean.flatten()
    for channel in range(3):
        both = torch.stack([cells[..., channel].flatten(), tokens[..., channel].flatten()])
        assert both.corrcoef()[0, 1] > 0.999
        turned = tokens[..., channel].view(4, *GRID).transpose(1, 2).reshape(4, N)
        if channel < 2:
            both = torch.stack([cells[..., channel].flatten(), turned.flatten()])
            assert both.corrcoef()[0, 1] < 0.5


def test_targets_are_pixels_in_the_unit_range_of_the_image_before_its_colours_changed() -> None:
    system, batch = make(), batch_of(1, 1)
    batch["boxes"] = torch.tensor([[[8.0, 16.0, 40.0, 48.0]]]).expand(2, 1, 4)  # crops of 32: pixel by pixel
    clean = torch.rand(2, 3, 64, 64)
    batch["clean"] = (clean - system.regions.mean) / system.regions.std
    objects = system.regions(batch, system.tokenizer)
    torch.testing.assert_close(objects.batch["image"], clean[..., 16:48, 8:40], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(system.target(objects.batch, objects.crops), objects.crops.values)
    without = {name: x for name, x in batch.items() if name != "clean"}
    seen = system.regions(without, system.tokenizer)
    assert torch.equal(seen.tokens.values, objects.tokens.values)  # features are of what is augmented
    expected = (batch["image"] * system.regions.std + system.regions.mean).clamp(0, 1)[..., 16:48, 8:40]
    torch.testing.assert_close(seen.batch["image"], expected, rtol=1e-4, atol=1e-5)


def test_hidden_pixels_reach_visible_tokens_through_the_backbone_and_only_through_it() -> None:
    for system, leaks in ((make(), True), (of_pixels(), False)):
        batch = batch_of(1)
        batch["boxes"] = torch.tensor([[[8.0, 8.0, 56.0, 56.0]]])  # cells of 6 pixels
        mask = system.hide(system.regions(batch, system.tokenizer), STEP)
        beneath = mask.hidden.view(1, 1, *GRID).repeat_interleave(6, 2).repeat_interleave(6, 3)
        image = batch["image"].clone()
        part = image[..., 8:56, 8:56]
        part.copy_(torch.where(beneath, torch.randn_like(part), part))
        visible = [
            mask.keep(system.regions({**batch, "image": each}, system.tokenizer).tokens.values)
            for each in (batch["image"], image)
        ]
        assert torch.equal(*visible) != leaks


# ------------------------------------------------------------------------------------- painting


def test_the_loss_is_the_weighted_mean_over_hidden_cells_of_the_objects_that_count() -> None:
    system, batch = make(small=15.0), batch_of(3, 2)
    objects = system.regions(batch, system.tokenizer)
    mask = system.hide(objects, STEP)
    encoded = system.see(mask.keep(objects.tokens))
    painted = system.paint(objects, encoded, mask, everywhere=False)
    low, high = objects.boxes[..., :2], objects.boxes[..., 2:]
    weight = (((high - low) >= 15).all(-1) & objects.valid).flatten().float()
    assert 0 < weight.sum() < objects.valid.sum()
    error = (painted - objects.crops.values).square().mean(-1)
    scored = weight[:, None] * mask.hidden
    found = system.reconstruction(objects, encoded, mask)["reconstruction"]
    torch.testing.assert_close(found, 20 * (error * scored).sum() / scored.sum())
    torch.testing.assert_close(system(batch, STEP)["reconstruction"], found)
    # what is said of visible cells does not count
    paint = system.paint
    system.paint = lambda *given, **how: paint(*given, **how) + 9.0 * ~mask.hidden[..., None]
    assert torch.equal(system.reconstruction(objects, encoded, mask)["reconstruction"], found)


@pytest.mark.parametrize("fault", ["small", "dark"])
def test_small_and_dark_objects_are_not_painted(fault: str) -> None:
    system, batch = make(small=12.0), batch_of(2, 2)
    whole = system(batch, STEP)["reconstruction"]
    worse = {name: x.clone() for name, x in batch.items()}
    unusual = torch.tensor([[50.0, 50.0, 61.0, 63.0]]).expand(2, 1, 4)
    if fault == "dark":
        unusual = torch.tensor([[48.0, 48.0, 64.0, 64.0]]).expand(2, 1, 4)
        black = -system.regions.mean / system.regions.std
        worse["clean"] = batch["image"].clone()
        worse["clean"][..., 46:, 46:] = black
    worse["boxes"] = torch.cat([batch["boxes"], unusual], dim=1)
    worse["distance"] = torch.cat([batch["distance"], torch.ones(2, 1)], dim=1)
    torch.testing.assert_close(system(worse, STEP)["reconstruction"], whole)
    worse["boxes"], worse["distance"] = unusual, torch.ones(2, 1)
    losses = system(worse, STEP)
    assert losses["reconstruction"] == 0 and losses["distance"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in system.parameters())


def test_visible_cells_count_where_they_are_asked_for() -> None:
    batch = batch_of(2, 3)
    system = make(visible_weight=0.5)
    objects = system.regions(batch, system.tokenizer)
    mask = system.hide(objects, STEP)
    encoded = system.see(mask.keep(objects.tokens))
    painted = system.paint(objects, encoded, mask, everywhere=True)
    error = (painted - objects.crops.values).square().mean(-1)
    losses = system.reconstruction(objects, encoded, mask)
    for name, factor, scored in (("reconstruction", 20, mask.hidden), ("visible", 10, ~mask.hidden)):
        scored = scored & objects.valid.flatten()[:, None]
        torch.testing.assert_close(losses[name], factor * error[scored].mean())
    control = make(masking=None, visible_weight=1.0)
    assert set(control(batch, STEP)) == {"distance", "visible"} and control.masks(batch, STEP) == {}


# ------------------------------------------------------------------------------------- distances


def test_gradient_of_each_loss_goes_its_own_way() -> None:
    system, batch = make(), batch_of(2, 3)
    losses = system(batch, STEP)
    both = {"backbone": True, "regions": True, "encoder": True}
    assert gradients(system, losses["reconstruction"]) == both | {"decoder": True, "head": False}
    assert gradients(system, losses["distance"]) == both | {"decoder": False, "head": True}


def test_distances_need_no_decoder_and_do_not_depend_on_the_objects_of_other_images() -> None:
    system, batch = make().eval(), batch_of(2, 5)
    told, valid = system.distances(batch)
    assert told.shape == (2, 5) and valid.tolist() == [[True] * 2 + [False] * 3, [True] * 5]
    system.decoder = None
    assert torch.equal(system.distances(batch)[0], told)
    alone, _ = system.distances({**collate([sample(0, 2)]), "id": torch.arange(1)})
    torch.testing.assert_close(told[:1, :2], alone, rtol=1e-4, atol=1e-5)
    # the objects of one image see one another
    other = {name: x.clone() for name, x in batch.items()}
    other["boxes"][1, 4] = torch.tensor([0.0, 0.0, 60.0, 60.0])
    changed = system.distances(other)[0]
    assert (changed[1, :4] != told[1, :4]).all() and torch.equal(changed[0, :2], told[0, :2])
    vectors = system.encode(batch)
    assert vectors.values.shape == (2, 5, 32) and torch.equal(vectors.real, valid)
    centre = (batch["boxes"][0, 0, :2] + batch["boxes"][0, 0, 2:]) / 2
    assert torch.equal(vectors.position[0, 0], centre.flip(0))


def test_unknown_distances_and_padding_do_not_count() -> None:
    system, batch = make(), batch_of(2, 3)
    told = torch.randn(2, 3, 1)
    truth = batch["distance"].clone()
    truth[1, 1] = torch.nan
    expected = nn.functional.smooth_l1_loss(
        told[[0, 0, 1, 1], [0, 1, 0, 2], 0], truth[[0, 0, 1, 1], [0, 1, 0, 2]]
    )
    system.head.forward = lambda vectors, valid: told
    torch.testing.assert_close(system({**batch, "distance": truth}, STEP)["distance"], expected)
    for nothing in ({}, {"distance": torch.full((2, 3), torch.nan)}):
        given = {name: x for name, x in batch.items() if "distance" not in name}
        assert system({**given, **nothing}, STEP)["distance"] == 0


def test_variances_are_told_with_gaussian_nll() -> None:
    torch.manual_seed(0)
    head = DistanceHead(8, 2, 4, "gaussian-nll")
    told = head(torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.bool))
    truth = torch.rand(2, 3)
    expected = nn.functional.gaussian_nll_loss(told[..., 0], truth, told[..., 1].exp())
    torch.testing.assert_close(head.error(told, truth), expected)


def test_the_weight_of_the_distance_rises_within_its_window() -> None:
    system, batch = make(warm_up=(0.2, 0.6)), batch_of(2)
    plain = make()
    steps = [Step(k, 10, seed=1) for k in (0, 2, 4, 6, 9)]
    with torch.no_grad():
        shares = [float(system(batch, k)["distance"] / plain(batch, k)["distance"]) for k in steps]
    assert shares == pytest.approx([0, 0, 0.5, 1, 1])
    assert system.schedule(steps[2]) == {"weight of the distance": pytest.approx(0.5)}


@pytest.mark.parametrize("counts", [(0, 0), (0, 2)])
def test_images_without_boxes_are_no_trouble(counts: tuple[int, int]) -> None:
    system, batch = make(), batch_of(*counts)
    losses = system(batch, STEP)
    if counts == (0, 0):
        assert all(loss == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in system.parameters())
    assert system.distances(batch)[1].sum() == sum(counts)
    if counts == (0, 2):
        alone = {name: x[1:] for name, x in batch.items()}
        for name, loss in system(alone, STEP).items():
            torch.testing.assert_close(loss, losses[name])


# ----------------------------------------------------------------------------------- the rest


def test_without_a_weight_there_is_no_decoder() -> None:
    system, batch = make(reconstruction_weight=0.0, masking=None), batch_of(2)
    assert system.decoder is None and set(system(batch, STEP)) == {"distance"}
    assert list(system.preview(batch, STEP).media) == ["boxes"]


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(UserError, match="nothing is hidden"):
        make(masking=None)
    with pytest.raises(UserError, match="levels 0 to 1"):
        make(level=2)
    with pytest.raises(UserError, match="object_heads do not divide"):
        make(object_heads=3)
    batch = batch_of(1)
    del batch["boxes"]
    with pytest.raises(UserError, match="boxes:FOLDER, placed-objects"):
        make()(batch, STEP)


def test_previews_show_boxes_and_the_largest_object_of_each_image() -> None:
    system, batch = make(), batch_of(2, 3)
    batch["boxes"][1, 2] = torch.tensor([4.0, 6.0, 60.0, 62.0])
    media = system.preview(batch, STEP).media
    white = (1 - system.regions.mean) / system.regions.std
    edges = (media["boxes"] != batch["image"]).any(1)
    assert torch.equal(media["boxes"][1, :, 6, 4:60], white[:, 0].expand(3, 56)) and edges[1, 61, 30]
    assert not edges[1, 64 - 1].any() and not edges[0, :, 63].any()
    names = list(media)
    assert names[1:3] == ["original", "visible"] and len(names) == 4
    view = system.masks(batch, STEP)["largest object"]
    objects = system.regions(batch, system.tokenizer)
    assert objects.largest()[1] == 5
    assert torch.equal(view.mask.hidden, system.hide(objects, STEP).hidden[objects.largest()])
    torch.testing.assert_close(media["original"], view.batch["image"])
    assert all(x.shape[0] == 2 for x in media.values())
    assert 0.5 < system.decoder.mask_token.std() < 1.5


def test_the_paper_is_kitti_of_the_release() -> None:
    smaller = {"pretrained": False, "model": "convnext_atto"}
    with torch.device("meta"):
        system: Any = build("vision/mom", preset="paper", facts=FACTS, **smaller)
    assert system.tokenizer.grid == (8, 8) and system.tokenizer.size == (120, 120)
    assert (
        system.regions.pyramid.channels == (128,) * 4
        and system.regions.pyramid.strides[system.regions.level] == 8
    )
    assert system.regions.project[0].in_channels == 512 and system.regions.project[2].out_channels == 675
    assert len(system.encoder.blocks) == 6 and system.encoder.prefix == 0 and system.encoder.dim == 768
    assert len(system.decoder.blocks) == 2 and system.decoder.dim == 768
    assert system.decoder.blocks[0].attn.heads == 8
    assert system.head.among.attn.heads == 4 and system.head.layers[0].out_features == 1024
    assert (system.weight, system.small, system.dark, system.visible_weight) == (20, 25, 0.01, 0)
    assert system.schedule(Step(15, 150))["weight of the distance"] == pytest.approx(0.5)
    assert system.schedule(Step(10, 150))["weight of the distance"] == 0
