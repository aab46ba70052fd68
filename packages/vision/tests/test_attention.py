"""What a block's attention takes the softmax of, and the keys that are left of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from polymask_vision.attention import attention_of, keep_top, logits, queries_keys, relation
from polymask_vision.encoders import ViT


def block_and_input(**options: bool) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    block = ViT(in_dim=4, grid=(3, 3), dim=16, depth=1, heads=2, **options).blocks[0]
    torch.nn.init.normal_(block.attn.qkv.bias)
    return block, torch.randn(2, 9, 16)


def test_logits_are_those_of_the_block() -> None:
    block, x = block_and_input()
    value = block.attn.qkv(block.norm1(x)).view(2, 9, 3, 2, 8).permute(2, 0, 3, 1, 4)[2]
    mixed = (logits(block, x).softmax(-1) @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(block.attn.proj(mixed), block.attn(block.norm1(x)))


def test_logits_are_those_of_a_block_whose_norms_come_behind() -> None:
    block, x = block_and_input(norm_first=False)
    value = block.attn.qkv(x).view(2, 9, 3, 2, 8).permute(2, 0, 3, 1, 4)[2]
    mixed = (logits(block, x).softmax(-1) @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(block.attn.proj(mixed), block.attn(x))


def test_exactly_k_keys_are_left_and_all_of_them_is_plain_attention() -> None:
    block, x = block_and_input()
    for k in (1, 4):
        left = keep_top(logits(block, x), k) == 0
        assert (left.sum(-1) == k).all()
        chosen = torch.where(left, logits(block, x), torch.inf).amin(-1)
        dropped = torch.where(left, -torch.inf, logits(block, x)).amax(-1)
        assert (chosen > dropped).all()
    assert (keep_top(torch.zeros(1, 1, 5, 5), 2) == 0).sum(-1).eq(2).all()  # ties too
    torch.testing.assert_close(block(x, attn_mask=keep_top(logits(block, x), 9)), block(x))


def test_keys_left_out_change_nothing() -> None:
    torch.manual_seed(0)
    q = k = v = torch.randn(1, 1, 6, 4)
    bias = keep_top(q @ k.transpose(-1, -2), 3)
    out = F.scaled_dot_product_attention(q, k, v, bias)
    for row in range(6):
        gone = bias[0, 0, row] != 0
        other = torch.where(gone[:, None], torch.randn(6, 4), v)
        there = F.scaled_dot_product_attention(q, torch.where(gone[:, None], 9.0, k), other, bias)
        assert torch.equal(there[0, 0, row], out[0, 0, row])


def test_relations_are_products_as_they_are_scaled_or_as_attention() -> None:
    block, x = block_and_input()
    q, k = queries_keys(block, x)
    torch.testing.assert_close(relation(q, k, "raw") / 8**0.5, logits(block, x))
    torch.testing.assert_close(relation(q, k, "scaled"), logits(block, x))
    torch.testing.assert_close(relation(q, k, "attention"), attention_of(block, x, None))
    real = (torch.arange(9) < 6).expand(2, 9)
    among = relation(q, k, "attention", real[:, :, None] & real[:, None])[:, :, :6]
    torch.testing.assert_close(among[..., :6], relation(q[:, :, :6], k[:, :, :6], "attention"))
    assert not among[..., 6:].any()
