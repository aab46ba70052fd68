"""Core's masked autoencoder, over text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from polymask import Step, build
from polymask.config import RunConfig
from polymask.report import write_report
from polymask.run import Run
from polymask.training import fit

FACTS = {"vocabulary": 96, "length": 24}
STEP = Step(3, 10, seed=1)


def test_the_loss_is_that_of_hidden_ids_from_visible_ones_alone() -> None:
    torch.manual_seed(0)
    system: Any = build("language/mae", preset="tiny", facts=FACTS).eval()
    batch = {**system.tokenizer.example(6), "id": torch.arange(6)}
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    prediction = system.predict(tokens, mask)
    whole = mask.invert().restore(prediction, prediction.new_zeros(1))
    expected = F.cross_entropy(whole[mask.hidden], tokens.ids[mask.hidden])
    torch.testing.assert_close(system(batch, STEP)["reconstruction"], expected)
    other = {**batch, "text": torch.where(mask.hidden, (batch["text"] + 7) % 96, batch["text"])}
    assert torch.equal(system.predict(system.tokenizer(other), mask), prediction)
    assert not mask.hidden[~tokens.valid].any()


@pytest.mark.slow
def test_it_trains_on_text_and_shows_it(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(
        "\n".join(
            f"the {a} is as {b} as the {a}" for a in ("cat", "dog", "cow") for b in ("big", "old", "wise")
        )
    )
    config = {
        "system": "language/mae",
        "preset": "tiny",
        "encoder.dropout": 0.0,
        "data": {"name": "language/file", "source": str(tmp_path / "text.txt"), "vocab_size": 300},
        "steps": 150,
        "batch_size": 8,
        "lr": 1e-2,
        "workers": 0,
        "accelerator": "cpu",
        "precision": "32",
    }
    run = Run.create(RunConfig.resolve(config), tmp_path / "run")
    fit(run, progress=False)
    opened = Run.open(tmp_path / "run")
    samples = run.data.split("train")
    batch = {"text": torch.stack([samples[i]["text"] for i in range(len(samples))])}
    with torch.no_grad():
        found = float(opened.system(batch, STEP)["reconstruction"])
    counts = torch.bincount(batch["text"].flatten(), minlength=300).float()
    share = counts / counts.sum()
    assert found < 0.5 * float(torch.special.entr(share).sum())
    assert "hidden words, predictions beside" in write_report(tmp_path / "run").read_text()
