"""Rows of an embedding: real tokens alone, each with its place."""

from __future__ import annotations

import numpy as np
import torch

from polymask.evaluation.embed import _rows
from polymask.tokens import Tokens


def test_padding_has_no_row():
    values = torch.arange(12.0).view(2, 3, 2)
    valid = torch.tensor([[True, True, False], [True, True, True]])
    tokens = Tokens(values, torch.zeros(2, 3, 1), valid=valid)
    rows = _rows(lambda batch: tokens, {"id": torch.tensor([7, 4])}, "tokens")
    assert rows["id"].tolist() == [7, 7, 4, 4, 4] and rows["token"].tolist() == [0, 1, 0, 1, 2]
    np.testing.assert_array_equal(rows["embedding"], values[valid])
    pooled = _rows(lambda batch: tokens, {"id": torch.tensor([7, 4])}, "mean")
    assert pooled["id"].tolist() == [7, 4] and pooled["embedding"][0].tolist() == [1.0, 2.0]
