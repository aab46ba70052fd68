"""DMJD's two views hide what the other shows, and each head learns from the tokens it answers at."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polymask import Mask, Step, UserError, build, functional
from polymask.functional import encode_visible
from polymask_vision.encoders import Swin

TINY = {
    "tokenizer.patch_size": 4,
    "encoder.dim": 32,
    "encoder.depth": 2,
    "encoder.heads": 2,
    "decoder_dim": 16,
    "decoder_depth": 2,
    "decoder_heads": 2,
}
CONV = {
    "tokenizer.patch_size": 4,
    "encoder": {"name": "vision/conv-vit", "dim": 16, "depth": 1, "heads": 2, "conv_dims": (4, 8)},
    "decoder_dim": 16,
    "decoder_depth": 1,
    "decoder_heads": 2,
}
STEP = Step(3, 10, seed=1)


def make(size: int = 16, channels: int = 3, sizes: dict[str, Any] = TINY, **options: Any) -> Any:
    torch.manual_seed(0)
    system: Any = build(
        "vision/dmjd", facts={"size": (size, size), "channels": channels}, **(sizes | options)
    )
    return system


def images(n: int = 4, size: int = 16, channels: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.randn(n, channels, size, size, generator=generator), "id": torch.arange(n)}


def hidden(system: Any, batch: dict[str, Tensor], step: Step = STEP) -> Tensor:
    """Masks of both views: bool ``[2, B, N]``."""
    masks = system.masks(batch, step)
    assert list(masks) == ["view 1", "view 2"]
    return torch.stack([view.mask.hidden for view in masks.values()])


# ------------------------------------------------------------------------------------- the masks


@pytest.mark.parametrize(
    ("ratio", "cell", "visible"), [(0.6, 1, 78), (0.75, 1, 49), (0.6, 2, 76), (0.75, 2, 48)]
)
def test_views_are_disjoint_and_hide_everything(ratio: float, cell: int, visible: int) -> None:
    """The set sizes of the release: 78 and 49 of 196 tokens, 19 and 12 of 49 blocks."""
    options = {"masking.masking.ratio": ratio, "masking.masking.cell": cell}
    both = hidden(make(56, 1, **options), images(32, 56, 1))
    assert ((~both).sum(-1) == visible).all()
    assert not (~both).all(0).any()  # visible in neither or one
    assert both.any(0).all()
    blocks = both.view(2, 32, 14 // cell, cell, 14 // cell, cell)
    assert (blocks.amax((3, 5)) == blocks.amin((3, 5))).all()
    assert not (both[:, :1] == both).all()  # samples differ


def test_part_of_the_tokens_can_be_left_alone() -> None:
    options = {"masking.masking.ratio": 0.75, "masking.masking.cell": 1, "masking.prediction": 0.9}
    both = hidden(make(56, 1, **options), images(8, 56, 1))
    assert both.any(0).sum(-1).tolist() == [176] * 8  # 0.9 of 196 is 176.4


@pytest.mark.parametrize("ratio", [0.6, 0.75])
def test_independent_masks_are_the_control(ratio: float) -> None:
    """Two random masks of 0.6 cover 0.84 on average, of 0.75 0.9375; what belongs together covers all.

    How many sites both hide is hypergeometric, as of two draws that know nothing of each other.
    """
    rows, sites = 2000, 196
    both = hidden(make(56, 1, masking={"name": "core/random", "ratio": ratio}, views=2), images(rows, 56, 1))
    count = int(both[0, 0].sum())
    assert (both.sum(-1) == count).all()
    shared = both.all(0).sum(-1).double()
    mean = count**2 / sites
    variance = mean * (1 - count / sites) * (sites - count) / (sites - 1)
    assert abs(float(shared.mean()) - mean) < 4 * (variance / rows) ** 0.5
    # the variance of a variance, of nearly normal counts
    assert abs(float(shared.var()) / variance - 1) < 4 * (2 / rows) ** 0.5
    assert both.any(0).double().mean().item() == pytest.approx(1 - (1 - count / sites) ** 2, abs=2e-3)
    # each view by itself is what vision/mae would hide
    assert not (both[0] == both[1]).all(1).any()


# ------------------------------------------------------------------------------------- the losses


class Numbers(nn.Module):
    """Each token's place and sample as a target that no two tokens share."""

    dim = 2

    def forward(self, batch: dict[str, Tensor], tokens: Any) -> Tensor:
        b, n = tokens.shape
        row, site = torch.arange(float(b))[:, None].expand(b, n), torch.arange(float(n)).expand(b, n)
        return torch.stack([row, site], dim=-1)


def test_every_prediction_meets_the_target_of_its_own_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an encoder that knows the answer and heads that pass it on, both losses are 0."""
    system, batch = make(target=Numbers()), images()
    target = Numbers()(batch, system.tokenizer(batch))
    monkeypatch.setattr(system.encoder, "prefix", 1)
    monkeypatch.setattr(
        functional,
        "encode_visible",
        lambda encoder, tokens, mask: nn.functional.pad(mask.keep(target), (0, 0, 1, 0)),
    )
    system.head = nn.Identity()
    system.decoder = Answer(target)
    losses = system(batch, STEP)
    assert losses == {"hidden": 0, "visible": 0}


class Answer(nn.Module):
    """A decoder that knows the truth at the tokens it is asked about."""

    def __init__(self, truth: Tensor) -> None:
        super().__init__()
        self.truth = truth

    def forward(self, encoded: Tensor, mask: Mask, position: Tensor) -> Tensor:
        return mask.invert().keep(self.truth)


def test_losses_are_means_over_both_views() -> None:
    system, batch = make(visible_weight=0.5), images()
    tokens = system.tokenizer(batch)
    target = system.target(batch, tokens)
    rows, seen = [], []
    for mask in (view.mask for view in system.masks(batch, STEP).values()):
        encoded = encode_visible(system.encoder, tokens, mask)
        truth = mask.invert().keep(target)
        rows.append((system.decoder(encoded, mask, tokens.position) - truth).square().mean(-1))
        gap = (system.head(encoded[:, 1:]) - mask.keep(target)).abs()
        seen.append(torch.where(gap < 2, 0.25 * gap.square(), gap - 1))
    losses = system(batch, STEP)
    torch.testing.assert_close(losses["hidden"], torch.cat(rows).mean())
    torch.testing.assert_close(losses["visible"], 0.5 * torch.cat(seen).mean())
    assert system.visible_objective(torch.ones(1, 1, 1), torch.zeros(1, 1, 1)) == 0.25
    assert system.visible_objective(4 * torch.ones(1, 1, 1), torch.zeros(1, 1, 1)) == 3


def moved(system: Any, term: str) -> dict[str, bool]:
    system.zero_grad()
    system(images(), STEP)[term].backward()
    return {n: p.grad is not None and bool(p.grad.any()) for n, p in system.named_parameters()}


def test_each_loss_reaches_its_own_head_and_both_the_encoder() -> None:
    system = make()
    by_hidden, by_visible = moved(system, "hidden"), moved(system, "visible")
    for name in by_hidden:
        if name.startswith("decoder"):
            assert by_hidden[name] and not by_visible[name], name
        if name.startswith("head"):
            assert by_visible[name] and not by_hidden[name], name
    assert by_hidden["encoder.vit.blocks.0.attn.qkv.weight"]
    assert by_visible["encoder.vit.blocks.0.attn.qkv.weight"]


def test_the_visible_head_takes_each_token_by_itself() -> None:
    head, x = make().head, torch.randn(1, 5, 32)
    changed = x.clone()
    changed[:, 2] += 1
    differs = (head(changed) - head(x)).abs().amax(-1)[0] > 1e-6
    assert differs.tolist() == [False, False, True, False, False]
    # what goes into the read-out is normalised without scale or shift
    torch.testing.assert_close(head[:-1](x).var(-1, unbiased=False), torch.ones(1, 5), rtol=1e-3, atol=0)


def test_without_weight_there_is_no_visible_head() -> None:
    system = make(visible_weight=0.0)
    assert system.head is None
    assert list(system(images(), STEP)) == ["hidden"]


@pytest.mark.parametrize("sizes", [TINY, CONV], ids=["vit", "conv-vit"])
def test_hidden_pixels_reach_no_prediction(sizes: dict[str, Any]) -> None:
    system, batch = make(sizes=sizes).eval(), images()
    width = system.tokenizer.provides["in_dim"]
    for mask in (view.mask for view in system.masks(batch, STEP).values()):
        pixels = system.tokenizer.inverse(mask.hidden[..., None].expand(-1, -1, width))
        other = torch.where(pixels, torch.randn_like(batch["image"]), batch["image"])
        answers = []
        for image in (batch["image"], other):
            tokens = system.tokenizer({"image": image})
            encoded = encode_visible(system.encoder, tokens, mask)
            answers.append((system.decoder(encoded, mask, tokens.position), system.head(encoded)))
        assert torch.equal(answers[0][0], answers[1][0]) and torch.equal(answers[0][1], answers[1][1])


# ------------------------------------------------------------------------------- parts, pictures


def test_more_views_are_asked_for_in_two_places() -> None:
    with pytest.raises(UserError, match=r"dmjd draws 2 views, and the masks of Disjoint .* by 3"):
        make(**{"masking.views": 3})
    system = make(views=3, **{"masking.views": 3, "masking.masking.cell": 1, "masking.masking.ratio": 0.5})
    assert list(system.masks(images(), STEP)) == ["view 1", "view 2", "view 3"]
    assert system(images(), STEP)["hidden"].isfinite()


def test_combinations_that_cannot_work_are_refused() -> None:
    with pytest.raises(UserError, match="encodes whole grids only"):
        make(encoder=Swin(in_dim=48, grid=(4, 4), dim=16, depths=(1, 1), heads=(1, 1), window=2))
    with pytest.raises(UserError, match="2 views that hide 0.4 each hide 0.8 of the sites together"):
        make(**{"masking.masking.ratio": 0.4})
    with pytest.raises(UserError, match="visible_weight 0 or more"):
        make(visible_weight=-1.0)
    with pytest.raises(UserError, match="in part"):
        make(masking=lambda request: Mask(torch.full((4, 16), 0.5)))(images(), STEP)


def test_pictures_show_both_views() -> None:
    system, batch = make(), images()
    columns = system.preview(batch, STEP).media
    assert list(columns) == ["original", "view 1: visible", "view 2: visible"]
    both = hidden(system, batch)
    for column, view in zip(list(columns.values())[1:], both, strict=True):
        pixels = system.tokenizer.inverse(view[..., None].expand(-1, -1, 48))
        assert torch.equal(column, torch.where(pixels, 0.0, batch["image"]))
    assert len(make(target="vision/pixels").preview(batch, STEP).media) == 5


@pytest.mark.compile
@pytest.mark.parametrize("sizes", [TINY, CONV], ids=["vit", "conv-vit"])
def test_compiles_without_graph_breaks_and_once_for_all_steps(sizes: dict[str, Any]) -> None:
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter, system = CompileCounter(), make(sizes=sizes)
    compiled = torch.compile(system, backend=counter, fullgraph=True)
    for i in range(3):
        for name, loss in compiled(images(), Step(i, 10, seed=1)).items():
            torch.testing.assert_close(loss, system(images(), Step(i, 10, seed=1))[name])
    assert counter.frame_count <= 2


def test_the_decoders_blocks_are_as_wide_as_asked_for() -> None:
    usual, released = (make(**options).decoder for options in ({}, {"decoder_mlp_ratio": 8.0}))
    assert usual.blocks[0].mlp.fc1.out_features == 4 * usual.dim
    assert released.blocks[0].mlp.fc1.out_features == 8 * usual.dim
