"""data2vec 2.0 over text: the feed-forward layers of RoBERTa teach."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Step, build

FACTS = {"vocabulary": 96, "length": 24}
STEP = Step(3, 10, seed=1)


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    system: Any = build("language/data2vec2", preset="tiny", facts=FACTS, **options)
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return system.eval()


def standard(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()


def test_targets_are_what_robertas_feed_forward_layers_return_over_real_tokens() -> None:
    system = make()
    batch = {**system.tokenizer.example(4), "id": torch.arange(4)}
    tokens = system.tokenizer(batch)
    embedded = system.encoder.embed(tokens.values)
    found = system.latents(tokens, embedded)
    model = system.teacher.module.model
    for row, real in enumerate(tokens.valid):
        n = int(real.sum())
        states = model(
            inputs_embeds=embedded[row : row + 1, :n],
            position_ids=torch.arange(n)[None] + system.encoder.first_place,
            output_hidden_states=True,
        ).hidden_states
        returned = []
        for block, x in zip(model.encoder.layer, states[:-1], strict=True):
            after = block.attention(x)[0]
            returned.append(standard(block.output.dense(block.intermediate(after))[0]))
        torch.testing.assert_close(found[row, :n], sum(returned) / 2, rtol=1e-3, atol=1e-4)


def test_the_error_is_summed_over_features_of_hidden_tokens() -> None:
    system = make(noise=0.0, views=1)
    torch.nn.init.zeros_(system.decoder.head[-1].weight)
    torch.nn.init.zeros_(system.decoder.head[-1].bias)
    batch = {**system.tokenizer.example(4), "id": torch.arange(4)}
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    y = system.latents(tokens, system.encoder.embed(tokens.values))
    expected = y[mask.hidden].square().sum(-1).mean()
    torch.testing.assert_close(system(batch, STEP)["regression"], expected)
    share = mask.hidden.sum(1) / tokens.valid.sum(1)
    assert ((share - 0.48).abs() < 0.5 / tokens.valid.sum(1) + 1e-6).all()
    assert len(system.decoder.head) == 3 and not system.decoder.convolutions.residual


@pytest.mark.parametrize("architecture", ["bert", "roberta-prelayernorm", "modernbert"])
def test_other_architectures_teach_too(architecture: str) -> None:
    system = make(**{"encoder.architecture": architecture})
    batch = {**system.tokenizer.example(3), "id": torch.arange(3)}
    system.train()(batch, STEP)["regression"].backward()
    tokens = system.tokenizer(batch)
    y = system.latents(tokens, system.encoder.embed(tokens.values))
    assert y.shape == (3, 24, 32)
    torch.testing.assert_close(y[tokens.valid].mean(0), torch.zeros(32), atol=1e-4, rtol=0)


def test_what_a_hidden_word_is_reaches_no_prediction() -> None:
    system = make()
    batch = {**system.tokenizer.example(4), "id": torch.arange(4)}
    mask = system.draw(system.tokenizer(batch), batch, STEP)
    other = {**batch, "text": torch.where(mask.hidden, (batch["text"] + 7) % 96, batch["text"])}
    found = [system.first_view(system.tokenizer(x), mask, x, STEP) for x in (batch, other)]
    assert torch.equal(found[0][0], found[1][0]) and not torch.allclose(found[0][1], found[1][1])
