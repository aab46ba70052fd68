"""MixedAE mixes without loss, attends to few, tells sources apart, and scores what an image hides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Step, Tokens, UserError, build
from polymask_vision.contrast import site_contrast

TINY = {
    "tokenizer.patch_size": 4,
    "encoder.dim": 32,
    "encoder.depth": 3,
    "encoder.heads": 2,
    "decoder_dim": 16,
    "decoder_depth": 2,
    "decoder_heads": 2,
}
STEP = Step(3, 10, seed=1)
PLAIN = {"attention": "plain", "segments": False, "contrast": 0.0}


def make(size: int = 16, **options: Any) -> Any:
    torch.manual_seed(0)
    system: Any = build("vision/mixedae", facts={"size": (size, size), "channels": 3}, **(TINY | options))
    if system.segment_tokens is not None:
        torch.nn.init.normal_(system.segment_tokens)
    return system


def images(n: int = 8, size: int = 16) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.randn(n, 3, size, size, generator=generator), "id": torch.arange(n)}


def drawn(system: Any, batch: dict[str, Tensor]) -> tuple[Tokens, Any]:
    return system.tokenizer(batch), system.masks(batch, STEP)["mask"].mask


# ------------------------------------------------------------------------------ mixing, unmixing


@pytest.mark.parametrize("size", [16, 28])
def test_unmixing_puts_every_visible_patch_back(size: int) -> None:
    """With a network that does nothing, the decoder is given each image's own patches where they were."""
    system, batch = make(size), images(size=size)
    tokens, mask = drawn(system, batch)
    given: list[Tensor] = []
    system.decoder.forward = lambda encoded, mask, position: given.append(encoded)
    mixed = mask.keep(tokens).values.reshape(2, -1, 48)
    lead = torch.tensor([7.0, 8.0])[:, None, None].expand(2, 1, 48)
    system.unmix(torch.cat([lead, mixed], dim=1), mask, tokens.position)
    assert torch.equal(given[0][:, 0, 0], lead[:, 0, 0].repeat_interleave(4))
    back = mask.restore(given[0][:, 1:], torch.full((1,), 9.0))
    assert torch.equal(back, mask.fill(tokens.values, torch.tensor(9.0)))


def test_one_sequence_per_group_holds_one_patch_of_each_place() -> None:
    system, entered = make(28), []
    system.encoder.vit.blocks[0].register_forward_pre_hook(lambda _, args: entered.append(args[0].shape))
    system(images(size=28), STEP)
    assert entered == [(2, 1 + 48, 32)]  # 49 places, 12 of each of 4 images
    tokens, mask = drawn(system, images(size=28))
    place = mask.keep(tokens).position.reshape(2, 48, 2)
    assert len(torch.unique(place[0], dim=0)) == 48
    assert mask.hidden.sum(1).eq(37).all()


def test_a_mixture_of_one_source_is_mae() -> None:
    """Attention told the sources keeps images apart: patches come out as MAE's encoder alone has them."""
    system, batch = (
        make(attention="source", segments=False, dense_blocks=0, **{"encoder.class_token": False}),
        images(),
    )
    tokens, mask = drawn(system, batch)
    z, source, _ = system.mix(tokens, mask)
    seen = mask.keep(tokens)
    alone = system.encoder(system.encoder.embed(seen.values), seen.position)
    torch.testing.assert_close(z.reshape(8, 4, 32), alone)
    assert source.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4


def test_images_left_over_are_left_out() -> None:
    system = make()
    whole, more = images(8), images(11)
    more["image"][:8] = whole["image"]
    for name, loss in system(whole, STEP).items():
        assert torch.equal(system(more, STEP)[name], loss)
    assert next(iter(system.preview(more, STEP).media.values())).shape[0] == 8
    with pytest.raises(UserError, match="mixes 4 images, and this batch has 3"):
        system(images(3), STEP)


def test_full_mixing_shows_every_patch_once() -> None:
    system, batch = make(full=True), images()
    masks = system.masks(batch, STEP)
    assert list(masks) == [f"mixture {i}" for i in (1, 2, 3, 4)]
    assert (torch.stack([~view.mask.hidden for view in masks.values()]).sum(0) == 1).all()
    tokens = system.tokenizer(batch)
    target = system.target(batch, tokens)
    each = [system.score_mixture(tokens, view.mask, target) for view in masks.values()]
    for name, loss in system(batch, STEP).items():
        torch.testing.assert_close(loss, torch.stack([terms[name] for terms in each]).mean())


# ------------------------------------------------------------------------------------- attention


def encode(system: Any, tokens: Tokens, mask: Any) -> tuple[Tensor, list[Any]]:
    z, _, opened = system.mix(tokens, mask)
    return z, opened


def test_patches_see_k_patches_and_the_class_token_sees_all() -> None:
    system, batch, met = make(), images(), []
    for block in system.encoder.vit.blocks:
        block.register_forward_pre_hook(
            lambda _, args, kwargs: met.append(kwargs["attn_mask"]), with_kwargs=True
        )
    system(batch, STEP)
    assert met[0] is None  # the first block is dense
    for bias in met[1:]:
        assert bias.shape == (2, 2, 17, 17)
        assert (bias[..., 1:, 1:] == 0).sum(-1).eq(4).all()
        assert bias[..., 1:, 1:].isneginf().sum(-1).eq(12).all()
        assert not bias[..., 0, :].any() and not bias[..., 0].any()


def test_all_neighbours_are_plain_attention() -> None:
    batch = images()
    ours, plain = make(neighbours=16), make(attention="plain")
    for name, loss in plain(batch, STEP).items():
        torch.testing.assert_close(ours(batch, STEP)[name], loss)
    assert not torch.allclose(make()(batch, STEP)["reconstruction"], plain(batch, STEP)["reconstruction"])


def test_the_encoders_own_bias_decides_which_patches_are_among_the_k() -> None:
    system, batch = make(**{"encoder.positions": "relative"}), images()
    torch.nn.init.normal_(system.encoder.relative.bias, std=1e4)
    tokens, mask = drawn(system, batch)
    seen = mask.keep(tokens)
    values, position = (x.reshape(2, 16, -1) for x in (seen.values, seen.position))
    _, bias = system.encoder.begin(system.encoder.embed(values), position)
    wanted = bias[..., 1:, 1:].topk(4, dim=-1).indices
    for sparse in system.mix(tokens, mask)[2][1:]:
        kept = sparse.gather(-1, wanted.expand(*sparse.shape[:-1], 4))
        assert not kept.any() and sparse.isneginf().sum(-1).eq(12).all()


def test_a_patch_that_nobody_chose_is_seen_by_nobody() -> None:
    """One sparse block without a class token: what is outside a row's keys does not reach the row."""
    options = {"encoder.depth": 1, "encoder.class_token": False, "encoder.heads": 1}
    system, batch = make(dense_blocks=0, neighbours=2, **options), images(4)
    tokens, mask = drawn(system, batch)
    z, (bias,) = encode(system, tokens, mask)
    chosen = bias[0, 0] == 0
    reach = []
    for key in range(16):
        image, place = divmod(key, 4)
        site = (~mask.hidden[image]).nonzero()[place, 0]
        values = tokens.values.clone()
        values[image, site] += 1e-3 * torch.randn(48)
        other, (again,) = encode(system, Tokens(values, tokens.position, tokens.grid), mask)
        assert torch.equal(again, bias)  # so small a change that the choice is the same
        reach.append((other != z).any(-1)[0])
    moved = torch.stack(reach, dim=1)
    assert torch.equal(moved, chosen | torch.eye(16, dtype=torch.bool))


# ------------------------------------------------------------------------------------ the losses


def test_reconstruction_is_the_mean_over_what_each_image_hides() -> None:
    system, batch = make(), images()
    tokens, mask = drawn(system, batch)
    prediction = system.unmix(system.mix(tokens, mask)[0], mask, tokens.position)
    full = mask.invert().restore(prediction, torch.full((1,), 1e9))
    error = (full - system.target(batch, tokens)).square().mean(-1)
    losses = system(batch, STEP)
    torch.testing.assert_close(losses["reconstruction"], error[mask.hidden].sum() / (8 * 12))
    z, source, _ = system.mix(tokens, mask)
    apart = site_contrast(z[:, 1:], source.expand(2, -1), 0.25)
    torch.testing.assert_close(losses["contrast"], 0.1 * apart)


def gradients(system: Any, term: str) -> set[str]:
    system.zero_grad()
    system(images(), STEP)[term].backward()
    return {n for n, p in system.named_parameters() if p.grad is not None and p.grad.any()}


def test_contrast_teaches_the_encoder_alone_and_reconstruction_all() -> None:
    system = make()
    every = {n for n, p in system.named_parameters() if p.requires_grad}
    decoder = {n for n in every if n.startswith("decoder")}
    assert gradients(system, "reconstruction") == every
    # the class token's own values reach patches, so it is taught too
    assert gradients(system, "contrast") == every - decoder


def test_segments_are_differences_from_their_mean() -> None:
    system, batch = make(), images()
    losses = system(batch, STEP)
    with torch.no_grad():
        system.segment_tokens += torch.randn(32)
    for name, loss in system(batch, STEP).items():
        torch.testing.assert_close(loss, losses[name], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        system.segment_tokens[0] += torch.randn(32)
    assert not torch.allclose(system(batch, STEP)["contrast"], losses["contrast"], rtol=1e-3)


def test_the_naive_baseline_is_mixing_alone() -> None:
    facts = {"size": (28, 28), "channels": 1}
    naive: Any = build("vision/mixedae", preset="small-naive", facts=facts)
    assert naive.segment_tokens is None and naive.attention == "plain"
    batch = {"image": torch.randn(4, 1, 28, 28), "id": torch.arange(4)}
    assert set(naive(batch, STEP)) == {"reconstruction"}
    assert naive.preview(batch, STEP).lines == {}


# --------------------------------------------------------------------------- the right neighbours


def test_share_of_keys_of_the_same_image() -> None:
    system, batch = make(**{"encoder.heads": 1}), images()
    told, untold = system.preview(batch, STEP).lines.items()
    assert told[0] == "Keys of the same image, by chance 0.20"
    assert untold[0] == "Keys of the same image without segments, by chance 0.20"
    for _, line in (told, untold):
        assert line.shape == (4,) and line[:2].isnan().all() and ((line[2:] > 0) & (line[2:] < 1)).all()
    # logits that tell sources: each block's keys and queries read the segment alone
    with torch.no_grad():
        system.segment_tokens.copy_(1000 * torch.eye(4).repeat_interleave(8, dim=1))
        for block in system.encoder.blocks:
            eye = torch.eye(32)
            block.attn.qkv.weight.copy_(torch.cat([eye, eye, 0 * eye]))
    lines = list(system.preview(batch, STEP).lines.values())
    assert lines[0][2:].min() > 0.99
    assert lines[1][2:].max() < 0.6


@pytest.mark.slow
def test_contrast_teaches_attention_to_find_the_same_image() -> None:
    """Images of one shade each. Segments would give the source away, and attention need not find it."""

    def shades(generator: torch.Generator) -> dict[str, Tensor]:
        noise = 0.3 * torch.randn(32, 3, 16, 16, generator=generator)
        return {"image": torch.randn(32, 3, 1, 1, generator=generator) + noise}

    def share(contrast: float) -> tuple[float, float]:
        system = make(contrast=contrast, segments=False, **{"encoder.depth": 2})
        optimizer = torch.optim.AdamW(system.parameters(), lr=3e-3)
        generator = torch.Generator().manual_seed(0)
        held_out, found = shades(generator), []
        for index in range(240):
            if index in (0, 239):
                found += [line[-1].item() for line in system.preview(held_out, STEP).lines.values()]
            loss = torch.stack([*system(shades(generator), Step(index, 240)).values()]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return found[0], found[1]

    before, after = share(contrast=1.0)
    assert before < 0.3 and after > 0.4
    assert share(contrast=0.0)[1] < 0.35


# ------------------------------------------------------------------------------ encode, pictures


def test_encode_is_the_encoder_on_whole_images() -> None:
    system, batch = make().eval(), images()
    whole = system.encoder(
        system.encoder.embed(system.tokenizer(batch).values), system.tokenizer(batch).position
    )
    assert torch.equal(system.encode(batch).values, whole[:, 1:])


def test_pictures_show_the_mixed_image() -> None:
    system, batch = make(), images()
    columns = system.preview(batch, STEP).media
    original, mixed, visible, predicted = columns.values()
    assert list(columns)[:3] == ["original", "mixed", "visible"]
    assert torch.equal(original, batch["image"])
    assert torch.equal(mixed[:4], mixed[:1].expand(4, -1, -1, -1)) and not torch.equal(mixed[0], mixed[4])
    torch.testing.assert_close(mixed[0], visible[:4].sum(0))
    assert ((mixed[:4] == original[:4]).float().mean((1, 2, 3)) > 0.24).all()
    assert predicted.shape == original.shape


def test_combinations_that_cannot_work_are_refused() -> None:
    with pytest.raises(UserError, match="core/partition"):
        make(masking="core/random")
    swin = {"encoder": "vision/swin", "encoder.depths": (1, 1), "encoder.heads": (1, 1), "encoder.window": 2}
    with pytest.raises(UserError, match="Swin does not let it"):
        build(
            "vision/mixedae", facts={"size": (16, 16), "channels": 3}, **swin, **{"tokenizer.patch_size": 4}
        )
    with pytest.raises(UserError, match="ConvViT does not let it"):
        make(encoder="vision/conv-vit")
    for wrong in ({"attention": "none"}, {"neighbours": 0}, {"contrast": -1.0}):
        with pytest.raises(UserError):
            make(**wrong)


@pytest.mark.compile
def test_compiles_without_graph_breaks_and_once_for_all_steps() -> None:
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter, system = CompileCounter(), make()
    compiled = torch.compile(system, backend=counter, fullgraph=True)
    for i in range(4):
        batch = images() | {"id": torch.arange(8) + i}
        ours, theirs = (sum(x(batch, Step(i, 10, seed=1)).values()) for x in (compiled, system))
        torch.testing.assert_close(ours, theirs)
    assert counter.frame_count <= 2
