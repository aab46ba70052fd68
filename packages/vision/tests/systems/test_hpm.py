"""HPM ranks by cost, mines what ranks high, and keeps the two losses out of each other's way."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from polymask import Mask, Step, Tokens, UserError, build
from polymask.functional import encode_visible
from polymask.maskings import TopScore
from polymask.objectives import MSE
from polymask.objectives.ranking import Pairwise
from polymask_vision.encoders import Swin

TINY = {
    "tokenizer.patch_size": 4,
    "encoder.dim": 32,
    "encoder.depth": 2,
    "encoder.heads": 2,
    "decoder_dim": 16,
    "decoder_depth": 2,
    "decoder_heads": 2,
}
STEP = Step(6, 10, seed=1)


def make(size: int = 16, channels: int = 3, **options: Any) -> Any:
    torch.manual_seed(0)
    system: Any = build("vision/hpm", facts={"size": (size, size), "channels": channels}, **(TINY | options))
    return system


def images(n: int = 4, size: int = 16, channels: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.randn(n, channels, size, size, generator=generator), "id": torch.arange(n)}


# ------------------------------------------------------------------------------------- the mask


def test_the_teachers_hardest_are_hidden_and_the_rest_is_random() -> None:
    """6 of 12 hidden hardest at the end, after a rise from 0; the others at (M - h) / (N - h)."""
    system, rows = make(), 2048
    batch = {"image": torch.randn(rows, 3, 16, 16), "id": torch.arange(rows)}
    tokens = system.tokenizer(batch)
    for index, hard in ((0, 0), (500, 3), (1000, 6)):
        step = Step(index, 1000, seed=1)
        mask = system.draw(tokens, batch, step)
        assert (mask.hidden.sum(1) == 12).all() and mask.visible == 4
        order = system.difficulty(tokens, batch, step).argsort(dim=1, descending=True)
        ranked = mask.hidden.gather(1, order)
        assert ranked[:, :hard].all()
        p = (12 - hard) / (16 - hard)
        rate = ranked[:, hard:].double().mean()
        assert abs(float(rate) - p) < 3 * math.sqrt(p * (1 - p) / ranked[:, hard:].numel())
    random = make(masking="core/random").draw(tokens, batch, Step(0, 1000, seed=1))
    assert torch.equal(system.draw(tokens, batch, Step(0, 1000, seed=1)).hidden, random.hidden)


@pytest.mark.parametrize("score", ["vision/variance", "vision/entropy"])
def test_other_evidence_can_be_mined(score: str) -> None:
    system = make(score=score, masking={"name": "core/top-score", "ratio": 0.25, "hard": 1.0})
    batch = images()
    batch["image"][:, :, :8, :8] *= 5
    mask = system.masks(batch, STEP)["mask"].mask
    assert (mask.hidden.nonzero()[:, 1] == torch.tensor([0, 1, 4, 5]).repeat(4)).all()
    assert system.teacher is None


def test_a_complementary_look_scores_no_token_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four looks share out the sample; each token's score is its mean over those that hide it."""
    system, batch = make(scoring="complementary"), images()
    tokens, seen, answers = system.tokenizer(batch), [], []
    ranker = system.teacher.module[1]

    def watch(module: Any, args: Any, answer: Tensor) -> None:
        seen.append(~args[1].hidden)
        answers.append(answer)

    ranker.register_forward_hook(watch)
    score = system.difficulty(tokens, batch, STEP)
    assert torch.equal(torch.stack(seen).sum(0), torch.ones(4, 16, dtype=torch.int64))
    table = torch.full((4, 4, 16), float("nan"))
    for look in range(4):
        table[look][~seen[look]] = answers[look].flatten()
    torch.testing.assert_close(score, table.nanmean(0))


def test_the_whole_look_reads_every_token_and_scores_in_its_place() -> None:
    """The ranker at all sites is its last block run on all of them."""
    system, batch = make(), images()
    tokens = system.tokenizer(batch)
    ranker = system.ranker
    encoded = system.encoder(system.encoder.embed(tokens.values), tokens.position)
    x = ranker.embed(encoded)
    x = torch.cat([x[:, :1], x[:, 1:] + ranker.positions(tokens.position)], dim=1)
    for block in ranker.blocks:
        x = block(x)
    expected = ranker.head(ranker.norm(x))[:, 1:, 0]
    torch.testing.assert_close(system.difficulty(tokens, batch, STEP), expected, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------- gradients


def gradients(system: Any, term: str) -> dict[str, bool]:
    system.zero_grad()
    system(images(), STEP)[term].backward()
    return {n: p.grad is not None and bool(p.grad.any()) for n, p in system.named_parameters()}


@pytest.mark.parametrize("loss", ["core/pairwise", "core/standardised-mse"])
def test_ranking_trains_the_encoder_and_not_the_reconstructor(loss: str) -> None:
    """Nor through what a patch cost, which the second of the losses would have a gradient for."""
    system = make(ranking_objective=loss)
    moved = gradients(system, "ranking")
    own = {n for n in moved if n.startswith(("decoder.blocks", "decoder.norm", "decoder.head"))}
    assert own and not any(moved[n] for n in own)
    assert moved["encoder.vit.blocks.0.attn.qkv.weight"] and moved["ranker.blocks.0.attn.qkv.weight"]
    assert moved["decoder.embed.weight"] and moved["decoder.mask_token"]  # shared
    assert not any(moved[n] for n in moved if n.startswith("teacher"))


def test_reconstruction_does_not_train_the_ranker() -> None:
    moved = gradients(make(), "reconstruction")
    assert not any(moved[n] for n in moved if n.startswith(("ranker", "teacher")))
    assert moved["decoder.head.weight"] and moved["encoder.vit.blocks.0.attn.qkv.weight"]


def test_losses_are_those_of_what_was_hidden() -> None:
    system, batch = make(), images()
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    encoded = encode_visible(system.encoder, tokens, mask)
    cost = (
        (system.decoder(encoded, mask, tokens.position) - mask.invert().keep(tokens.values)).square().mean(-1)
    )
    losses = system(batch, STEP)
    torch.testing.assert_close(losses["reconstruction"], cost.mean())
    guess = system.ranker(encoded, mask, tokens.position)
    torch.testing.assert_close(losses["ranking"], Pairwise()(guess, cost.detach()[..., None]))
    assert losses["ranking"].item() == pytest.approx(math.log(2), abs=0.05)  # nothing learned yet


def test_the_teacher_is_an_average_by_the_papers_rule() -> None:
    system = make()
    assert [system.teacher.momentum(Step(i, 200)) for i in (0, 50, 100, 150)] == pytest.approx(
        [0.999, 0.99945, 0.9999, 0.9999]
    )
    start = [p.clone() for p in system.teacher.parameters()]
    tokens = system.tokenizer(images())
    score = system.difficulty(tokens, images(), STEP)
    mine = list(system.student().parameters())
    assert all(torch.equal(a, b) for a, b in zip(start, mine, strict=True))
    with torch.no_grad():
        for parameter in mine:
            parameter.add_(torch.randn_like(parameter))
    assert torch.equal(system.difficulty(tokens, images(), STEP), score)  # it is the teacher that scores
    system.after_step(Step(100, 200))
    for past, student, now in zip(start, mine, system.teacher.parameters(), strict=True):
        torch.testing.assert_close(now, 0.9999 * past + 0.0001 * student)


# ------------------------------------------------------------------------------- it learns, it mines


@pytest.fixture(scope="module")
def trained() -> tuple[Any, dict[str, Tensor], Tokens]:
    """A system after a short training on digits under random masks, and digits it has not seen."""
    digits = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
    digits = (digits - digits.mean()) / digits.std()
    sizes = {"tokenizer.patch_size": 2, "decoder_dim": 32, "decoder_depth": 1}
    system = make(8, 1, **sizes, masking="core/random", momentum=0.9, final_momentum=0.97)
    system.masking = TopScore(ratio=0.75, hard=0.0)
    optimizer = torch.optim.AdamW([p for p in system.parameters() if p.requires_grad], lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for i in range(150):
        index = torch.randint(1500, (64,), generator=generator)
        optimizer.zero_grad()
        sum(system({"image": digits[index], "id": index}, Step(i, 150)).values()).backward()
        optimizer.step()
        system.after_step(Step(i, 150))
    batch = {"image": digits[1500:], "id": torch.arange(297)}
    return system.eval(), batch, system.tokenizer(batch)


@torch.no_grad()
def costs(system: Any, tokens: Tokens, mask: Mask) -> tuple[Tensor, Tensor]:
    """Of the hidden patches: their error, and what the student's ranker says."""
    encoded = encode_visible(system.encoder, tokens, mask)
    truth = mask.invert().keep(tokens.values)
    error = (system.decoder(encoded, mask, tokens.position) - truth).square().mean(-1)
    return error, system.ranker(encoded, mask, tokens.position)[..., 0]


def accuracy(score: Tensor, cost: Tensor) -> float:
    """Share of pairs of an image that the score puts in the right order."""
    harder = cost[:, :, None] > cost[:, None, :]
    return float((score[:, :, None] > score[:, None, :])[harder].float().mean())


@pytest.mark.slow
def test_the_ranker_ranks_held_out_patches_it_has_not_seen(trained: Any) -> None:
    system, batch, tokens = trained
    mask = system.draw(tokens, batch, STEP)
    cost, guess = costs(system, tokens, mask)
    variance = mask.invert().keep(tokens.values.var(-1, keepdim=True))[..., 0]
    assert accuracy(guess, cost) > 0.75 > accuracy(variance, cost) > 0.6


@pytest.mark.slow
def test_the_teacher_ranks_better_than_chance_and_best_what_it_does_not_see(
    trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On held-out pictures, against what each patch costs on average over masks that hide it."""
    system, batch, tokens = trained
    total, times = torch.zeros(tokens.shape), torch.zeros(tokens.shape)
    for seed in range(12):
        mask = system.draw(tokens, batch, Step(0, 10, seed))
        cost = costs(system, tokens, mask)[0]
        total += mask.invert().restore(cost[..., None], torch.zeros(1))[..., 0]
        times += mask.hidden
    found = {}
    for scoring in ("whole", "complementary"):
        monkeypatch.setattr(system, "scoring", scoring)
        found[scoring] = accuracy(system.difficulty(tokens, batch, STEP), total / times)
    assert 0.6 < found["whole"] < found["complementary"] - 0.05, found


def test_mining_finds_what_the_student_fails_at(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks from the highest scores cost more than random ones, and those from the lowest less."""
    system, batch, tokens = trained
    monkeypatch.setattr(system, "scoring", "complementary")
    cost = {}
    for name, masking in {
        "hardest": TopScore(ratio=0.5),
        "random": TopScore(ratio=0.5, hard=0.0),
        "easiest": TopScore(ratio=0.5, largest=False),
    }.items():
        monkeypatch.setattr(system, "masking", masking)
        cost[name] = float(costs(system, tokens, system.draw(tokens, batch, STEP))[0].mean())
    assert cost["hardest"] > 1.3 * cost["random"]
    assert cost["easiest"] < 0.7 * cost["random"]


# ------------------------------------------------------------------------------- parts, pictures


class OneNumber:
    def __call__(self, prediction: Tensor, target: Tensor, mask: Mask | None = None) -> Tensor:
        return MSE()(prediction, target, mask)


def test_combinations_that_cannot_work_are_refused() -> None:
    with pytest.raises(UserError, match="OneNumber gives one number for all: use core/mse"):
        make(objective=OneNumber())
    with pytest.raises(UserError, match="encodes whole grids only"):
        make(encoder=Swin(in_dim=48, grid=(4, 4), dim=16, depths=(1, 1), heads=(1, 1), window=2))
    with pytest.raises(UserError, match=r"--scoring takes whole \| complementary \| none, got 'half'"):
        make(scoring="half")
    with pytest.raises(UserError, match="this system computes none"):
        make(scoring="none")(images(), STEP)
    with pytest.raises(UserError, match="in part"):
        make(masking=lambda request: Mask(torch.full((4, 16), 0.5)))(images(), STEP)


def test_prediction_only_masks_at_random_and_keeps_no_teacher() -> None:
    facts = {"size": (28, 28), "channels": 1}
    system: Any = build("vision/hpm", preset="prediction-only", facts=facts)
    mae: Any = build("vision/mae", preset="small", facts=facts)
    batch = images(size=28, channels=1)
    assert torch.equal(
        system.masks(batch, STEP)["mask"].mask.hidden, mae.masks(batch, STEP)["mask"].mask.hidden
    )
    assert system.teacher is None
    assert set(system(batch, STEP)) == {"reconstruction", "ranking"}
    assert "thought hard" not in " ".join(system.preview(batch, STEP).media)


class Words(nn.Module):
    """Sequences of unequal length, padded, without a grid."""

    key = "word"
    provides = {"in_dim": 5}

    def forward(self, batch: dict[str, Tensor]) -> Tokens:
        words = batch["word"]
        place = torch.arange(words.shape[1])
        valid = place < batch["length"][:, None]
        return Tokens(words, place.float()[None, :, None].expand(len(words), -1, -1), None, valid=valid)


class Self(nn.Module):
    dim = 5

    def forward(self, batch: dict[str, Tensor], tokens: Tokens) -> Tensor:
        return tokens.values


@pytest.mark.parametrize("scoring", ["whole", "complementary"])
def test_rows_of_unequal_length_are_scored_as_alone(scoring: str) -> None:
    torch.manual_seed(0)
    system: Any = build(
        "vision/hpm",
        tokenizer=Words(),
        encoder="vision/vit",
        target=Self(),
        scoring=scoring,
        **{"encoder.dim": 16, "encoder.depth": 1, "encoder.heads": 2, "encoder.positions": "none"},
        decoder_dim=8,
        decoder_heads=2,
        decoder_depth=1,
    ).eval()
    lengths = torch.tensor([12, 7, 9])
    words = torch.randn(3, 12, 5)
    batch = {"word": words, "length": lengths, "id": torch.arange(3)}
    tokens = system.tokenizer(batch)
    score = system.difficulty(tokens, batch, STEP)
    for i, n in enumerate(lengths.tolist()):
        alone = {"word": words[i : i + 1, :n], "length": lengths[i : i + 1], "id": torch.tensor([i])}
        torch.testing.assert_close(
            score[i : i + 1, :n],
            system.difficulty(system.tokenizer(alone), alone, STEP),
            rtol=1e-4,
            atol=1e-5,
        )
    assert all(loss.isfinite() for loss in system(batch, STEP).values())


def test_pictures_show_where_it_thinks_it_is_hard() -> None:
    system, batch = make(), images()
    columns = system.preview(batch, STEP).media
    assert [caption.split()[0] for caption in columns] == ["original", "visible", "hidden", "thought"]
    heat = system.tokenizer({"image": list(columns.values())[3]}).values
    assert torch.equal(heat.amin(-1), heat.amax(-1))  # one brightness per patch
    score = system.difficulty(system.tokenizer(batch), batch, STEP)
    assert torch.equal(heat[..., 0].argsort(1), score.argsort(1))


@pytest.mark.compile
def test_compiles_without_graph_breaks_while_masks_get_harder() -> None:
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter, system = CompileCounter(), make()
    compiled = torch.compile(system, backend=counter, fullgraph=True)
    for i in (0, 3, 6, 9):
        step = Step(i, 10, seed=1)
        for name, loss in compiled(images(), step).items():
            torch.testing.assert_close(loss, system(images(), step)[name])
    assert counter.frame_count <= 2
