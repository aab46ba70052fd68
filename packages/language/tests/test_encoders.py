"""The encoders are transformers' models, on packed, padded and partial sequences alike."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from polymask import Mask, Tokens, UserError
from polymask_language.attention import attention
from polymask_language.encoders import Causal, Transformer
from polymask_language.tokenizers import TokenIds
from polymask_language.vocabulary import vocabulary_of

BIDIRECTIONAL = ("bert", "roberta", "roberta-prelayernorm", "modernbert")
CAUSAL = ("gpt2", "llama")
every = pytest.mark.parametrize("architecture", [*BIDIRECTIONAL, *CAUSAL])
SIZE = {"vocabulary": 96, "dim": 32, "depth": 4, "heads": 2}


def make(architecture: str, length: int = 24, **more: Any) -> Any:
    torch.manual_seed(0)
    kind: Any = Causal if architecture in CAUSAL else Transformer
    encoder = kind(architecture=architecture, length=length, **(SIZE | more)).eval()
    with torch.no_grad():  # off its initial values, as training would, so that attention is not flat
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


def tokens_of(batch: dict[str, Tensor], length: int = 24) -> Tokens:
    return TokenIds(vocabulary=96, length=length)(batch)


def run(encoder: Any, tokens: Tokens) -> Tensor:
    out: Tensor = encoder(encoder.embed(tokens.values), tokens.position, tokens.valid)
    return out


def text(rows: int = 3, length: int = 24, seed: int = 0) -> Tensor:
    return torch.randint(5, 96, (rows, length), generator=torch.Generator().manual_seed(seed))


@every
def test_is_the_model_of_transformers(architecture: str) -> None:
    # longer than the window of ModernBERT's local attention
    encoder, ids = make(architecture, 100), text(length=100)
    lengths = torch.tensor([100, 71, 12])
    real = torch.arange(100) < lengths[:, None]
    ids = torch.where(real, ids, 0)
    ours = run(encoder, tokens_of({"text": ids, "text_length": lengths}, 100))
    theirs = encoder.model(input_ids=ids, attention_mask=real.long()).last_hidden_state
    torch.testing.assert_close(ours[real], theirs[real], rtol=1e-4, atol=1e-5)


@every
def test_weights_are_drawn_as_wide_as_asked(architecture: str) -> None:
    kind: Any = Causal if architecture in CAUSAL else Transformer
    for asked, seen in ((0.09, 0.09), (None, 0.02)):
        torch.manual_seed(0)
        encoder = kind(architecture=architecture, init_std=asked, **SIZE)
        assert float(encoder.weight[5:].detach().std()) == pytest.approx(seen, rel=0.15)
    with pytest.raises(UserError, match="init_std=0.0"):
        kind(architecture=architecture, init_std=0.0, **SIZE)


@every
def test_packed_documents_are_encoded_as_if_each_were_alone(architecture: str) -> None:
    encoder, ids = make(architecture, 100), text(1, 100)
    cuts = (0, 60, 71, 100)
    document = torch.bucketize(torch.arange(100), torch.tensor(cuts[1:]), right=True)
    packed = run(encoder, tokens_of({"text": ids, "document": document[None]}, 100))[0]
    for a, b in itertools.pairwise(cuts):
        alone = run(encoder, tokens_of({"text": ids[:, a:b]}, 100))[0]
        torch.testing.assert_close(packed[a:b], alone, rtol=1e-4, atol=1e-5)


@every
def test_gradient_does_not_cross_documents(architecture: str) -> None:
    encoder = make(architecture)
    document = torch.tensor([0] * 10 + [1] * 14).expand(2, -1)
    tokens = tokens_of({"text": text(2), "document": document})
    x = encoder.embed(tokens.values).detach().requires_grad_()
    encoder(x, tokens.position)[:, 10:].square().sum().backward()
    assert x.grad is not None
    assert (x.grad[:, :10] == 0).all() and x.grad[:, 10:].any(-1).all()


@pytest.mark.parametrize("architecture", CAUSAL)
def test_causal_sees_only_what_is_before(architecture: str) -> None:
    encoder, ids = make(architecture), text()
    changed = ids.clone()
    changed[:, 9] = 5 + (ids[:, 9] - 4) % 91
    one, other = (run(encoder, tokens_of({"text": x})) for x in (ids, changed))
    assert torch.equal(one[:, :9], other[:, :9])
    assert (one[:, 9:] != other[:, 9:]).any(-1).all()


@every
def test_kept_tokens_keep_their_places(architecture: str) -> None:
    """What is left of a sequence stays where it was: not the same as the same tokens closed up."""
    encoder, tokens = make(architecture), tokens_of({"text": text()})
    hidden = torch.zeros(3, 24, dtype=torch.bool)
    hidden[:, 4:12] = True
    seen = Mask(hidden, 16).keep(tokens)
    kept = run(encoder, seen)
    closed = run(encoder, tokens_of({"text": seen.values[..., 0]}))
    assert not torch.allclose(kept[:, 5:], closed[:, 5:], atol=1e-3)
    # the model of transformers given the places and ids that are left
    place = seen.position[..., 0].long() + encoder.first_place
    theirs = encoder.model(
        input_ids=seen.values[..., 0], position_ids=place, attention_mask=_around(place, encoder.causal)
    )
    torch.testing.assert_close(kept, theirs.last_hidden_state, rtol=1e-4, atol=1e-5)


def _around(place: Tensor, causal: bool) -> Any:
    n = place.shape[1]
    whole = torch.ones(n, n, dtype=torch.bool)
    return (whole.tril() if causal else whole).expand(len(place), 1, n, n)


def test_padding_reaches_itself_so_that_nothing_is_nan() -> None:
    place = torch.arange(3).expand(1, -1)
    reach = attention(place, torch.tensor([[0, 1, 1]]), torch.tensor([[True, True, False]]), True)
    expected = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 1, 1]], dtype=torch.bool)
    assert torch.equal(reach[0, 0], expected)


@every
def test_layers_end_in_the_output(architecture: str) -> None:
    encoder, tokens = make(architecture), tokens_of({"text": text()})
    states = encoder.layers(encoder.embed(tokens.values), tokens.position, tokens.valid)
    assert len(states) == encoder.depth == 4
    assert torch.equal(states[-1], run(encoder, tokens))
    assert not torch.equal(states[0], states[1])


@every
def test_loads_from_a_folder(architecture: str, tmp_path: Path) -> None:
    encoder = make(architecture)
    encoder.exports()["transformers"]({"length": 24}, tmp_path)
    again: Any = type(encoder)(pretrained=str(tmp_path), vocabulary=96, length=24).eval()
    assert (again.dim, again.depth) == (32, 4)
    tokens = tokens_of({"text": text()})
    assert torch.equal(run(again, tokens), run(encoder, tokens))
    grown: Any = type(encoder)(pretrained=str(tmp_path), vocabulary=97, length=24).eval()
    assert grown.weight.shape == (97, 32)
    torch.testing.assert_close(run(grown, tokens), run(encoder, tokens))
    with pytest.raises(UserError, match="up to 25 tokens .* places for 24"):
        type(encoder)(pretrained=str(tmp_path), vocabulary=96, length=25)
    other: Any = Transformer if encoder.causal else Causal
    with pytest.raises(UserError):
        other(pretrained=str(tmp_path), vocabulary=96, length=24)


def test_refuses_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="30 is not divisible by 4 heads"):
        Transformer(dim=30, heads=4)
    with pytest.raises(UserError, match="choose bert or roberta or roberta-prelayernorm or modernbert"):
        Transformer(architecture="gpt2")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="kv_heads=2"):
        Causal(kv_heads=2)
    with pytest.raises(UserError, match="no model"):
        Transformer(pretrained=str(tmp_path))


def test_an_untied_head_has_weights_of_its_own() -> None:
    states = torch.randn(2, 32)
    tied, untied = make("llama"), make("llama", tied=False, kv_heads=1)
    assert torch.equal(tied.logits(states), states @ tied.weight.T)
    assert not torch.allclose(untied.logits(states), states @ untied.weight.T)
    tied.logits(states).sum().backward()
    assert tied.weight.grad is not None
    assert isinstance(tied.model, transformers.LlamaModel)


@pytest.mark.parametrize("kind", [Transformer, Causal])
def test_a_loaded_model_and_the_data_share_a_vocabulary(kind: Any, tmp_path: Path) -> None:
    own, other = (vocabulary_of("bpe", [f"{word} " * 900], size=320) for word in ("apple pear", "rook crow"))
    facts = {"vocabulary": own.size, "length": 24, "tokenizer_file": str(own.file)}
    kind(dim=32, depth=1, heads=2, **facts).exports()["transformers"]({**own.facts, "length": 24}, tmp_path)
    kind(pretrained=str(tmp_path), **facts)
    same = vocabulary_of(str(tmp_path), [])
    kind(pretrained=str(tmp_path), **{**facts, "tokenizer_file": str(same.file)})
    facts |= {"vocabulary": other.size, "tokenizer_file": str(other.file)}
    with pytest.raises(UserError, match=f"--data.vocab {tmp_path}"):
        kind(pretrained=str(tmp_path), **facts)
    for file in tmp_path.glob("*token*"):  # transformers then makes a tokenizer of special tokens alone
        file.unlink()
    with pytest.warns(UserWarning, match="comes without a vocabulary"):
        kind(pretrained=str(tmp_path), **facts)
