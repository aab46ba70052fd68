"""Masks over weights: for all samples or for each, and as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from polymask import Mask, UserError
from polymask_vision.weights import (
    apply_masks,
    masked_weights,
    pack,
    save_masks,
    settle,
    unpack,
    weights_of,
)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(2, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 3, 3, stride=2, bias=False),
        nn.Flatten(2),
        nn.Linear(9, 5),
    ]
    return nn.Sequential(*layers)


NAMES = ["0.weight", "1.weight", "3.weight"]


def drawn(module: nn.Module, rows: int, soft: bool = False) -> dict[str, Mask]:
    torch.manual_seed(1)
    found = {}
    for name in NAMES:
        hidden = torch.rand(rows, module.get_parameter(name).numel())
        found[name] = Mask(hidden if soft else hidden < 0.4)
    return found


def one_by_one(module: nn.Module, masks: dict[str, Mask], x: Tensor) -> Tensor:
    out = []
    for row, sample in enumerate(x):
        shown = {
            n: module.get_parameter(n) * (1 - m.hidden[row].float().view_as(module.get_parameter(n)))
            for n, m in masks.items()
        }
        out.append(functional_call(module, shown, (sample[None],)))
    return torch.cat(out)


@pytest.mark.parametrize("soft", [False, True])
def test_masks_per_sample_are_those_of_a_loop_over_samples(soft: bool) -> None:
    module, x = network(), torch.randn(4, 2, 8, 8)
    masks = drawn(module, 4, soft)
    with masked_weights(module, masks):
        found = module(x)
    torch.testing.assert_close(found, one_by_one(module, masks, x))
    assert not torch.allclose(found, module(x))


@pytest.mark.parametrize("shape", [(3, 9), (3, 2, 9), (3, 2, 4, 9)])
def test_a_linear_layer_takes_any_number_of_axes(shape: tuple[int, ...]) -> None:
    layer, x = nn.Linear(9, 5), torch.randn(*shape)
    hidden = torch.rand(3, 45) < 0.5
    with masked_weights(layer, {"weight": Mask(hidden)}):
        found = layer(x)
    wanted = [F.linear(x[i], layer.weight * ~hidden[i].view(5, 9), layer.bias) for i in range(3)]
    torch.testing.assert_close(found, torch.stack(wanted))


def test_one_mask_is_for_all_samples_and_nothing_hidden_changes_no_bit() -> None:
    module, x = network(), torch.randn(4, 2, 8, 8)
    plain, masks = module(x), drawn(module, 1)
    with masked_weights(module, masks):
        found = module(x)
    wanted = one_by_one(module, {n: Mask(m.hidden.expand(4, -1)) for n, m in masks.items()}, x)
    torch.testing.assert_close(found, wanted)
    for hidden in (torch.zeros(1, 72, dtype=torch.bool), torch.zeros(1, 72)):
        with masked_weights(module, {"0.weight": Mask(hidden[:, :36])}):
            assert torch.equal(module(x), plain)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_network_is_as_it_was_afterwards_whatever_happened_within(rows: int) -> None:
    module, x = network(), torch.randn(4, 2, 8, 8)
    before, parameters = module(x), [(n, id(p)) for n, p in module.named_parameters()]
    masks = drawn(module, rows)
    with pytest.raises(RuntimeError), masked_weights(module, masks):
        module(x[:, :1])
    assert [(n, id(p)) for n, p in module.named_parameters()] == parameters
    assert not any("forward" in vars(m) for m in module.modules()) and torch.equal(module(x), before)


@pytest.mark.parametrize("rows", [1, 3])
def test_gradient_reaches_masks_and_not_the_frozen_weight(rows: int) -> None:
    """d loss / d hidden is minus the gradient of the masked weight times the weight."""
    layer, x = nn.Linear(6, 4).requires_grad_(False), torch.randn(3, 6)
    hidden = (torch.rand(rows, 24) < 0.5).float().requires_grad_()
    with masked_weights(layer, {"weight": Mask(hidden)}):
        layer(x).square().sum().backward()
    expected = []
    for i in range(rows):
        shown = (layer.weight * (1 - hidden[i].detach().view(4, 6))).requires_grad_()
        F.linear(x if rows == 1 else x[i], shown, layer.bias).square().sum().backward()
        expected.append((-shown.grad * layer.weight).flatten())  # type: ignore[operator]
    torch.testing.assert_close(hidden.grad, torch.stack(expected))
    assert layer.weight.grad is None


def test_layers_without_masks_per_sample_are_refused() -> None:
    layer = nn.ConvTranspose2d(2, 2, 1)
    with pytest.raises(UserError, match="ConvTranspose2d"):
        masked_weights(layer, {"weight": Mask(torch.ones(2, 4))}).__enter__()


def test_attention_is_found_in_vision_transformers_and_convolutions_elsewhere() -> None:
    vit = timm.create_model("test_vit", pretrained=False)
    names = weights_of(vit, "attention")
    assert names == [f"blocks.{k}.attn.{n}.weight" for k in range(6) for n in ("qkv", "proj")]
    everything = weights_of(vit, "all")
    assert {"patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", "head.weight", *names} <= set(everything)
    assert not any("norm" in name or name.endswith("bias") for name in everything)
    resnet = weights_of(timm.create_model("test_resnet", pretrained=False), "attention")
    assert "conv1.0.weight" in resnet and not any(name.startswith("fc") for name in resnet)
    with pytest.raises(UserError, match="--which all"):
        weights_of(nn.Sequential(nn.Linear(2, 2)), "attention")


@pytest.mark.parametrize("sites", [1, 8, 9, 1000])
def test_packed_masks_take_a_bit_per_weight(sites: int) -> None:
    hidden = torch.rand(1, sites, generator=torch.Generator().manual_seed(0)) < 0.3
    packed = pack(Mask(hidden))
    assert packed.dtype == torch.uint8 and len(packed) == (sites + 7) // 8
    assert torch.equal(unpack(packed, sites).hidden, hidden)
    if sites == 9:
        assert packed[0] == sum(2**k for k in range(8) if hidden[0, k])


def test_saved_masks_are_put_on_the_weights_they_are_over(tmp_path: Path) -> None:
    module, x = network(), torch.randn(4, 2, 8, 8)
    masks: dict[str, Any] = drawn(module, 1)
    with masked_weights(module, masks):
        wanted = module(x)
    save_masks(module, masks, tmp_path)
    other = network()
    apply_masks(other, tmp_path)
    assert torch.equal(other(x), wanted)
    settled = network()
    settle(settled, masks)
    assert torch.equal(settled(x), wanted)
    with pytest.raises(UserError, match="over other weights"):
        apply_masks(other, tmp_path)
    with pytest.raises(UserError, match="--format masks"):
        apply_masks(network(), tmp_path / "none")
