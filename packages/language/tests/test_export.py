"""What leaves by export gives, in transformers, what it gave here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from polymask.export import export, formats, load
from polymask_language.encoders import Causal, Transformer
from polymask_language.tokenizers import TokenIds
from polymask_language.vocabulary import train

every = pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert", "gpt2", "llama"])
LINES = ["the cat sat on the mat", "a dog ran after the cat", "the dog sat on a log"] * 20


def make(architecture: str, vocabulary: int, **more: Any) -> Any:
    torch.manual_seed(0)
    kind: Any = Causal if architecture in ("gpt2", "llama") else Transformer
    sizes: Any = {"vocabulary": vocabulary, "length": 16, "dim": 32, "depth": 2, "heads": 2}
    return kind(architecture=architecture, **sizes, **more).eval()


@every
def test_transformers_loads_encoder_and_vocabulary(architecture: str, tmp_path: Path) -> None:
    vocabulary = train("bpe", LINES, size=300, lower=True)
    file = tmp_path / "tokenizer.json"
    vocabulary.save(str(file))
    encoder = make(architecture, vocabulary.get_vocab_size())
    facts = {"length": 16, "mask_id": 4, "pad_id": 0, "start_id": 2, "end_id": 3, "tokenizer_file": file}
    encoder.exports()["transformers"](facts, tmp_path / "out")

    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    rows = read(["the cat", "the dog sat on a log"], padding=True, return_tensors="pt")
    assert read.mask_token_id == 4 and rows["input_ids"][0, 0] == 2
    model = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    theirs = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).last_hidden_state
    real = rows["attention_mask"].bool()
    tokens = TokenIds(vocabulary=vocabulary.get_vocab_size(), length=16)(
        {"text": rows["input_ids"], "text_length": real.sum(1)}
    )
    ours = encoder(encoder.embed(tokens.values), tokens.position, tokens.valid)
    torch.testing.assert_close(ours[real], theirs[real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_causal_encoder_becomes_a_language_model(architecture: str, tied: bool, tmp_path: Path) -> None:
    encoder = make(architecture, 96, tied=tied)
    encoder.exports()["transformers"]({"length": 16}, tmp_path)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    ids = torch.randint(5, 96, (2, 9), generator=torch.Generator().manual_seed(0))
    tokens = TokenIds(vocabulary=96, length=16)({"text": ids})
    states = encoder(encoder.embed(tokens.values), tokens.position, tokens.valid)
    torch.testing.assert_close(encoder.logits(states), model.eval()(ids).logits, rtol=1e-4, atol=1e-5)


def test_by_the_name_of_a_system(tmp_path: Path) -> None:
    from polymask import build

    system: Any = build("language/mlm", preset="tiny", facts={"vocabulary": 96, "length": 24}).eval()
    assert formats(system) == ("safetensors", "onnx", "transformers")
    export(system, "transformers", tmp_path / "hub")
    export(system, "safetensors", tmp_path / "own")
    batch = system.tokenizer.example(3)
    ours = system.encode(batch).values
    assert torch.equal(load(tmp_path / "own")(batch).values, ours)
    ids, length = batch["text"], batch["text_length"]
    real = torch.arange(ids.shape[1]) < length[:, None]
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "hub").eval()(ids, real.long())[0]
    torch.testing.assert_close(ours[real], theirs[real], rtol=1e-4, atol=1e-5)
