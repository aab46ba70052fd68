"""The light decoder answers at hidden tokens what a whole last block would, from visible ones alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Mask, UserError
from polymask.nn.decoders import ConvDecoder, CrossDecoder, LightDecoder
from polymask.nn.positions import coordinates

GRID, N = (4, 5), 20


def decoder(**options: Any) -> LightDecoder:
    torch.manual_seed(0)
    made = LightDecoder(
        **{
            "in_dim": 12,
            "out_dim": 7,
            "prefix": 1,
            "grid": GRID,
            "dim": 16,
            "depth": 2,
            "heads": 4,
            **options,
        }
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def masked(hidden: int = 14, rows: int = 3) -> Mask:
    order = torch.stack([torch.randperm(N) for _ in range(rows)])
    return Mask(order < hidden, N - hidden)


def ragged() -> tuple[Mask, Tensor]:
    """Rows of 20, 15 and 9 real tokens, of which 14, 9 and 3 are hidden."""
    valid = torch.arange(N).expand(3, -1) < torch.tensor([[20], [15], [9]])
    hidden = torch.arange(N).expand(3, -1) < torch.tensor([[14], [9], [3]])
    return Mask(hidden & valid, None, valid), valid


def place(rows: int = 3) -> Tensor:
    return coordinates(GRID).expand(rows, -1, -1)


def at_length(made: LightDecoder, encoded: Tensor, mask: Mask, real: Tensor | None = None) -> Tensor:
    """All blocks on all tokens, then a choice: ``[B, N, out]``."""
    x = made.embed(encoded)
    lead, seen = x[:, : made.prefix], x[:, made.prefix :]
    rows = []
    for row, hidden in enumerate(mask.hidden):
        visible = ~hidden if mask.valid is None else ~hidden & mask.valid[row]
        full = made.mask_token.expand(N, -1).clone()
        full[visible] = seen[row, : int(visible.sum())]
        rows.append(full)
    x = torch.cat([lead, torch.stack(rows) + made.positions(place())], dim=1)
    attend = None if real is None else F.pad(real, (made.prefix, 0), value=True)[:, None, None, :]
    for block in made.blocks:
        x = block(x, attn_mask=attend)
    return made.head(made.norm(x))[:, made.prefix :]


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_the_last_block_on_hidden_tokens_is_the_whole_one(depth: int, prefix: int) -> None:
    made, mask = decoder(depth=depth, prefix=prefix), masked()
    encoded = torch.randn(3, prefix + 6, 12, requires_grad=True)
    weight = torch.randn(3, 14, 7)
    gradients = []
    answers = []
    for answer in (
        made(encoded, mask, place()),
        at_length(made, encoded, mask)[mask.hidden].view(3, 14, 7),
    ):
        made.zero_grad()
        encoded.grad = None
        (answer * weight).sum().backward()
        gradients.append([encoded.grad, *(p.grad for p in made.parameters())])
        answers.append(answer)
    torch.testing.assert_close(*answers, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(*gradients, strict=True):
        assert ours is not None
        assert ours.any()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_other_tokens_than_the_hidden_ones_can_be_asked_for() -> None:
    made, mask = decoder(), masked()
    encoded = torch.randn(3, 7, 12)
    whole = at_length(made, encoded, mask)
    torch.testing.assert_close(
        made(encoded, mask, place(), mask.invert()), whole[~mask.hidden].view(3, 6, 7), rtol=1e-5, atol=1e-5
    )
    nothing = Mask(torch.zeros(3, N, dtype=torch.bool), N)
    everything = made(torch.randn(3, 1 + N, 12), nothing, place(), nothing.invert())
    assert everything.shape == (3, N, 7)


def test_rows_of_different_length_ignore_their_padding() -> None:
    made = decoder()
    mask, valid = ragged()
    encoded = torch.randn(3, 1 + 6, 12)
    answer = made(encoded, mask, place())
    whole = at_length(made, encoded, mask, valid)
    for row, n in enumerate((14, 9, 3)):
        torch.testing.assert_close(answer[row, :n], whole[row, mask.hidden[row]], rtol=1e-5, atol=1e-5)


def test_padding_can_be_anything() -> None:
    """Rows with fewer visible tokens end in padding: its content reaches no answer."""
    made = decoder()
    valid = torch.arange(N).expand(2, -1) < torch.tensor([[20], [10]])
    hidden = torch.arange(N).expand(2, -1) < torch.tensor([[12], [6]])
    mask = Mask(hidden, None, valid)
    encoded = torch.randn(2, 1 + 8, 12)
    other = encoded.clone()
    other[1, 1 + 4 :] = 9.0
    first, second = (made(x, mask, place(2)) for x in (encoded, other))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1, :6], second[1, :6])


def test_answers_depend_on_visible_tokens_and_places_alone() -> None:
    """There is no way in for hidden content; a hidden token's own answer differs by its place."""
    made, mask = decoder(), masked(rows=1)
    encoded = torch.randn(1, 7, 12)
    answer = made(encoded, mask, place(1))
    assert (answer[0, 0] - answer[0, 1]).abs().max() > 1e-3
    changed = encoded.clone()
    changed[0, 3] += 1
    assert ((made(changed, mask, place(1)) - answer).abs().amax(dim=-1) > 1e-6).all()


def test_free_coordinates_are_used_where_there_is_no_grid() -> None:
    fixed, free = decoder(), decoder(grid=None)
    free.load_state_dict(fixed.state_dict())
    mask, encoded = masked(), torch.randn(3, 7, 12)
    torch.testing.assert_close(
        free(encoded, mask, place()), fixed(encoded, mask, place()), rtol=1e-5, atol=1e-5
    )
    assert (free(encoded, mask, place() * 1.5) - fixed(encoded, mask, place())).abs().max() > 1e-3


@pytest.mark.compile
def test_it_compiles_in_one_graph_and_takes_bfloat16() -> None:
    made, mask, encoded = decoder(), masked(), torch.randn(3, 7, 12)
    plain = made(encoded, mask, place())
    compiled = torch.compile(lambda x: made(x, mask, place()), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(encoded), plain, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = made(encoded, mask, place())
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - plain).abs().max() < 0.1 * plain.abs().max()


def test_impossible_decoders_are_refused() -> None:
    with pytest.raises(UserError, match="at least one block"):
        decoder(depth=0)
    with pytest.raises(UserError, match="not divisible by 3 heads"):
        decoder(heads=3)
    with pytest.raises(UserError, match="width divisible by 4"):
        decoder(dim=18, heads=2)


# ------------------------------------------------------------------- decoder of convolutions


def convolutions(**options: Any) -> ConvDecoder:
    torch.manual_seed(0)
    size: dict[str, Any] = {"dim": 8, "depth": 2, "kernel": 3, "groups": 4}
    return ConvDecoder(**{"in_dim": 12, "out_dim": 7, "prefix": 1, "grid": GRID, **size, **options})


def test_convolutions_see_visible_tokens_in_place_and_the_filling_between_them() -> None:
    made, mask = convolutions(), masked()
    encoded, fill = torch.randn(3, 7, 12), torch.randn(3, N, 12)
    full = torch.where(mask.hidden[..., None], fill, mask.restore(encoded[:, 1:], torch.zeros(1)))
    whole = made.head(made.convolutions(full))
    found = made(encoded, mask, place(), fill)
    torch.testing.assert_close(found, whole[mask.hidden].view(3, 14, 7), rtol=1e-5, atol=1e-6)
    other = torch.where(mask.hidden[..., None], fill, torch.randn(3, N, 12))
    assert torch.equal(made(encoded, mask, place(), other), found)
    lead = torch.cat([torch.randn(3, 1, 12), encoded[:, 1:]], dim=1)
    assert torch.equal(made(lead, mask, place(), fill), found)


def test_convolutions_reach_as_far_as_their_kernels() -> None:
    """Two of three tokens reach two tokens far, of a sequence of any length."""
    made, hidden = convolutions(grid=None, prefix=0), torch.ones(1, N, dtype=torch.bool)
    hidden[0, 9] = False
    mask, fill = Mask(hidden, 1), torch.zeros(1, N, 12)
    first, second = (made(torch.randn(1, 1, 12), mask, place(1), fill) for _ in range(2))
    sites = torch.arange(N)[hidden[0]]
    assert sites[(first != second).any(-1)[0]].tolist() == [7, 8, 10, 11]


def test_convolutions_ignore_the_padding_of_shorter_rows() -> None:
    made = convolutions(grid=None)
    site, length = torch.arange(N), torch.tensor([[20], [15], [9]])
    mask = Mask((site >= 6) & (site < length), None, site < length)
    encoded, fill = torch.randn(3, 7, 12), torch.randn(3, N, 12)
    answer = made(encoded, mask, place(), fill)
    for row, (n, hidden) in enumerate(((20, 14), (15, 9), (9, 3))):
        alone = Mask(mask.hidden[row : row + 1, :n], 6)
        one = made(encoded[row : row + 1], alone, place(1)[:, :n], fill[row : row + 1, :n])
        torch.testing.assert_close(answer[row, :hidden], one[0], rtol=1e-4, atol=1e-5)


def test_a_head_of_several_layers_is_twice_as_wide_and_dropout_is_of_training() -> None:
    made, mask = convolutions(head_depth=2, dropout=0.5), masked()
    assert [layer.out_features for layer in made.head if isinstance(layer, torch.nn.Linear)] == [16, 7]
    encoded, fill = torch.randn(3, 7, 12), torch.zeros(3, N, 12)
    first, second = (made(encoded, mask, place(), fill) for _ in range(2))
    assert not torch.equal(first, second)
    made.eval()
    assert torch.equal(made(encoded, mask, place(), fill), made(encoded, mask, place(), fill))


def crossing(**options: Any) -> CrossDecoder:
    torch.manual_seed(0)
    size = {"in_dim": 12, "out_dim": 7, "prefix": 1, "grid": GRID, "dim": 16, "depth": 2, "heads": 4}
    made = CrossDecoder(**{**size, **options})
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def queries(made: CrossDecoder, mask: Mask) -> Tensor:
    return made.mask_token + made.positions(place())[0].expand(3, -1, -1)[mask.hidden].view(3, 14, 16)


def test_what_a_cross_decoder_answers_at_a_site_does_not_depend_on_what_else_is_asked() -> None:
    made, mask = crossing().double(), masked()
    encoded = torch.randn(3, 7, 12).double()
    everywhere = made(encoded, mask, place())
    alone = Mask(mask.hidden & (mask.hidden.cumsum(1) == 5), N - 1)
    one = made(encoded, mask, place(), alone)
    torch.testing.assert_close(one[:, 0], everywhere[:, 4], rtol=1e-13, atol=1e-13)
    some = made(encoded, mask, place(), Mask(mask.hidden & (mask.hidden.cumsum(1) % 3 == 0), N - 4))
    torch.testing.assert_close(some, everywhere[:, 2::3], rtol=1e-13, atol=1e-13)
    for token in (0, 3):  # one of no place, and a visible one
        other = encoded.clone()
        other[:, token] += 1
        assert ((made(other, mask, place()) - everywhere).abs().amax(-1) > 1e-6).all()


def test_a_cross_decoder_is_torchs_attention_on_the_same_weights() -> None:
    made, mask, encoded = crossing(depth=1), masked(), torch.randn(3, 7, 12)
    block: Any = made.blocks[0]
    theirs = torch.nn.MultiheadAttention(16, 4, kdim=12, vdim=12, batch_first=True)
    with torch.no_grad():
        for ours, name in ((block.attn.q, "q"), (block.attn.k, "k"), (block.attn.v, "v")):
            theirs.get_parameter(f"{name}_proj_weight").copy_(ours.weight)
        bias = torch.cat([block.attn.q.bias, torch.zeros(16), block.attn.v.bias])
        theirs.in_proj_bias.copy_(bias)
        theirs.out_proj.load_state_dict(block.attn.proj.state_dict())
    x = queries(made, mask)
    x = x + theirs(block.norm1(x), encoded, encoded)[0]
    x = x + block.mlp(block.norm2(x))
    torch.testing.assert_close(made(encoded, mask, place()), made.head(made.norm(x)), rtol=1e-5, atol=1e-5)


def test_a_cross_decoder_ignores_the_padding_of_shorter_rows() -> None:
    made = crossing()
    valid = torch.arange(N).expand(2, -1) < torch.tensor([[20], [10]])
    mask = Mask(torch.arange(N).expand(2, -1) < torch.tensor([[12], [6]]), None, valid)
    encoded = torch.randn(2, 1 + 8, 12)
    other = encoded.clone()
    other[1, 1 + 4 :] = 9.0
    first, second = (made(x, mask, place(2)) for x in (encoded, other))
    assert torch.equal(first, second)
    own = made(encoded[1:, :5], Mask(mask.hidden[1:], None, valid[1:]), place(1))
    torch.testing.assert_close(first[1, :6], own[0], rtol=1e-5, atol=1e-5)


def test_each_block_of_a_cross_decoder_attends_to_a_sum_of_its_own() -> None:
    made, mask = crossing(states=3), masked()
    states = [torch.randn(3, 7, 12, requires_grad=True) for _ in range(3)]
    answer, weights, x = made(states, mask, place()), made.weights, queries(made, mask)
    assert weights is not None and weights.shape == (2, 3)
    for block, norm, row in zip(made.blocks, made.state_norms, weights, strict=True):
        x = block(x, norm(row[0] * states[0] + row[1] * states[1] + row[2] * states[2]))
    torch.testing.assert_close(answer, made.head(made.norm(x)), rtol=1e-5, atol=1e-5)
    answer.square().sum().backward()
    assert all(state.grad is not None and state.grad.any() for state in states)


def test_impossible_cross_decoders_are_refused() -> None:
    with pytest.raises(UserError, match="at least one block"):
        crossing(depth=0)
    with pytest.raises(UserError, match="not divisible by 3 heads"):
        crossing(heads=3)
