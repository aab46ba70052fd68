"""The suite on other modalities than grids: padded sequences, and points in space.

A plugin declares a tokenizer, an encoder and a system of its modality, as a package for speech or
point clouds would; the suite makes their input from the tokenizer's ``example`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polymask import Batch, Part, Registry, Step, System, Tokens, hookimpl
from polymask import plugin as core
from polymask.protocols import Encoder, Masking, Objective, Target, Tokenizer
from polymask.testing import check_part
from polymask.testing.subject import Subject
from polymask.types import Fact


class Frames:
    """Sequences of up to 20 frames of 4 numbers, padded to the longest."""

    key = "speech"
    provides: Mapping[str, Any] = {"in_dim": 4, "grid": None, "axes": 1}

    def __call__(self, batch: Mapping[str, Tensor]) -> Tokens:
        length = (~batch["speech"][..., 0].isnan()).sum(1)
        n = int(length.max())
        valid = torch.arange(n) < length[:, None]
        position = torch.arange(float(n)).view(1, n, 1).expand(len(valid), -1, -1)
        return Tokens(batch["speech"][:, :n].nan_to_num(), position, valid=valid)

    def example(self, n: int, seed: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        speech = torch.randn(n, 20, 4, generator=generator)
        length = torch.randint(8, 21, (n, 1), generator=generator)
        speech[torch.arange(20) >= length] = float("nan")
        return {"speech": speech}


class Cloud:
    """Sixteen points in space, each with its height."""

    key = "cloud"
    provides: Mapping[str, Any] = {"in_dim": 1, "grid": None, "axes": 3}

    def __call__(self, batch: Mapping[str, Tensor]) -> Tokens:
        return Tokens(batch["cloud"][..., 2:], batch["cloud"])

    def example(self, n: int, seed: int = 0) -> Batch:
        return {"cloud": torch.randn(n, 16, 3, generator=torch.Generator().manual_seed(seed))}


class Attention(nn.Module):
    """A block of attention.

    Args:
        in_dim: numbers per token, from the tokenizer.
        axes: numbers per position, from the tokenizer.
    """

    dim = out_dim = 8
    prefix, downsample, needs_grid = 0, 1, False

    def __init__(self, *, in_dim: Fact[int], axes: Fact[int]) -> None:
        super().__init__()
        self.content, self.place = nn.Linear(in_dim, 8), nn.Linear(axes, 8)
        self.mix = nn.MultiheadAttention(8, 2, batch_first=True)

    def embed(self, values: Tensor) -> Tensor:
        return self.content(values)

    def forward(self, x: Tensor, position: Tensor, valid: Tensor | None = None) -> Tensor:
        x = x + self.place(position)
        return (
            x + self.mix(x, x, x, key_padding_mask=None if valid is None else ~valid, need_weights=False)[0]
        )


class Content:
    """The content of each token.

    Args:
        in_dim: numbers per token, from the tokenizer.
    """

    def __init__(self, *, in_dim: Fact[int]) -> None:
        self.dim = in_dim

    def __call__(self, batch: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        return tokens.values.detach()


class FillIn(System):
    """A learned vector in place of what is hidden.

    Args:
        tokenizer: cuts the input into tokens.
        encoder: encodes all of them.
        masking: what to hide.
        target: what to predict.
        objective: how a prediction is scored.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        encoder: Encoder,
        masking: Masking,
        target: Target,
        objective: Objective,
    ) -> None:
        super().__init__()
        self.tokenizer, self.encoder, self.masking = tokenizer, encoder, masking
        self.target, self.objective = target, objective
        self.token = nn.Parameter(torch.zeros(encoder.dim))
        self.head = nn.Linear(encoder.out_dim, target.dim)

    def forward(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        tokens = self.tokenizer(batch)
        mask = self.draw(self.tokenizer(batch), batch, step)
        x = mask.fill(self.encoder.embed(tokens.values), self.token)
        guess = self.head(self.encoder(x, tokens.position, tokens.valid))
        return {"guess": self.objective(guess, self.target(batch, tokens), mask)}


TOKENIZERS = {"speech": Frames, "cloud": Cloud}


@pytest.fixture(params=TOKENIZERS)
def registry(request: pytest.FixtureRequest) -> Registry:
    """Core's plugin, and one of the modality."""
    modality = request.param

    def part(name: str, cls: type, **fields: Any) -> Part:
        target = f"{__name__}:{cls.__name__}"
        return Part(name=name, target=target, summary=name, modality=modality, **fields)

    slots = {
        "tokenizer": "acme/tokens",
        "encoder": "acme/attention",
        "masking": "core/random",
        "target": "acme/content",
        "objective": "core/mse",
    }
    declared = {
        "tokenizers": part("tokens", TOKENIZERS[modality]),
        "encoders": part("attention", Attention),
        "targets": part("content", Content),
        "systems": part("fill-in", FillIn, defaults=slots),
    }
    made = Registry(environ={}, entries=[])
    made.add("core", core)
    hooks = {
        f"polymask_register_{kind}": hookimpl(lambda p=p: [p], specname=f"polymask_register_{kind}")
        for kind, p in declared.items()
    }
    made.add("acme", SimpleNamespace(__name__="acme", **hooks))
    assert [plugin.error for plugin in made.plugins] == ["", ""]
    return made


@pytest.mark.parametrize("name", ["acme/tokens", "acme/attention", "acme/content", "acme/fill-in"])
def test_parts_of_other_modalities_pass(registry: Registry, name: str) -> None:
    assert not [result for result in check_part(name, registry=registry) if not result.ok]


def test_padding_reaches_the_checks(registry: Registry) -> None:
    subject = Subject(registry.find("encoders", "attention"), registry)
    tokens = subject.tokens(4)
    assert tokens.grid is None
    if subject.tokenizer.key == "speech":
        assert tokens.valid is not None
        assert not tokens.valid.all()
