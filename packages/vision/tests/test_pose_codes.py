"""Codes of poses: what they go by, what is read off them, and what predicts them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from polymask import Tokens, UserError, build
from polymask_vision.pose_codes import CodeDecoder, MixerBlock, PoseCoder
from polymask_vision.poses import Figures, Poses

WINDOWS = {"frames": 3, "persons": 2, "joints": 17, "views": 2}


def batch(n: int = 3) -> dict[str, torch.Tensor]:
    return Poses(**WINDOWS).example(n)


def test_a_mixer_block_is_two_mlps_by_hand() -> None:
    torch.manual_seed(0)
    block, x = MixerBlock(5, 6, 7, 8), torch.randn(2, 5, 6)
    (one, _, two), (three, _, four) = block.across, block.within
    y = two(F.gelu(one(block.norm1(x).transpose(1, 2)))).transpose(1, 2)
    torch.testing.assert_close(block(x), x + y + four(F.gelu(three(block.norm2(x + y)))))


def coder(**options: Any) -> PoseCoder:
    torch.manual_seed(0)
    return PoseCoder(**{"tokens": 4, "codes": 32, "dim": 16, "depth": 1} | options)


def test_codes_go_by_joints_that_are_shown_alone() -> None:
    net, joints = coder(), torch.randn(20, 17, 2)
    shown = torch.rand(20, 17) < 0.7
    other = torch.where(shown[..., None], joints, 9.0)
    assert torch.equal(net.points(joints, shown), net.points(other, shown))
    assert not torch.equal(net.points(joints, shown), net.points(joints, shown | True))
    ids = net(joints, shown)
    assert ids.shape == (20, 4) and ids.dtype == torch.int64
    distance = torch.cdist(net.points(joints, shown), net.codebook.book.expand(20, -1, -1))
    assert torch.equal(ids, distance.argmin(-1))
    assert net.decode(net.vectors(ids)).shape == (20, 17, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert net.points(joints, shown).dtype == torch.float32


def test_the_coder_mixes_joints_into_tokens_and_tokens_into_joints_by_hand() -> None:
    net, joints, shown = coder(depth=2, decoder_depth=2), torch.randn(5, 17, 2), torch.rand(5, 17) < 0.7
    x = torch.stack([net.embed(joints[:, i]) for i in range(17)], dim=1)
    x[~shown] = net.unseen
    for block in net.encoder:
        x = block(x)
    z = torch.einsum("mj,rjd->rmd", net.to_tokens.weight, x) + net.to_tokens.bias[:, None]
    torch.testing.assert_close(net.points(joints, shown), z)
    y = net.narrow(torch.einsum("jm,rmd->rjd", net.to_joints.weight, z) + net.to_joints.bias[:, None])
    for block in net.decoder:
        y = block(y)
    torch.testing.assert_close(net.decode(z), net.head(y))


def test_tokens_are_the_vectors_of_the_codes_that_the_target_gives() -> None:
    tokenizer: Any = build("vision/pose-tokens", "tokenizers", run="random:32x4", **WINDOWS)
    target: Any = build("vision/pose-codes", "targets", run="random:32x4")
    one = batch()
    tokens: Tokens = tokenizer(one)
    ids = target(one, tokens)
    assert ids.shape == (3, 12, 4) and target.streams == 4 and target.dim == 32
    figures = Figures.of(one)
    assert not figures.seen.all()
    by_hand = target.coder(figures.joints.flatten(0, 3), figures.seen.flatten(0, 3))
    assert torch.equal(ids.flatten(0, 1), by_hand)
    book = tokenizer.coder.codebook.book
    scaled = (book - book.mean(0)) / book.std()
    torch.testing.assert_close(tokens.values[..., :-3], scaled[ids].flatten(-2))
    assert torch.equal(tokens.values[..., -3:], Poses(**WINDOWS)(one).values[..., -3:])
    poses = Poses(**WINDOWS)(one)
    assert torch.equal(tokens.position, poses.position) and torch.equal(tokens.real, poses.real)
    assert target.joints(ids).shape == (3, 12, 17, 2)
    assert len(ids.flatten().unique()) > 4
    assert not any(p.requires_grad for p in tokenizer.parameters())


def test_tokens_are_as_wide_as_they_say_and_one_code_needs_no_axis() -> None:
    one = batch()
    for box in (True, False):
        options = {**WINDOWS, "box": box}
        tokenizer: Any = build("vision/pose-tokens", "tokenizers", run="random:32x4", **options)
        assert tokenizer(one).values.shape[-1] == tokenizer.provides["in_dim"] == 64 + 3 * box
        assert {name: tokenizer.provides[name] for name in WINDOWS} == WINDOWS
    single: Any = build("vision/pose-codes", "targets", run="random:32x1")
    assert single(one, Poses(**WINDOWS)(one)).shape == (3, 12) and single.streams == 1


def test_random_codes_are_always_the_same_and_leave_chance_alone() -> None:
    books = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        target: Any = build("vision/pose-codes", "targets", run="random:32x4")
        assert torch.equal(torch.get_rng_state(), state)
        books.append(target.coder.codebook.book)
    assert torch.equal(*books)


def test_codes_are_predicted_from_persons_who_are_seen() -> None:
    torch.manual_seed(0)
    decoder = CodeDecoder(16, 2, 4, streams=3, codes=5)
    assert len(decoder.blocks) == 2 and not decoder.head.bias.any()
    x, real = torch.randn(3, 6, 16), torch.rand(3, 6) < 0.6
    real[1] = False
    other = torch.where(real[..., None], x, 9.0)
    one, two = (decoder(Tokens(values, torch.zeros(3, 6, 1), valid=real)) for values in (x, other))
    assert torch.equal(one[real], two[real]) and one.isfinite().all()
    alone = decoder(Tokens(x[:1, real[0]], torch.zeros(1, int(real[0].sum()), 1)))
    torch.testing.assert_close(one[0, real[0]], alone[0])
    torch.testing.assert_close(one.mean(-1), torch.zeros(3, 6), atol=1e-5, rtol=0)  # of the last norm
    logits = decoder.logits(one)
    assert torch.equal(logits.flatten(-2), decoder.head(one)) and logits.shape == (3, 6, 3, 5)
    with pytest.raises(UserError, match="not divisible by 3 heads"):
        CodeDecoder(16, 1, 3, streams=3, codes=5)


def test_codes_of_nothing_are_refused() -> None:
    for options, message in (
        ({}, "give --target.run FOLDER"),
        ({"run": "random:8"}, "K codes, M for each pose"),
        ({"run": "random:0x2"}, "K codes, M for each pose"),
    ):
        with pytest.raises(UserError, match=message):
            build("vision/pose-codes", "targets", **options)
