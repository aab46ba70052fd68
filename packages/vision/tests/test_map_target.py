"""Maps as targets: cells hold means of values and shares of classes, of what is known."""

from __future__ import annotations

import pytest
import torch

from polymask import Tokens, UserError
from polymask_vision.map_target import Map

TOKENS = Tokens(torch.zeros(2, 4, 1), torch.zeros(2, 4, 2), (2, 2))


def test_values_are_means_of_the_known_pixels_of_cells() -> None:
    values = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0))
    values[0, 0, 1] = torch.nan
    values[1, :2, :2] = torch.nan
    target = Map(patch_size=4, cells=2)
    found = target({"value_map": values}, TOKENS)
    assert found.shape == (2, 4, target.dim) == (2, 4, 4)
    # patch 1 is that of the upper right; its cell 2 begins a row of cells further down
    torch.testing.assert_close(found[0, 1, 2], values[0, 2:4, 4:6].mean())
    torch.testing.assert_close(found[0, 0, 0], values[0, :2, :2].nanmean())
    assert found[1, 0].isnan().tolist() == [True, False, False, False]


def test_classes_are_shares_of_cells() -> None:
    labels = torch.randint(-1, 3, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    target = Map(layer="label_map", patch_size=4, map_classes=3, cells=1)
    found = target({"label_map": labels}, TOKENS)
    assert found.shape == (2, 4, 3) and target.dim == 3
    patch = labels[1, 4:, :4]
    counts = torch.stack([(patch == k).sum() for k in range(3)]).float()
    torch.testing.assert_close(found[1, 2], counts / counts.sum())


def test_what_is_missing_is_said() -> None:
    with pytest.raises(UserError, match="vision/scenes"):
        Map(patch_size=4)({"image": torch.zeros(2, 3, 8, 8)}, TOKENS)
    with pytest.raises(UserError, match="no classes of pixels"):
        Map(layer="label_map", patch_size=4)
    with pytest.raises(UserError, match="cells=3"):
        Map(patch_size=4, cells=3)
