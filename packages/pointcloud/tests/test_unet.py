"""Convolutions over occupied cells against torch's over dense grids, and what a U-Net is built of."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import UserError
from polymask_pointcloud.operations.sparse import (
    MIDDLE,
    Level,
    convolve,
    levels_of,
    pack,
    trilinear,
    unpack,
    windows_of,
)
from polymask_pointcloud.stages import Coarsen, Convolution, Refine, Stage
from polymask_pointcloud.tokenizers import UNIT, Voxels
from polymask_pointcloud.unet import UNet

SIDE = 8


def occupied(rows: int = 3, share: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Samples and x, y, z of cells of a dense grid ``[rows, z, y, x]``, both ends of each row among them."""
    generator = torch.Generator().manual_seed(seed)
    there = torch.rand(rows, SIDE, SIDE, SIDE, generator=generator) < share
    there[:, 0, 0, 0] = there[:, -1, -1, -1] = True
    row, z, y, x = there.nonzero(as_tuple=True)
    return row, torch.stack([x, y, z], dim=-1)


def grid_of(levels: list[Level], x: Tensor, number: int = 0) -> Tensor:
    """Features of cells in a dense grid of zeros, ``[rows, C, z, y, x]``."""
    side = SIDE >> number
    level = levels[number]
    place = level.index - (MIDDLE >> number)
    dense = x.new_zeros(int(level.sample.max()) + 1, side, side, side, x.shape[1])
    dense[level.sample, place[:, 2], place[:, 1], place[:, 0]] = x
    return dense.permute(0, 4, 1, 2, 3)


def at_cells(levels: list[Level], dense: Tensor, number: int = 0) -> Tensor:
    level = levels[number]
    x, y, z = (level.index - (MIDDLE >> number)).unbind(-1)
    return dense.permute(0, 2, 3, 4, 1)[level.sample, z, y, x]


def example(count: int = 3, seed: int = 0) -> list[Level]:
    row, index = occupied(seed=seed)
    # in no order: levels sort
    order = torch.randperm(len(row), generator=torch.Generator().manual_seed(1))
    return levels_of(row[order], index[order] + MIDDLE, count)[0]


def features(level: Level, width: int, seed: int = 2) -> Tensor:
    return torch.randn(len(level), width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cells_are_numbered_and_found_again() -> None:
    row, index = occupied()
    levels, token = levels_of(row, index + MIDDLE, 3)
    assert torch.equal(levels[0].sample[token], row)
    assert torch.equal(levels[0].index[token], index + MIDDLE)
    for level, above in itertools.pairwise(levels):
        assert (level.key.diff() > 0).all()
        assert level.parent is not None and level.parents == len(above)
        assert torch.equal(above.index[level.parent], level.index >> 1)
        assert torch.equal(above.sample[level.parent], level.sample)
        assert torch.equal(torch.unique(level.parent), torch.arange(len(above)))
    absent = pack(row, index + MIDDLE + 100)
    assert not levels[0].find(absent)[1].any()
    at, found = levels[0].find(pack(row, index + MIDDLE))
    assert found.all() and torch.equal(at, token)


def test_a_number_holds_sample_and_place_up_to_the_border() -> None:
    sample = torch.tensor([0, 5, (1 << 18) - 1])
    index = torch.tensor([[1, 2, 3], [MIDDLE, 2 * MIDDLE - 2, 1], [7, 7, 2 * MIDDLE - 2]])
    row, place = unpack(pack(sample, index))
    assert torch.equal(row, sample) and torch.equal(place, index)
    far = unpack(pack(torch.tensor([4]), torch.tensor([[-9, 1 << 40, MIDDLE]])))
    assert far[0].item() == 4 and far[1].tolist() == [[1, 2 * MIDDLE - 2, MIDDLE]]


def test_a_convolution_of_cells_is_the_dense_one_with_zeros_between() -> None:
    levels = example()
    layer = Convolution(27, 5, 4).double()
    dense_weight = layer.weight.detach().view(3, 3, 3, 5, 4).permute(4, 3, 0, 1, 2).clone().requires_grad_()
    for number in (0, 1):
        x = features(levels[number], 5).requires_grad_()
        ours = layer(x, levels[number].around)
        dense_x = x.detach().clone().requires_grad_()
        theirs = at_cells(levels, F.conv3d(grid_of(levels, dense_x, number), dense_weight, padding=1), number)
        torch.testing.assert_close(ours, theirs)
        signal = features(levels[number], 4, seed=3)
        layer.zero_grad()
        dense_weight.grad = None
        ours.backward(signal)
        theirs.backward(signal)
        torch.testing.assert_close(x.grad, dense_x.grad)
        assert layer.weight.grad is not None and dense_weight.grad is not None
        theirs_grad = dense_weight.grad.permute(2, 3, 4, 1, 0).reshape(27, 5, 4)
        torch.testing.assert_close(layer.weight.grad, theirs_grad)


def test_coarser_cells_are_a_convolution_of_stride_two() -> None:
    levels = example()
    layer = Coarsen(5, 4).double()
    layer.norm = nn.Identity()  # type: ignore[assignment]
    weight = layer.convolution.weight.view(2, 2, 2, 5, 4).permute(4, 3, 0, 1, 2)
    for number in (0, 1):
        x = features(levels[number], 5)
        theirs = at_cells(levels, F.conv3d(grid_of(levels, x, number), weight, stride=2), number + 1)
        torch.testing.assert_close(layer(x, levels[number].inside), theirs)


def test_finer_cells_are_a_transposed_convolution() -> None:
    levels = example()
    layer = Refine(5, 4).double()
    layer.norm = nn.Identity()  # type: ignore[assignment]
    weight = layer.linear.weight.view(2, 2, 2, 4, 5).permute(4, 3, 0, 1, 2)
    for number in (0, 1):
        x = features(levels[number + 1], 5)
        dense = F.conv_transpose3d(grid_of(levels, x, number + 1), weight, stride=2)
        torch.testing.assert_close(layer(x, levels[number]), at_cells(levels, dense, number))


def test_sums_in_half_precision_are_kept_in_full() -> None:
    index = torch.cartesian_prod(*[torch.arange(3)] * 3) + MIDDLE
    level = levels_of(torch.zeros(27, dtype=torch.long), index, 1)[0][0]
    # 27 times 1 + 1 / 128 is 27.2109375, and 27.25 in 8 bits; summed up in 8 bits the fraction is lost
    weight = torch.full((27, 1, 1), 1 + 1 / 128, dtype=torch.bfloat16)
    out = convolve(torch.ones(27, 1, dtype=torch.bfloat16), weight, level.around)
    assert out.dtype == torch.bfloat16
    assert float(out[13]) == 27.25


def field(place: Tensor) -> Tensor:
    """A linear function of place."""
    return torch.stack([place @ place.new_tensor([1.0, -2.0, 0.5]) + 3, place[:, 2]], dim=1)


def test_between_cells_a_linear_field_is_met_exactly() -> None:
    index = torch.cartesian_prod(*[torch.arange(4)] * 3)
    levels, _ = levels_of(torch.zeros(64, dtype=torch.long), index + MIDDLE, 2)
    generator = torch.Generator().manual_seed(0)
    for number, level in enumerate(levels):
        values = field(level.index.double() + 0.5)
        side = 4 >> number
        place = 0.5 + (side - 1) * torch.rand(50, 3, generator=generator, dtype=torch.float64)
        place = place + (MIDDLE >> number)
        found = trilinear(level, values, torch.zeros(50, dtype=torch.long), place)
        torch.testing.assert_close(found, field(place))


def test_at_the_edge_of_what_is_occupied_features_go_on() -> None:
    level = levels_of(torch.tensor([0, 1]), torch.tensor([[5, 5, 5], [5, 5, 5]]) + MIDDLE, 1)[0][0]
    values = torch.tensor([[2.0], [7.0]])
    place = torch.tensor([[5.1, 5.9, 5.5], [5.9, 5.2, 5.0], [90.0, 5, 5]], dtype=torch.float64) + MIDDLE
    found = trilinear(level, values, torch.tensor([0, 1, 1]), place)
    assert found[:, 0].tolist() == pytest.approx([2.0, 7.0, 0.0])


@pytest.mark.parametrize("transposed", [False, True])
def test_windows_hold_each_cell_once_and_no_two_samples(transposed: bool) -> None:
    level = example()[0]
    windows = windows_of(level, 32, transposed=transposed)
    number = torch.arange(len(level))
    laid = windows.fill(number[:, None] + 1.0)[..., 0]
    assert torch.equal(windows.read(laid[..., None])[:, 0], number + 1.0)
    assert torch.equal(laid > 0, windows.valid) and laid.shape[1] == 32
    assert int(windows.valid.sum()) == len(level)
    for row in laid:
        inside = (row[row > 0] - 1).long()
        assert level.sample[inside].unique().numel() == 1
    # windows of a sample are full but for the last
    assert int((windows.valid.sum(1) < 32).sum()) <= 3


def test_windows_follow_a_curve_that_keeps_neighbours_together() -> None:
    index = torch.cartesian_prod(*[torch.arange(8)] * 3)
    level = levels_of(torch.zeros(512, dtype=torch.long), index + MIDDLE, 1)[0][0]
    windows = windows_of(level, 64)
    extent = [
        level.index[windows.slot // 64 == w].amax(0) - level.index[windows.slot // 64 == w].amin(0)
        for w in range(8)
    ]
    assert all(e.tolist() == [3, 3, 3] for e in extent)


def test_attention_stays_within_a_sample() -> None:
    level = example()[0]
    torch.manual_seed(0)
    stage = Stage(16, 0, 2, 8, 0.0)
    x = features(level, 16).float()
    changed = x.clone()
    changed[0] = -x[0]
    before, after = stage(x, level), stage(changed, level)
    others = level.sample != 0
    assert torch.equal(before[others], after[others])
    beside = ~others
    beside[0] = False
    assert (before[beside] != after[beside]).any(1).all()
    # nor does it matter that other samples have more cells
    fewest = int(torch.bincount(level.sample).argmin())
    mine = level.sample == fewest
    assert int(mine.sum()) < int(torch.bincount(level.sample).max())
    alone = levels_of(torch.zeros(int(mine.sum()), dtype=torch.long), level.index[mine], 1)[0][0]
    torch.testing.assert_close(stage(x[mine], alone), before[mine])


def test_stochastic_depth_takes_whole_samples() -> None:
    row = torch.arange(64).repeat_interleave(3)
    index = torch.tensor([[0, 0, 0], [1, 0, 0], [4, 4, 4]]).repeat(64, 1) + MIDDLE
    level = levels_of(row, index, 1)[0][0]
    torch.manual_seed(0)
    stage = Stage(8, 1, 0, 8, 0.5)
    x = features(level, 8).float()
    whole = stage.eval()(x, level) - x
    part = stage.train()(x, level) - x
    dropped = (part == 0).view(64, -1)
    assert torch.equal(dropped.all(1), dropped.any(1))
    assert 16 < int(dropped.all(1).sum()) < 48
    kept = ~dropped.any(1)
    # what is kept stands for what is not
    torch.testing.assert_close(part.view(64, -1)[kept], 2 * whole.view(64, -1)[kept], rtol=1e-4, atol=1e-5)


def network(**options: object) -> UNet:
    torch.manual_seed(0)
    sizes: dict[str, object] = {"down_dims": (16, 24), "up_dims": (24, 16), "depth": 1, "attention_depth": 1}
    return UNet(**{**sizes, **options})  # type: ignore[arg-type]


def test_tokens_of_a_cell_share_it_and_padding_gets_nothing() -> None:
    unet = network(attention=1).eval()
    generator = torch.Generator().manual_seed(0)
    position = torch.tensor([[[0.2, 0.2, 0.2], [0.7, 0.3, 0.4], [1.5, 0.0, 0.0], [9.0, 9.0, 9.0]]])
    valid = torch.tensor([[True, True, True, False]])
    cells = unet.cells(position, valid)
    assert cells.token.tolist() == [0, 0, 1] and cells.real.tolist() == [0, 1, 2]
    x = torch.randn(1, 4, 16, generator=generator)
    first = unet.down(x, cells)[0]
    swapped = unet.down(x[:, [1, 0, 2, 3]], cells)[0]
    torch.testing.assert_close(first, swapped)
    mean = torch.stack([x[:, :2].mean(1), x[:, 2]], dim=1)
    torch.testing.assert_close(first, unet.down(mean, unet.cells(position[:, 1:3]))[0])
    out = unet(x, position, valid)
    assert (out[:, 3] == 0).all() and out[:, :3].abs().sum() > 0


def test_the_output_is_that_of_all_levels_each_of_one_size() -> None:
    tokenizer = Voxels(voxel=0.25, neighbours=2)
    tokens = tokenizer(tokenizer.example(2))
    facts = {k: tokenizer.provides[k] for k in ("in_dim", "channels", "axes", "cell_low", "cell_size")}
    unet = network(attention=1, **facts).eval()
    out = unet(unet.embed(tokens.values), tokens.position, tokens.valid)
    assert out.shape[2] == unet.out_dim == 40 and unet.provides == {"stride": 2}
    cells = unet.cells(tokens.position, tokens.valid)
    # at the middle of a finest cell that cell alone counts
    finest = unet.up(unet.down(unet.embed(tokens.values), cells), cells, cells)[0]
    assert tokens.valid is not None
    torch.testing.assert_close(
        out[tokens.valid][:, :24], F.layer_norm(finest, (24,))[cells.token], rtol=1e-3, atol=1e-4
    )
    index = (tokens.position[tokens.valid].double() * UNIT + 1) / 0.25
    assert torch.equal(cells.levels[0].index[cells.token] - MIDDLE, index.floor().long())


def test_widths_and_levels_must_fit() -> None:
    with pytest.raises(UserError, match="as many widths both ways"):
        network(up_dims=(16,))
    with pytest.raises(UserError, match="attention at 3 of 2 levels"):
        network(attention=3)
    with pytest.raises(UserError, match="heads of 7"):
        network(head_dim=7)
    with pytest.raises(UserError, match="drop_path"):
        network(drop_path=1.0)
