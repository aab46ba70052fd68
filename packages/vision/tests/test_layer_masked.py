"""Layer masking: equality with timm's network, nothing hidden is read, and each rule by hand."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymask import Tokens, UserError, functional
from polymask.maskings import Random
from polymask_vision.layer_masked import LayerMasked
from polymask_vision.masked_activations import Fill, Masked, spread
from polymask_vision.tokenizers import Patches

NETS = [
    *(("test_efficientnet", fill) for fill in ("neighbours", "none", "partial")),
    *((model, "neighbours") for model in ("resnet18", "resnet26t", "tf_mobilenetv3_small_minimal_100")),
]


def make(model: str = "resnet18", size: int = 64, patch: int = 8, **options: Any) -> tuple[Any, Patches]:
    torch.manual_seed(0)
    tokenizer = Patches(size=size, channels=3, patch_size=patch)
    facts = {name: x for name, x in tokenizer.provides.items() if name != "size"}
    encoder = LayerMasked(**facts, model=model, **options).eval()
    for module in encoder.modules():  # norms that move zeros
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return encoder, tokenizer


def images(n: int = 2, size: int = 64) -> dict[str, Tensor]:
    return {"image": torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))}


def some(n: int, sites: int, share: float = 0.6) -> Tensor:
    return torch.rand(n, sites, generator=torch.Generator().manual_seed(2)) < share


@pytest.mark.parametrize(("model", "fill"), NETS)
@torch.no_grad()
def test_nothing_hidden_is_timms_network_and_what_is_hidden_is_not_read(model: str, fill: Fill) -> None:
    encoder, tokenizer = make(model, 32, 4, fill=fill)
    tokens = tokenizer(images(2, 32))
    plain = encoder.net.forward_features(images(2, 32)["image"]).flatten(2).transpose(1, 2)
    assert torch.equal(encoder(tokens.values, tokens.position), plain)
    every, left = encoder.see(tokens.values, tokens.position, torch.ones(2, 64, dtype=torch.bool))
    torch.testing.assert_close(every, plain, rtol=1e-4, atol=1e-4)
    assert left.all()
    valid = some(2, 64)
    noisy = torch.where(valid[..., None], tokens.values, 50 * torch.randn_like(tokens.values))
    seen, left = encoder.see(tokens.values, tokens.position, valid)
    assert torch.equal(seen, encoder(noisy, tokens.position, valid))
    assert not torch.allclose(seen, plain, atol=1e-2)
    assert not seen[~left].any()
    nothing, left = encoder.see(tokens.values, tokens.position, torch.zeros_like(valid))
    assert not nothing.any() and not left.any()
    pooled = functional.encode_grid(
        encoder, Tokens(tokens.values, tokens.position, (8, 8), valid=valid)
    ).pool()
    real = encoder.see(tokens.values, tokens.position, valid)[1]
    torch.testing.assert_close(
        pooled, (seen * real[..., None]).sum(1) / real.sum(1, keepdim=True).clamp(min=1)
    )


def test_the_mask_shrinks_and_grows_as_kernels_and_branches_say() -> None:
    encoder, tokenizer = make("resnet50", size=224, patch=2)
    hole = torch.ones(1, 1, 224, 224)
    hole[..., 60:180, 40:150] = 0
    valid = F.max_pool2d(hole, 2).flatten(1) > 0
    tokens = tokenizer(images(1, 224))
    with torch.no_grad():
        left = encoder.see(tokens.values, tokens.position, valid)[1].view(7, 7)
    # stem and pooling dilate, a block is visible where branch and shortcut are, a stage takes every second
    mask = F.max_pool2d(F.max_pool2d(hole, 7, 2, 3), 3, 2, 1)[..., ::2, ::2][..., ::2, ::2][..., ::2, ::2]
    assert torch.equal(left, mask[0, 0] > 0) and int((~left).sum()) == 9


def test_subsets_are_encoded_where_a_token_is_a_stride() -> None:
    encoder, tokenizer = make("resnet18", patch=32)
    assert not encoder.needs_grid and encoder.downsample == 1
    tokens = tokenizer(images())
    mask = Random(ratio=0.5)(request(tokens))
    few = mask.keep(tokens)
    with torch.no_grad():
        kept = encoder(encoder.embed(few.values), few.position)
        whole = encoder(tokens.values, tokens.position, ~mask.hidden)
        turned = encoder(few.values.flip(1), few.position.flip(1))
    torch.testing.assert_close(kept, mask.keep(whole))
    torch.testing.assert_close(turned.flip(1), kept)
    padded = torch.cat([few.values, torch.full_like(few.values[:, :1], 9.0)], 1)
    where = torch.cat([few.position, few.position[:, :1]], 1)
    real = torch.ones(2, padded.shape[1], dtype=torch.bool)
    real[:, -1] = False
    with torch.no_grad():
        torch.testing.assert_close(encoder(padded, where, real)[:, :-1], kept)


def request(tokens: Tokens) -> Any:
    from polymask import Request, Step

    return Request.of(tokens, {"id": torch.arange(2)}, Step())


def test_holes_are_filled_ring_by_ring_and_without_gradient() -> None:
    seen = torch.ones(1, 1, 9, 9)
    seen[..., 1:8, 1:8] = 0
    x = (torch.full((1, 2, 9, 9), 3.0) * seen).requires_grad_()
    for rounds, left in ((0, 49), (1, 25), (2, 9), (3, 1), (4, 0)):
        found = spread(x, seen, rounds)
        assert int((found[0, 0] == 0).sum()) == left
        torch.testing.assert_close(found[found != 0], torch.full_like(found[found != 0], 3.0))
    ramp = (torch.arange(9.0).expand(1, 1, 9, 9) * seen).requires_grad_()
    found = spread(ramp, seen, 1)
    assert found[0, 0, 4, 1] == 0 and found[0, 0, 1, 4] == 4  # means of 0 0 0, and of 3 4 5
    found.sum().backward()
    assert ramp.grad is not None and (ramp.grad == 1).all()


def test_statistics_of_training_are_those_of_visible_places() -> None:
    torch.manual_seed(0)
    norm, twin = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    x, seen = torch.randn(3, 4, 6, 5), (torch.rand(3, 1, 6, 5) < 0.5).float()
    found: Any = norm(Masked.of(x, seen, "neighbours"))
    rows = x.permute(0, 2, 3, 1)[seen[:, 0] > 0]
    expected = twin(rows[:, :, None, None])[:, :, 0, 0]
    torch.testing.assert_close(found.plain.permute(0, 2, 3, 1)[seen[:, 0] > 0], expected)
    assert not found.plain.permute(0, 2, 3, 1)[seen[:, 0] == 0].any()
    torch.testing.assert_close(norm.running_mean, twin.running_mean)
    torch.testing.assert_close(norm.running_var, twin.running_var)


def test_means_are_over_visible_places_and_padding_is_read() -> None:
    x, seen = torch.randn(1, 2, 6, 6), torch.ones(1, 1, 6, 6)
    seen[..., :3] = 0
    masked = Masked.of(x, seen, "neighbours")
    torch.testing.assert_close(masked.mean((2, 3)), x[..., 3:].mean((2, 3)))
    pooled: Any = F.avg_pool2d(masked, 2)
    torch.testing.assert_close(pooled.plain[..., 1], x[..., 3:4].unflatten(2, (3, 2)).mean((3, 4)))
    assert pooled.seen[0, 0, 0].tolist() == [0, 1, 1]
    whole = Masked.of(x, torch.ones_like(seen), "partial")
    weight = torch.randn(3, 2, 3, 3)
    for plain, own in (
        (F.conv2d(F.pad(x, (0, 1, 0, 1)), weight), F.conv2d(F.pad(whole, (0, 1, 0, 1)), weight)),
        (F.conv2d(x, weight, padding=1), F.conv2d(whole, weight, padding=1)),
        (F.avg_pool2d(x, 3, 1, 1), F.avg_pool2d(whole, 3, 1, 1)),
    ):
        torch.testing.assert_close(own.plain, plain)  # type: ignore[attr-defined]


def test_partial_convolution_divides_by_the_visible_share() -> None:
    x, seen = torch.ones(1, 1, 5, 5), torch.ones(1, 1, 5, 5)
    seen[..., 2:] = 0
    weight, bias = torch.ones(1, 1, 3, 3), torch.tensor([0.5])
    found: Any = F.conv2d(Masked.of(x, seen, "partial"), weight, bias)
    assert found.plain[0, 0].tolist() == [[9.5, 9.5, 0.0]] * 3


def test_branches_are_joined_where_both_and_where_most_are_visible() -> None:
    x = torch.ones(1, 2, 1, 4)
    a, b, c = (
        Masked.of(x, torch.tensor(row).view(1, 1, 1, 4), "none")
        for row in ([1.0, 1, 0, 0], [1.0, 0, 1, 0], [1.0, 1, 0, 1])
    )
    total: Any = a + b
    assert total.plain[0, 0, 0].tolist() == [2, 0, 0, 0]
    joined: Any = torch.cat([a, b, c], 1)
    assert joined.seen.flatten().tolist() == [1, 1, 0, 0] and joined.shape == (1, 6, 1, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "convnext_atto"}, "no rule for"),
        ({"model": "vit_tiny_patch16_224", "patch": 16}, "leaves tokens out"),
        ({"stage": 7}, "stages 0 to 4"),
        ({"fill": "grey"}, "choose 'neighbours'"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**options)


def test_some_stages_are_those_of_the_whole_network() -> None:
    encoder, tokenizer = make("resnet18", stage=2)
    assert encoder.downsample == 1 and encoder.out_dim == 128 and "timm" not in encoder.exports()
    net = timm.create_model("resnet18", features_only=True).eval()
    net.load_state_dict(encoder.net.state_dict(), strict=False)
    with torch.no_grad():
        found = encoder(tokenizer(images()).values, None)
        torch.testing.assert_close(found, net(images()["image"])[2].flatten(2).transpose(1, 2))
