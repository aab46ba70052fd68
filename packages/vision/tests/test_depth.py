"""Closed forms of how far and how alike tokens attend."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polymask import Tokens
from polymask.nn.positions import coordinates
from polymask_vision.depth import (
    INFORMATION,
    RANK,
    SPAN,
    attention_span,
    lines_by_depth,
    mutual_information,
    network_lines,
    side_by_side,
)
from polymask_vision.encoders import ViT
from polymask_vision.networks import open_network
from polymask_vision.tokenizers import Patches


def real(n: int, rows: int = 2) -> Tensor:
    return torch.ones(rows, n, dtype=torch.bool)


def test_even_attention_spans_the_mean_distance_of_cells() -> None:
    """By hand on 2 x 2 cells: (0 + 1 + 1 + sqrt 2) / 4."""
    place = coordinates((2, 2)).expand(2, -1, -1)
    span = attention_span(torch.full((2, 3, 4, 4), 0.25), place, real(4))
    torch.testing.assert_close(span, torch.tensor((2 + math.sqrt(2)) / 4))
    # 0 where each attends to itself, and what rows add up to does not matter
    assert attention_span(torch.eye(4).expand(2, 3, 4, 4) / 3, place, real(4)) == 0
    one = torch.zeros(2, 1, 4, 4)
    one[..., 3] = 0.1
    torch.testing.assert_close(attention_span(one, place, real(4)), torch.tensor((2 + math.sqrt(2)) / 4))
    first = torch.tensor([[True, False, False, False]]).expand(2, -1)
    torch.testing.assert_close(attention_span(one, place, first), torch.tensor(math.sqrt(2)))


def test_equal_rows_tell_nothing_and_a_permutation_all() -> None:
    rows = torch.rand(2, 3, 1, 9).softmax(-1).expand(2, 3, 9, 9)
    assert mutual_information(rows, real(9)).abs() < 1e-6
    one_key = torch.zeros(2, 3, 9, 9)
    one_key[..., 4] = 1
    assert mutual_information(one_key, real(9)) == 0  # and not 0 / 0
    moved = torch.eye(9)[torch.randperm(9)].expand(2, 3, 9, 9) * 0.5
    torch.testing.assert_close(mutual_information(moved, real(9)), torch.tensor(1.0))


def test_two_queries_to_a_key_tell_half_of_what_they_could() -> None:
    """Four queries in pairs on two keys: I = H(k) = log 2, H(q) = log 4."""
    pairs = torch.eye(4)[[0, 0, 2, 2]].expand(1, 1, 4, 4)
    torch.testing.assert_close(mutual_information(pairs, real(4, 1)), torch.tensor(math.sqrt(0.5)))


def test_padding_counts_for_nothing() -> None:
    attention = torch.rand(1, 2, 5, 5).softmax(-1)
    padded = torch.zeros(1, 2, 7, 7)
    padded[..., :5, :5] = attention
    padded[..., 5:, :5] = 0.2
    valid = torch.arange(7)[None] < 5
    expected = mutual_information(attention, real(5, 1))
    torch.testing.assert_close(mutual_information(padded, valid), expected)
    assert 0 < expected < 1


def test_a_network_has_the_lines_of_its_encoder_but_the_rank_of_its_embedding() -> None:
    torch.manual_seed(0)
    network = open_network(
        None, "test_vit", pretrained=False, channels=3, mean=None, std=None, key="image"
    ).eval()
    batch = {"image": torch.randn(3, 3, 12, 20)}
    tokens = Patches(size=(12, 20), channels=3, patch_size=4)(batch)
    lines = network_lines(network, batch, tokens)
    assert list(lines) == [SPAN, INFORMATION, RANK]
    assert all(
        line.shape == (7,) and line[0].isnan() and line[1:].isfinite().all() for line in lines.values()
    )
    found = network(batch, tokens, attention=(4,)).attention[0][:, :, 1:, 1:]
    torch.testing.assert_close(lines[SPAN][4], attention_span(found, tokens.position, tokens.real))
    torch.testing.assert_close(lines[INFORMATION][4], mutual_information(found, tokens.real))

    encoder = ViT(in_dim=48, grid=(3, 5), dim=32, depth=2, heads=2)
    own: Tokens = tokens
    charts = side_by_side({"a": lines_by_depth(encoder, own), "b": lines})
    assert [*charts] == [SPAN, INFORMATION, RANK] and [*charts[RANK]] == ["a", "b"]
    assert charts[RANK]["a"].isfinite().tolist() == [True] * 3 + [False] * 4
    assert torch.equal(charts[RANK]["b"].isnan(), lines[RANK].isnan())
