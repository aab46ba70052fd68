"""Perplexity, its interval and its rival in closed form."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from polymask import UserError, build
from polymask_language.evaluations.perplexity import Perplexity, interval


def test_interval_of_a_ratio() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 40, (4000,), generator=generator)
    nats = tokens * (3 + 0.5 * torch.randn(4000, generator=generator, dtype=torch.float64))
    value, low, high = interval(nats, tokens)
    assert math.log(value) == pytest.approx(float(nats.sum() / tokens.sum()))
    assert low < math.exp(3) < high
    draws = torch.randint(4000, (500, 4000), generator=generator)
    spread = (nats[draws].sum(1) / tokens[draws].sum(1)).std()
    assert (math.log(high) - math.log(low)) / (2 * 1.96) == pytest.approx(float(spread), rel=0.1)
    with pytest.raises(UserError, match="no token"):
        interval(torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.int64))


def test_scores_of_a_uniform_model_and_of_frequencies(tmp_path: Path) -> None:
    facts = {"vocabulary": 96, "length": 24}
    system: Any = build("language/mlm", preset="tiny", facts=facts)
    with torch.no_grad():  # all logits alike
        system.head.layer[2].weight.zero_()
        system.head.layer[2].bias.zero_()
    batch = system.tokenizer.example(10)
    samples = [{"text": row[:n]} for row, n in zip(batch["text"], batch["text_length"], strict=True)]
    counts = np.arange(96)
    np.savez(tmp_path / "statistics.npz", counts=counts)
    data = SimpleNamespace(
        provides={"statistics_file": str(tmp_path / "statistics.npz")}, split=lambda name: samples
    )
    opened: Any = SimpleNamespace(name="x", system=system, data=data, untrained=lambda: system)
    scores = list(Perplexity(batch_size=4)(opened))
    assert [s.row for s in scores] == ["pre-trained", "untrained", "frequency alone"]
    assert all(s.metric == "pseudo-perplexity" for s in scores)
    assert scores[0].value == pytest.approx(96, rel=1e-4)
    ids = torch.cat([s["text"] for s in samples])
    ids = ids[ids > 4]
    share = torch.from_numpy((1 + counts) / (96 + counts.sum()))
    assert scores[2].value == pytest.approx(float((-share[ids].log().mean()).exp()), rel=1e-6)
    opened.system = SimpleNamespace()
    with pytest.raises(UserError, match="nothing about single tokens"):
        list(Perplexity()(opened))
