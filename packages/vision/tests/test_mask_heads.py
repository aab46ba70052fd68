"""Heads of masks: what each cell sees, what can be told apart, how many weights there are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import UserError
from polymask_vision.mask_heads import Head, MaskHead

DIM, ROI = 6, 8
HEADS: tuple[Head, ...] = ("mlp", "deconv", "deconv-wide", "deconv-coordinates")


def head(kind: Head, **options: int) -> MaskHead:
    torch.manual_seed(0)
    return MaskHead(dim=DIM, roi=ROI, kind=kind, depth=1, reduced=4, hidden=32, **options)


def seen(net: torch.nn.Module, at: tuple[int, int]) -> Tensor:
    """Which places of features a cell of the mask depends on, bool ``[roi, roi]``, over several inputs."""
    x = torch.randn(16, DIM, ROI, ROI, generator=torch.Generator().manual_seed(1)).requires_grad_()
    out = net(x).reshape(16, 2 * ROI, 2 * ROI)
    (slope,) = torch.autograd.grad(out[:, at[0], at[1]].sum(), x)
    return (slope != 0).any(1).any(0)


@pytest.mark.parametrize("at", [(0, 0), (7, 9)])
def test_each_cell_of_the_mlp_sees_the_whole_box_and_of_others_one_place(at: tuple[int, int]) -> None:
    assert seen(head("mlp").decoder, at).all()
    one = torch.zeros(ROI, ROI, dtype=torch.bool)
    one[at[0] // 2, at[1] // 2] = True
    for kind in HEADS[1:]:
        assert torch.equal(seen(head(kind).decoder, at), one)
        window = F.max_pool2d(one[None, None].float(), 3, 1, 1)[0, 0] > 0
        assert torch.equal(seen(head(kind), at), window)


def test_a_wide_head_has_the_weights_of_an_mlp() -> None:
    weights = {kind: sum(p.numel() for p in head(kind).parameters()) for kind in HEADS}
    assert weights["deconv-wide"] == pytest.approx(weights["mlp"], rel=0.01)
    assert weights["deconv"] < weights["mlp"] / 5
    assert weights["deconv-coordinates"] - weights["deconv"] == 2 * 9 * DIM


def fit(net: MaskHead, features: Tensor, masks: Tensor, steps: int = 60) -> Tensor:
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        F.binary_cross_entropy_with_logits(net(features), masks).backward()
        optimiser.step()
    return net(features) > 0


def test_what_a_window_does_not_tell_the_mlp_tells_and_a_convolution_cannot() -> None:
    """Stripes alike but for one place far away, which says which of them is meant."""
    stripes = (torch.arange(ROI) % 3 == 0).float()[:, None].expand(ROI, ROI)
    features = torch.zeros(2, DIM, ROI, ROI)
    features[:, 0] = stripes
    features[1, 1, 0, 7] = 1
    masks = torch.zeros(2, 2 * ROI, 2 * ROI)
    masks[0, 6:8, :8], masks[1, 12:14, :8] = 1, 1
    local, whole = head("deconv"), head("mlp")
    found = fit(whole, features, masks)
    iou = (found & (masks > 0)).flatten(1).sum(1) / (found | (masks > 0)).flatten(1).sum(1)
    assert (iou > 0.95).all()
    fit(local, features, masks, 3)
    away = local(features)[:, 4:, :10]  # further than one convolution reaches from that place
    assert torch.equal(away[0], away[1])


def test_places_are_told_by_coordinates_alone() -> None:
    """Of equal features everywhere a deconvolution gives equal masks, away from the border."""
    flat = torch.randn(16, DIM, 1, 1).expand(-1, -1, ROI, ROI)
    for kind, same in (
        ("deconv", True),
        ("deconv-wide", True),
        ("deconv-coordinates", False),
        ("mlp", False),
    ):
        cells = head(kind)(flat)[:, 2:-2:2, 2:-2:2]
        assert torch.allclose(cells, cells[:, :1, :1], atol=1e-6) == same


def test_masks_begin_at_a_half() -> None:
    """Log-odds near those of the mean target, so that the overlap has a gradient at once."""
    for kind in HEADS:
        x = torch.randn(4, DIM, ROI, ROI)
        assert (head(kind)(x).sigmoid() - 0.5).abs().max() < 0.2


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(UserError, match="deconv-wide"):
        MaskHead(dim=DIM, roi=ROI, kind="fcn")  # type: ignore[arg-type]
