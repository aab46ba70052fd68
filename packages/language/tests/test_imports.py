"""An encoder of text begins with weights whose ids name the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from polymask import UserError, build
from polymask.export import export
from polymask.imports import load_initial
from polymask_language.vocabulary import train

LINES = ["the cat sat on the mat", "a dog ran after the cat", "the dog sat on a log"] * 20


def save(lines: list[str], path: Path) -> dict[str, Any]:
    vocabulary = train("bpe", lines, size=300, lower=True)
    vocabulary.save(str(path))
    ids = {"pad_id": 0, "mask_id": 4, "start_id": 2, "end_id": 3}
    return {"vocabulary": vocabulary.get_vocab_size(), "length": 16, "tokenizer_file": str(path), **ids}


def make(facts: dict[str, Any], seed: int, **options: Any) -> Any:
    torch.manual_seed(seed)
    return build("language/mlm", preset="tiny", facts=facts, **options).eval()


def test_the_same_vocabulary(tmp_path: Path) -> None:
    facts = save(LINES, tmp_path / "a.json")
    old = make(facts, 0)
    export(old, "safetensors", tmp_path / "out", facts=facts)
    new = make(facts, 1)
    load_initial(new, tmp_path / "out", facts=facts)
    state = new.encoder.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in old.encoder.state_dict().items())

    other = save([line[::-1] for line in LINES], tmp_path / "b.json")
    with pytest.raises(UserError, match="--data.vocab .*a.json"):
        load_initial(make(other, 1), tmp_path / "out", facts=other)
    copied = {**facts, "tokenizer_file": str(tmp_path / "copy.json")}
    (tmp_path / "copy.json").write_bytes((tmp_path / "a.json").read_bytes())
    load_initial(make(copied, 1), tmp_path / "out", facts=copied)
    (tmp_path / "a.json").unlink()
    with pytest.raises(UserError, match="is gone"):
        load_initial(make(copied, 1), tmp_path / "out", facts=copied)


def test_a_model_of_transformers_is_asked_for_by_pretrained(tmp_path: Path) -> None:
    facts = save(LINES, tmp_path / "a.json")
    with pytest.raises(UserError, match="--encoder.pretrained NAME"):
        load_initial(make(facts, 0), "transformers:bert-base-uncased", facts=facts)
