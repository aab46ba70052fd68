"""data2vec 2.0 over audio of several lengths."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Batch, Request, Step, Tokens, build
from polymask_audio.maskings import HubertSpan

STEP = Step(3, 10, seed=1)


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    preset = {"preset": "tiny", "tokenizer": {"name": "audio/mel-frames", "mels": 16}}
    system: Any = build("audio/data2vec2", facts={"rate": 1600}, **preset, **options)
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return system.eval()


def sound(*seconds: float) -> Batch:
    """Samples of several lengths, what follows them no silence."""
    lengths = torch.tensor([round(1600 * each) for each in seconds])
    audio = torch.randn(len(lengths), int(lengths.max()), generator=torch.Generator().manual_seed(0))
    return {"audio": audio, "audio_length": lengths, "id": torch.arange(len(lengths))}


def targets(system: Any, batch: Batch) -> tuple[Tokens, Tensor]:
    tokens = system.tokenizer(batch)
    return tokens, system.latents(tokens, system.encoder.embed(tokens.values))


def test_each_feature_has_mean_0_over_the_real_tokens_of_a_sample_whatever_is_padded() -> None:
    system = make()
    tokens, y = targets(system, sound(2.0, 1.3, 0.7))
    assert tokens.valid is not None and not tokens.valid.all()
    for row, real in zip(y, tokens.valid, strict=True):
        torch.testing.assert_close(row[real].mean(0), torch.zeros(32), atol=1e-5, rtol=0)
        # the mean of two that have variance 1
        assert 0.4 < float(row[real].var(0, unbiased=False).mean()) <= 1.0
    alone = {"audio": sound(2.0, 1.3, 0.7)["audio"][1:2, :2080], "id": torch.tensor([1])}
    _, one = targets(system, alone)
    torch.testing.assert_close(y[1][tokens.valid[1]], one[0], rtol=1e-3, atol=1e-4)


def test_the_loss_is_the_mean_over_hidden_tokens_of_all_views_by_hand() -> None:
    system, batch = make(), sound(2.0, 1.3, 0.7)
    tokens, y = targets(system, batch)
    n, total, count = tokens.shape[1], 0.0, 0
    for view in range(2):
        mask = system.draw(tokens, batch, STEP, view)
        assert not (mask.hidden & ~tokens.valid).any()
        seen = mask.keep(tokens)
        encoded = system.encoder(system.encoder.embed(seen.values), seen.position, seen.valid)
        noise = STEP.normal(batch["id"], n * 32, (1 << 32) + view).view(3, n, 32)
        guess = system.decoder(encoded, mask, tokens.position, 0.01 * noise)
        for row in range(3):
            hidden = mask.hidden[row]
            wanted = y[row][hidden]
            total += float((guess[row, : len(wanted)] - wanted).square().sum().detach())
            count += int(hidden.sum())
    assert system(batch, STEP)["regression"].item() == pytest.approx(total / count / math.sqrt(32), rel=1e-4)


def test_the_decoder_drops_some_of_what_the_encoder_gives_in_training_alone() -> None:
    system, batch = make(decoder_dropout=0.5), sound(2.0, 1.3)
    trained, again = (float(system.train()(batch, STEP)["regression"].detach()) for _ in range(2))
    tested, once_more = (float(system.eval()(batch, STEP)["regression"].detach()) for _ in range(2))
    assert trained != again and tested == once_more


def test_predictions_depend_neither_on_padding_nor_on_what_is_hidden() -> None:
    system, batch = make(), sound(2.0, 1.3)
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)

    def predicted(values: Tensor) -> Tensor:
        embedded = Tokens(system.encoder.embed(values), tokens.position, valid=tokens.valid)
        encoded = system.encode_visible(embedded, mask)
        prediction: Tensor = system.predict(encoded, mask, tokens, batch, STEP)
        return prediction

    counts = mask.hidden.sum(1)
    changed = torch.where((mask.hidden | ~tokens.valid)[..., None], 9.0, tokens.values)
    before, after = predicted(tokens.values), predicted(changed)
    assert all(torch.equal(before[row, :k], after[row, :k]) for row, k in enumerate(counts))


def test_the_teacher_hears_what_the_student_embedded() -> None:
    system, batch = make(), sound(1.0, 1.0)
    tokens = system.tokenizer(batch)
    embedded = system.encoder.embed(tokens.values)
    before = system.latents(tokens, embedded)
    with torch.no_grad():
        for parameter in system.teacher.module.front.parameters():
            parameter.add_(1.0)
    assert torch.equal(system.latents(tokens, embedded), before)
    assert not torch.allclose(system.latents(tokens, 2 * embedded + 1), before)


def test_spans_hide_what_the_release_hides() -> None:
    """38.5 % of 500 tokens in rows trimmed to the least of 8; spans of 5 that met nowhere would hide half."""
    masking = make(masking={"length": 5, "trim": True}).masking
    asked = [Request(8 * i + torch.arange(8), 500, STEP) for i in range(50)]
    share = torch.stack([masking(each).hidden.float().mean() for each in asked]).mean()
    assert isinstance(masking, HubertSpan)
    assert share.item() == pytest.approx(0.385, abs=0.005)


@pytest.mark.compile
def test_forward_is_one_graph_where_all_hide_the_same_number() -> None:
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    facts, spans = {"rate": 1600, "seconds": 1.0}, {"name": "core/span", "length": 2}
    system: Any = build("audio/data2vec2", preset="tiny", facts=facts, masking=spans).eval()
    counter = CompileCounter()
    compiled = torch.compile(system, backend=counter, fullgraph=True)
    batch = {**system.tokenizer.example(4), "id": torch.arange(4)}
    for i in range(3):
        one, other = (made(batch, Step(i, 10))["regression"] for made in (compiled, system))
        torch.testing.assert_close(one, other)
    assert counter.frame_count <= 2
