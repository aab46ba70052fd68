"""Masked language modelling is transformers' BERT, leaks nothing, and scores hidden words alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from polymask import Mask, Step, UserError, build

FACTS = {"vocabulary": 96, "length": 24}
STEP = Step(3, 10, seed=1)


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    system: Any = build("language/mlm", preset="tiny", facts=FACTS, **options).eval()
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return system


def batch_of(system: Any, n: int = 6) -> dict[str, Tensor]:
    return {**system.tokenizer.example(n), "id": torch.arange(n)}


def packed() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Six documents in two sequences, and each in one of its own, padded."""
    ids = torch.randint(5, 96, (48,), generator=torch.Generator().manual_seed(0))
    sizes = [10, 6, 8, 4, 13, 7]
    parts = ids.split(sizes)
    length = torch.tensor(sizes)
    padded = torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
    document = torch.arange(3).repeat(2).repeat_interleave(length).view(2, 24)
    return {"text": ids.view(2, 24), "document": document}, {"text": padded, "text_length": length}


def test_loss_and_gradient_equal_transformers() -> None:
    system = make(**{"masking.ratio": 0.4})
    batch = batch_of(system)
    reference: Any = transformers.BertForMaskedLM(system.encoder.model.config).eval()
    reference.bert.load_state_dict(system.encoder.model.state_dict())
    head = reference.cls.predictions
    head.transform.dense.load_state_dict(system.head.layer[0].state_dict())
    head.transform.LayerNorm.load_state_dict(system.head.layer[2].state_dict())
    head.bias.data.copy_(system.head.bias.data)
    head.decoder.bias.data.copy_(system.head.bias.data)

    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    theirs = reference(
        input_ids=system.corrupt(tokens, mask, batch, STEP),
        attention_mask=tokens.valid.long(),
        labels=torch.where(mask.hidden, tokens.ids, -100),
    ).loss
    ours = system(batch, STEP)["words"]
    torch.testing.assert_close(ours, theirs)
    ours.backward()
    theirs.backward()
    torch.testing.assert_close(
        system.encoder.weight.grad, reference.get_input_embeddings().weight.grad, rtol=1e-3, atol=1e-6
    )


def test_head_runs_on_hidden_tokens_alone() -> None:
    system, seen = make(), []
    system.head.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    batch = batch_of(system)
    system(batch, STEP)
    assert seen == [int(system.masks(batch, STEP)["mask"].mask.hidden.sum(1).max())] and seen[0] < 6


@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.1), (1.0, 0.0, 0.0)])
def test_hidden_words_reach_no_prediction_but_where_they_are_left(shares: tuple[float, ...]) -> None:
    system = make(shares=shares, **{"masking.ratio": 0.4})
    batch = batch_of(system)
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    shown = system.corrupt(tokens, mask, batch, STEP)
    gone = mask.hidden & (shown != tokens.ids)
    other = batch | {"text": torch.where(gone, 5 + (tokens.ids - 4) % 91, tokens.ids)}
    changed = system.tokenizer(other)
    again = system.corrupt(changed, mask, other, STEP)
    assert torch.equal(again, shown)
    assert not torch.equal(system(other, STEP)["words"], system(batch, STEP)["words"])
    kept = (mask.hidden & (shown == tokens.ids)).any()
    assert bool(kept) == (shares[2] > 0)


def test_no_special_token_and_no_padding_is_hidden() -> None:
    system = make(**{"masking.ratio": 0.9})
    batch = batch_of(system)
    batch["text"][:, 0], batch["text"][:, 5] = 2, 3
    tokens = system.tokenizer(batch)
    hidden = system.masks(batch, STEP)["mask"].mask.hidden
    assert not hidden[:, [0, 5]].any() and not hidden[~tokens.valid].any()
    content = tokens.valid.sum(1) - 2
    assert torch.equal(hidden.sum(1), (content * 0.9 + 0.5).floor().long())


def test_packed_and_padded_give_the_same_loss() -> None:
    system = make(shares=(1.0, 0.0, 0.0))
    one, other = packed()
    chosen = one["text"].view(-1) % 3 == 0  # by what the token is, so in both alike

    def masking(request: Any) -> Mask:
        flat = chosen.view(2, 24)
        if request.sites != 24:
            flat = torch.nn.utils.rnn.pad_sequence(list(chosen.split([10, 6, 8, 4, 13, 7])), True)
        return Mask(flat, None, request.valid)

    system.masking = masking
    torch.testing.assert_close(system(one, STEP)["words"], system(other, STEP)["words"])
    one["document"] = torch.zeros_like(one["document"])
    assert not torch.allclose(system(one, STEP)["words"], system(other, STEP)["words"], rtol=1e-4)


def test_pseudo_perplexity_hides_each_token_by_itself() -> None:
    system = make()
    batch = batch_of(system, 3)
    batch["text"][:, 0] = 2
    with torch.no_grad():
        nats = system.surprise(batch)
    tokens = system.tokenizer(batch)
    assert torch.equal(nats.isnan(), ~tokens.valid | (tokens.ids < 5))
    for place in (1, 7):
        shown = tokens.ids.clone()
        shown[:, place] = system.mask_id
        logits = system.head(system.see(shown, tokens)[:, place], system.encoder)
        expected = F.cross_entropy(logits, tokens.ids[:, place], reduction="none")
        torch.testing.assert_close(nats[:, place], expected)
    with torch.no_grad():
        assert not torch.equal(system.surprise(batch, stride=4)[:, 7], nats[:, 7])


def test_pictures_show_what_was_hidden_and_escape() -> None:
    from polymask_language.display import Words

    system = make()
    batch = batch_of(system)
    (shown,) = system.preview(batch, STEP).media.values()
    hidden = system.masks(batch, STEP)["mask"].mask.hidden
    assert [sum(words.hidden) for words in shown] == hidden.sum(1).tolist()
    words = Words([" <b>", " a", " b"], [True, True, False], [" x", " a", " c"])
    page = words._repr_html_()
    assert "<b>" not in page and "&lt;b&gt;" in page and " x</sub>" in page
    assert " c" not in page and words.note == "1 of 2 hidden right"


def test_refuses_an_encoder_without_an_embedding_matrix() -> None:
    class Bare:
        dim = out_dim = 32

    system = make()
    with pytest.raises(UserError, match="language/transformer"):
        type(system)(
            tokenizer=system.tokenizer,
            encoder=Bare(),
            masking=system.masking,
            objective=system.objective,
        )
