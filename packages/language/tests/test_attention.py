"""What attention did is what the model computed, padding and the future left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import UserError
from polymask_language.encoders import Causal, Transformer
from polymask_language.tokenizers import TokenIds

every = pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2"])


def make(architecture: str) -> Any:
    torch.manual_seed(0)
    kind: Any = Causal if architecture in ("gpt2", "llama") else Transformer
    size = {"vocabulary": 96, "length": 24, "dim": 32, "depth": 3, "heads": 4, "init_std": 0.3}
    return kind(architecture=architecture, **size).eval()


def given(encoder: Any) -> tuple[Tensor, Tensor, Tensor]:
    tokens = TokenIds(vocabulary=96, length=24)(TokenIds(vocabulary=96, length=24).example(5))
    assert tokens.valid is not None and not tokens.valid.all()
    return encoder.embed(tokens.values), tokens.position, tokens.valid


@every
def test_weights_times_values_are_what_is_mixed(architecture: str) -> None:
    encoder = make(architecture)
    x, position, valid = given(encoder)
    out, blocks = encoder.attending(x, position, valid, last=2)
    torch.testing.assert_close(out, encoder(x, position, valid))
    assert len(blocks) == 2
    for block in blocks:
        value = block.value.unflatten(-1, (4, -1)).transpose(1, 2)
        mixed = (block.weights @ value).transpose(1, 2).flatten(2)
        torch.testing.assert_close(mixed, block.mixed, rtol=1e-4, atol=1e-5)
        real = valid[:, None, :, None].expand_as(block.weights)
        assert not block.weights[real & ~valid[:, None, None, :]].any()
        if architecture == "gpt2":
            assert not block.weights.triu(1).any()
    assert not torch.equal(blocks[0].mixed, blocks[1].mixed)


@every
def test_the_output_has_a_gradient_at_what_is_mixed(architecture: str) -> None:
    encoder = make(architecture)
    out, blocks = encoder.attending(*given(encoder), last=9)
    assert len(blocks) == 3
    for gradient in torch.autograd.grad(
        (out[:, 3] * torch.arange(32.0)).sum(), [block.mixed for block in blocks]
    ):
        assert gradient[:, 3].any()
    assert all(parameter.grad is None for parameter in encoder.parameters())


@pytest.mark.parametrize("architecture", ["llama", "modernbert"])
def test_models_that_turn_queries_are_refused(architecture: str) -> None:
    encoder = make(architecture)
    with pytest.raises(UserError, match=rf"read from gpt2 or bert or roberta, not from a {architecture}"):
        encoder.attending(*given(encoder))
