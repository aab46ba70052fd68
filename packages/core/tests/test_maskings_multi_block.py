"""Target blocks and the context without them (I-JEPA)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Mask, Request, Step, UserError
from polymask.maskings import MultiBlock

G = 14


def ask(step: int = 0, grid: tuple[int, ...] = (G, G), n: int = 64, seed: int = 0) -> Request:
    return Request(torch.arange(n), math.prod(grid), Step(step, 1000, seed), grid=grid)


def drawn(masking: MultiBlock, request: Request) -> tuple[Tensor, Tensor]:
    """Context ``[B, N]`` and targets ``[T, B, N]``, bool."""
    masks = [masking(dataclasses.replace(request, stream=s)) for s in range(1 + masking.targets)]
    return ~masks[0].hidden, torch.stack([mask.hidden for mask in masks[1:]])


def rectangle(block: Tensor, grid: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a block, which must fill them."""
    rows, columns = block.view(grid).nonzero(as_tuple=True)
    height, width = (int(x.max() - x.min()) + 1 for x in (rows, columns))
    assert height * width == int(block.sum())
    return height, width


def test_targets_are_blocks_of_the_area_and_shape_asked_for() -> None:
    """Of one size in a step; area within a rounding of 15 to 20 %, and both ends are reached."""
    areas, ratios = [], []
    for step in range(200):
        _, targets = drawn(MultiBlock(), ask(step, n=2))
        ((height, width),) = {rectangle(block, (G, G)) for block in targets.flatten(0, 1)}
        areas.append(height * width / G**2)
        ratios.append(height / width)
    assert 0.13 < min(areas) < 0.16 and 0.19 < max(areas) < 0.22
    assert min(ratios) < 0.9 and max(ratios) > 1.3
    # one number draws both: large targets are high ones
    assert torch.corrcoef(torch.tensor([areas, ratios]))[0, 1] > 0.4


def test_context_and_targets_are_disjoint_and_every_target_is_its_own() -> None:
    for step in range(20):
        context, targets = drawn(MultiBlock(), ask(step))
        assert not (context & targets.any(0)).any()
        assert (context.sum(1) >= round(0.05 * G**2)).all()
        assert len({tuple(block.tolist()) for block in targets[:, 0]}) > 1


def test_the_mask_of_a_target_has_a_known_count_and_that_of_the_context_varies() -> None:
    request = ask()
    target = MultiBlock()(dataclasses.replace(request, stream=2))
    assert target.count == int(target.hidden[0].sum()) and (target.hidden.sum(1) == target.count).all()
    context = MultiBlock()(request)
    assert context.visible is None and len(context.hidden.sum(1).unique()) > 1


def coverage(masking: MultiBlock, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """How often each site is context, and target, over 100 steps of 64 samples."""
    context, target = torch.zeros(grid), torch.zeros(grid)
    for step in range(100):
        one, blocks = drawn(masking, ask(step, grid))
        context += one.float().mean(0).view(grid) / 100
        target += blocks.float().mean((0, 1)).view(grid) / 100
    return context, target


@pytest.mark.parametrize("grid", [(14, 14), (8, 8), (6, 9)])
def test_every_site_is_context_and_target_and_no_side_is_preferred(grid: tuple[int, int]) -> None:
    for rate in coverage(MultiBlock(), grid):
        assert (rate > 0).all()
        error = 4 * (rate * (1 - rate) / 6400).sqrt().max()
        for axis in (0, 1):
            ours = rate.mean(1 - axis)
            # a step's blocks have one size, so sites of a step are no independent draws
            assert (ours - ours.flip(0)).abs().max() < 3 * error


def test_rows_and_columns_of_a_place_are_independent_and_so_are_targets() -> None:
    _, targets = drawn(MultiBlock(aspect=(1.0, 1.0)), ask(n=4000))
    corners = targets.flatten(2).int().argmax(2)  # [T, B], the first site of each block
    places = torch.cat([corners // G, corners % G]).float()
    assert (torch.corrcoef(places) - torch.eye(len(places))).abs().max() < 4 / math.sqrt(4000)


def test_the_released_placement_leaves_out_the_last_row_and_column() -> None:
    for rate in coverage(MultiBlock(placement="released"), (14, 14)):
        assert not rate[-1].any() and not rate[:, -1].any() and (rate[:-1, :-1] > 0).all()


def test_a_context_that_the_targets_would_use_up_drops_only_the_first_of_them() -> None:
    """Six targets of a quarter each cover nearly all of the grid; the last ones may then be seen."""
    masking = MultiBlock(targets=6, scale=(0.25, 0.25), context=(1.0, 1.0), least=0.3)
    context, targets = drawn(masking, ask(n=256))
    assert (context.sum(1) >= 0.3 * G**2).all()
    met = (context & targets).any(2)  # [T, B]
    assert met.any() and not met[0].any()
    # the context is all that the targets before the first one met leave
    for row in range(256):
        kept = int(met[:, row].int().argmax()) if met[:, row].any() else 6
        assert torch.equal(context[row], ~targets[:kept, row].any(0))


def test_small_grids_end_and_what_cannot_be_is_refused() -> None:
    for grid in ((4, 4), (2, 3), (5, 2)):
        context, targets = drawn(MultiBlock(), ask(grid=grid))
        assert context.any(1).all() and targets.any(2).all()
    with pytest.raises(UserError, match="target block of 1 x 1 sites is all of a grid of 1 x 1"):
        MultiBlock()(ask(grid=(1, 1)))
    for request in (
        dataclasses.replace(ask(), grid=None),
        ask(grid=(G * G,)),
        dataclasses.replace(ask(), valid=torch.ones(64, G * G, dtype=torch.bool)),
    ):
        with pytest.raises(UserError, match="grid without padding, of rows and columns"):
            MultiBlock()(request)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": 0}, "targets must be 1"),
        ({"scale": (0.2, 0.1)}, "scale must be two shares"),
        ({"context": (0.0, 1.0)}, "context must be two shares"),
        ({"aspect": (0.0, 1.0)}, "aspect must be two ratios"),
        ({"least": 0.9}, "least must be a share below"),
        ({"placement": "fixed"}, "choose 'anywhere' or 'released'"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MultiBlock(**options)


def test_further_streams_are_further_draws() -> None:
    masking, request = MultiBlock(), ask()
    for stream in range(5):
        first = masking(dataclasses.replace(request, stream=stream))
        later: Mask = masking(dataclasses.replace(request, stream=stream + 5))
        assert not torch.equal(first.hidden, later.hidden)
