"""MEAP masks the input alone: without masks it is transformers' language model, targets are always clean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from polymask import Mask, Step, UserError, build
from polymask.data import collate, open_data
from polymask.report.statistics import describe

FACTS = {"vocabulary": 96, "length": 64}
STEP = Step(3, 10, seed=1)
SIZES = [10, 6, 48, 33, 13, 18]


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    system: Any = build("language/meap", preset="tiny", facts=FACTS, **options).eval()
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return system


def nothing(request: Any) -> Mask:
    return Mask(torch.zeros(len(request.ids), request.sites, dtype=torch.bool), None, request.valid)


def batch_of(system: Any, n: int = 6) -> dict[str, Tensor]:
    return {**system.tokenizer.example(n), "id": torch.arange(n)}


def packed() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Six documents in two sequences, and each in one of its own, padded."""
    ids = torch.randint(5, 96, (128,), generator=torch.Generator().manual_seed(0))
    length = torch.tensor(SIZES)
    padded = torch.nn.utils.rnn.pad_sequence(list(ids.split(SIZES)), batch_first=True)
    document = torch.arange(3).repeat(2).repeat_interleave(length).view(2, 64)
    return {"text": ids.view(2, 64), "document": document}, {"text": padded, "text_length": length}


def states(system: Any, batch: dict[str, Tensor], mask: Mask) -> Tensor:
    tokens = system.tokenizer(batch)
    out: Tensor = system.encoder.logits(system.see(system.corrupt(tokens, mask), tokens))
    return out


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_without_masks_it_is_the_language_model_of_transformers(architecture: str) -> None:
    system = make(**{"encoder.architecture": architecture})
    batch = batch_of(system)
    factory: Any = transformers.AutoModelForCausalLM
    reference = factory.from_config(system.encoder.model.config).eval()
    reference.base_model.load_state_dict(system.encoder.model.state_dict())
    tokens = system.tokenizer(batch)
    inputs = {"input_ids": tokens.ids, "attention_mask": tokens.valid.long()}
    theirs = reference(**inputs, labels=torch.where(tokens.valid, tokens.ids, -100)).loss
    system.masking = nothing
    ours = system(batch, STEP)["next token"]
    torch.testing.assert_close(ours, theirs)
    ours.backward()
    theirs.backward()
    gradient = reference.get_input_embeddings().weight.grad
    torch.testing.assert_close(system.encoder.weight.grad, gradient, rtol=1e-3, atol=1e-6)


def test_masked_loss_is_that_of_clean_targets_and_masked_input() -> None:
    system = make(**{"masking.ratio": 0.3})
    batch = batch_of(system)
    tokens = system.tokenizer(batch)
    mask = system.masks(batch, STEP)["mask"].mask
    before = batch["text"].clone()
    loss = system(batch, STEP)["next token"]
    assert torch.equal(batch["text"], before)
    shown = torch.where(mask.hidden, system.mask_id, tokens.ids)
    assert (shown != tokens.ids).sum() == mask.hidden.sum() > 0
    model = system.encoder.model(shown, attention_mask=tokens.valid.long()).last_hidden_state
    labels = torch.where(tokens.valid, tokens.ids, -100)[:, 1:]
    expected = F.cross_entropy(system.encoder.logits(model)[:, :-1].transpose(1, 2), labels)
    torch.testing.assert_close(loss, expected)


def test_ratio_is_exact_and_the_last_input_is_never_masked() -> None:
    system = make()
    batch = {"text": torch.full((400, 64), 7), "id": torch.arange(400)}
    hidden = system.masks(batch, STEP)["mask"].mask.hidden
    assert (hidden.sum(1) == round(62 * 0.15)).all()
    assert not hidden[:, -2:].any() and hidden[:, :-2].any(0).all()
    assert len(torch.unique(hidden, dim=0)) == 400
    padded = batch | {"text_length": torch.tensor([30, 64] * 200)}
    hidden = system.masks(padded, STEP)["mask"].mask.hidden
    assert not hidden[::2, 28:].any() and hidden[::2, 27].any()


def test_patterns_recur_and_are_shared() -> None:
    system = make(patterns=51)
    batch = {"text": torch.full((3, 64), 7), "id": torch.arange(3)}
    drawn = [system.masks(batch, Step(i, 200))["mask"].mask.hidden for i in range(120)]
    assert all((hidden == hidden[:1]).all() for hidden in drawn)
    assert len(torch.unique(torch.stack([hidden[0] for hidden in drawn]), dim=0)) == 51
    assert torch.equal(drawn[3], drawn[54])


def test_nothing_masked_and_nothing_later_reaches_a_prediction() -> None:
    system = make(**{"masking.ratio": 0.3})
    batch = batch_of(system)
    mask = system.masks(batch, STEP)["mask"].mask
    row, place = 0, int(mask.hidden[0].nonzero()[3])
    other = batch | {"text": batch["text"].clone()}
    other["text"][row, place] = 5 + (batch["text"][row, place] - 4) % 91
    assert torch.equal(states(system, batch, mask), states(system, other, mask))
    # it is the target of the place before, and of no other
    assert not torch.equal(system(batch, STEP)["next token"], system(other, STEP)["next token"])
    other = batch | {"text": batch["text"].clone()}
    other["text"][:, 20] = 5 + (batch["text"][:, 20] - 4) % 91
    one, two = states(system, batch, mask), states(system, other, mask)
    assert torch.equal(one[:, :20], two[:, :20])
    seen = ~mask.hidden[:, 20]
    assert seen.any() and not torch.equal(one[seen][:, 20:], two[seen][:, 20:])


def test_mask_token_learns_as_an_input_and_is_never_a_target() -> None:
    system = make(**{"encoder.tied": False})
    system(batch_of(system), STEP)["next token"].backward()
    row = system.encoder.weight.grad[system.mask_id]
    assert row.any()
    # what the head has of it gets but the push of all that is not the target: p(mask) times the states
    head = system.encoder.lm_head.weight
    assert head.grad[system.mask_id].any()
    with torch.no_grad():
        head[system.mask_id] -= 0.1 * head.grad[system.mask_id]
        logits = states(system, batch_of(system), system.masks(batch_of(system), STEP)["mask"].mask)
    after = logits.softmax(-1)[..., system.mask_id].sum()
    with torch.no_grad():
        head[system.mask_id] += 0.1 * head.grad[system.mask_id]
    before = states(system, batch_of(system), system.masks(batch_of(system), STEP)["mask"].mask)
    assert after < before.softmax(-1)[..., system.mask_id].sum()


def test_packed_and_padded_give_the_same_loss() -> None:
    system = make()
    one, other = packed()
    chosen = one["text"].view(-1) % 3 == 0  # by what the token is, so in both alike

    def masking(request: Any) -> Mask:
        rows = list(chosen.split(SIZES))
        hidden = chosen.view(2, 64)
        if len(request.ids) != 2:
            hidden = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return Mask(hidden & request.valid, None, request.valid)

    system.masking = masking
    torch.testing.assert_close(system(one, STEP)["next token"], system(other, STEP)["next token"])
    with torch.no_grad():
        nats = [system.surprise(x) for x in (one, other)]
    torch.testing.assert_close(*(x[~x.isnan()] for x in nats))
    one["document"] = torch.zeros_like(one["document"])
    assert not torch.allclose(system(one, STEP)["next token"], system(other, STEP)["next token"], rtol=1e-4)


def responses(system: Any) -> dict[str, Tensor]:
    """Two long responses and one of exactly 50 tokens, which is not masked."""
    batch = {"text": system.tokenizer.example(3)["text"], "id": torch.arange(3)}
    batch["text"] = torch.where(batch["text"] < 5, 50, batch["text"])
    length = torch.tensor([64, 60, 64])
    response = torch.arange(64) >= torch.tensor([[8], [5], [14]])
    return {**batch, "text_length": length, "response": response}


def test_fine_tuning_scores_responses_clean_and_masked_ones_again() -> None:
    system = make(**{"masking.ratio": 0.1})
    batch = responses(system)
    tokens = system.tokenizer(batch)
    mask = system.masks(batch, STEP)["mask"].mask
    response = batch["response"] & tokens.valid
    assert not (mask.hidden & ~response).any()
    assert mask.hidden.sum(1).tolist() == [6, 6, 0]

    def total(ids: Tensor, where: Tensor) -> Tensor:
        model = system.encoder.model(ids, attention_mask=tokens.valid.long()).last_hidden_state
        labels = torch.where(where, tokens.ids, -100)[:, 1:]
        logits = system.encoder.logits(model)[:, :-1].transpose(1, 2)
        return F.cross_entropy(logits, labels, reduction="sum")

    shown = torch.where(mask.hidden, system.mask_id, tokens.ids)
    expected = total(tokens.ids, response) + total(shown, mask.hidden)
    expected = expected / (response.sum() + mask.hidden.sum())
    torch.testing.assert_close(system(batch, STEP)["next token"], expected)


def test_without_a_masking_it_is_plain_next_token_prediction() -> None:
    system, plain = make(**{"masking.ratio": 0.3}), make(masking=None)
    for batch in (batch_of(system), responses(system)):
        system.masking = nothing
        torch.testing.assert_close(plain(batch, STEP)["next token"], system(batch, STEP)["next token"])
        assert plain.masks(batch, STEP) == {}


def test_short_responses_are_read_once_and_long_ones_by_the_option() -> None:
    system = make(**{"masking.ratio": 0.1})
    batch = {key: x[:, :50] if x.dim() == 2 else x.clamp(max=50) for key, x in responses(system).items()}
    rows: list[int] = []
    see = system.see
    system.see = lambda ids, tokens: rows.append(len(ids)) or see(ids, tokens)
    short = system(batch, STEP)["next token"]
    system.long = 20
    system(batch, STEP)
    assert rows == [3, 6]
    torch.testing.assert_close(short, make(masking=None)(batch, STEP)["next token"])


def test_data_of_responses_fine_tunes_it() -> None:
    data: Any = open_data("language/sentiment", limit=12, vocab_size=400, length=32)
    samples = [{**data.split("train")[i], "id": torch.tensor(i)} for i in range(4)]
    batch = collate(samples)
    system: Any = build("language/meap", preset="tiny", facts=data.provides).eval()
    tokens, scored = system.tokenizer(batch), system.scored(system.tokenizer(batch), batch)
    predicted = [tokens.ids[row, 1:][scored[row, :-1]].tolist() for row in range(4)]
    assert predicted == [s["text"][s["response"]].tolist() for s in samples]
    assert system(batch, STEP)["next token"].isfinite()


def test_surprise_is_of_the_clean_text() -> None:
    system = make(**{"masking.ratio": 0.3})
    batch = batch_of(system)
    batch["text"][:, 4] = 3
    tokens = system.tokenizer(batch)
    with torch.no_grad():
        nats = system.surprise(batch)
        model = system.encoder.model(tokens.ids, attention_mask=tokens.valid.long()).last_hidden_state
        log_p = system.encoder.logits(model).log_softmax(-1)
    known = tokens.valid & (tokens.ids > 4)
    known[:, 0] = False
    assert torch.equal(~nats.isnan(), known)
    expected = -log_p[:, :-1].gather(2, tokens.ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(nats[:, 1:][known[:, 1:]], expected[known[:, 1:]], rtol=1e-4, atol=1e-5)


def test_what_follows_is_what_it_is_surprised_by_and_the_head_runs_there_alone() -> None:
    system = make(**{"masking.ratio": 0.3})
    batch = batch_of(system)
    batch["text"] = batch["text"].clamp(min=5)
    ends = batch["text_length"] - 1
    shown: list[torch.Size] = []
    logits = system.encoder.logits
    with torch.no_grad():
        nats = system.surprise(batch)
        system.encoder.logits = lambda x: shown.append(x.shape) or logits(x)
        found = system.following(batch | {"text_length": ends})
        whole = system.following({"text": batch["text"][:, :-1]})
    rows = torch.arange(6)
    torch.testing.assert_close(found[rows, batch["text"][rows, ends]], -nats[rows, ends])
    torch.testing.assert_close(found.exp().sum(1), torch.ones(6))
    assert shown == [(6, 32)] * 2
    full = ends == 63
    assert full.any()
    torch.testing.assert_close(whole[full], found[full])


def test_refuses_an_encoder_that_sees_the_future() -> None:
    with pytest.raises(UserError, match="language/causal"):
        build("language/meap", facts=FACTS, encoder={"name": "language/transformer", "dim": 32, "heads": 2})


def test_masks_are_described_where_no_response_is_long() -> None:
    system = make(long=50)
    batch = batch_of(system)
    batch["response"] = torch.arange(64).expand(6, -1) >= 40
    (mask,) = system.masks(batch, STEP).values()
    found = describe(mask.mask.hidden, (64,), mask.mask.valid)
    assert found.spread == (0.0, 0.0) and found.uniform and found.to_json()["hidden"] == [0, 0]
