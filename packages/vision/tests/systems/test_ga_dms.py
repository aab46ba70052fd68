"""GA-DMS hides words by what they have to do with the image: where they are matched, and where predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from polymask import Batch, Run, RunConfig, Step, UserError, build
from polymask.maskings import Bernoulli
from polymask.training import fit
from polymask_vision.datasets import persons
from polymask_vision.evaluations.planted_words import PlantedWords, below
from polymask_vision.evaluations.text_retrieval import TextRetrieval, chance, places
from polymask_vision.systems.ga_dms import NOISE

pytest.importorskip("polymask_language")

STEP = Step(3, 10, seed=1)
SPECIAL = (0, 1, 2, 3, 4)
TINY = {
    "tokenizer.patch_size": 4,
    "encoder.dim": 32,
    "encoder.depth": 1,
    "encoder.heads": 2,
    "text_tokenizer.vocabulary": 64,
    "text_tokenizer.length": 16,
    "text_encoder.dim": 32,
    "text_encoder.depth": 2,
    "text_encoder.heads": 2,
    "last_blocks": 2,
    "dim": 32,
    "heads": 2,
    "depth": 1,
    "samples": 600,
}


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    return build("vision/ga-dms", facts={"size": (8, 8), "channels": 3}, **(TINY | options))


def pairs(n: int = 6, words: int = 10) -> Batch:
    """Images and captions of several lengths, each between a start (2) and an end (3)."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(5, 64, (n, words + 2), generator=generator)
    lengths = torch.randint(words // 2, words + 3, (n,), generator=generator)
    lengths[0] = words + 2
    text[:, 0] = 2
    text[torch.arange(n), lengths - 1] = 3
    text[torch.arange(words + 2) >= lengths[:, None]] = 0
    image = torch.randn(n, 3, 8, 8, generator=generator)
    return {"image": image, "text": text, "text_length": lengths, "id": torch.arange(n) * 3}


def shaken(system: Any) -> Any:
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return system


def losses(system: Any, batch: Batch, step: Step = STEP) -> dict[str, Tensor]:
    found: dict[str, Tensor] = system(batch, step)
    return found


# ----------------------------------------------------------------------------------------- masks


def test_words_are_hidden_by_what_is_remembered_of_them_and_nothing_else_is() -> None:
    system, batch = make(), pairs(600)
    batch["id"] = torch.arange(600)
    tokens = system.words(batch)
    content = batch["text"] > 4
    for score, noise, informed in ((0.85, 0.0, 0.300), (0.1, 0.100, 0.150), (0.0, 0.176, 0.036)):
        system.memory.scores.fill_(score)
        for stream, expected in ((NOISE, noise), (0, informed)):
            hidden = system.draw(tokens, batch, STEP, stream).hidden
            assert not (hidden & ~content).any()
            # at least one of each caption, by the word that came nearest
            chances = content.sum(1).double()
            empty = (1 - expected) ** chances
            wanted = float((expected * chances + empty).sum() / chances.sum())
            rate = float(hidden.sum() / content.sum())
            assert abs(rate - wanted) < 4 * (max(wanted, 0.01) / float(chances.sum())) ** 0.5
    views = system.masks(batch, STEP)
    assert torch.equal(views["words to predict"].mask.hidden, system.draw(tokens, batch, STEP).hidden)
    assert torch.equal(views["words left out"].mask.hidden, system.draw(tokens, batch, STEP, NOISE).hidden)
    assert list(make(noise_masking=None).masks(batch, STEP)) == ["words to predict"]


def test_scores_choose_words_in_training_and_are_the_first_in_evaluation() -> None:
    system, batch = make(masking={"name": "core/top-score", "ratio": 0.3}), pairs()
    tokens = system.words(batch)
    system.memory.scores.copy_(torch.rand(601, 16, generator=torch.Generator().manual_seed(2)))
    own = system.memory.recall(batch, 12).masked_fill(batch["text"] < 5, -1)
    hidden = system.draw(tokens, batch, STEP).hidden
    for row in range(6):
        chosen = hidden[row]
        assert own[row][chosen].min() > own[row][~chosen].max()
    held_out = system.eval().draw(tokens, batch, STEP).hidden
    system.memory.scores.fill_(0.1)
    assert torch.equal(system.draw(tokens, batch, STEP).hidden, held_out)


# --------------------------------------------------------------------------------------- routing


def test_each_loss_sees_its_own_view_of_the_caption() -> None:
    system, batch = shaken(make()).eval(), pairs()
    first = losses(system, batch)
    for slot, moved, still in (("noise_masking", "match", "words"), ("masking", "words", "match")):
        before = getattr(system, slot)
        setattr(system, slot, Bernoulli(ratio=0.9))
        found = losses(system, batch)
        setattr(system, slot, before)
        assert torch.equal(found[still], first[still]) and not torch.equal(found[moved], first[moved])


def test_without_noise_masking_whole_captions_are_matched() -> None:
    system, batch = shaken(make(noise_masking=None)).eval(), pairs()
    image, text = system.embed_image(batch)[:, None], system.embed_text(batch)[:, None]
    torch.testing.assert_close(losses(system, batch)["match"], system.match_objective(image, text))


def test_the_caption_is_its_last_token_wherever_that_stands() -> None:
    system, batch = shaken(make()).eval(), pairs()
    together = system.embed_text(batch)
    for row in range(6):
        n = int(batch["text_length"][row])
        alone = system.embed_text({"image": batch["image"][[row]], "text": batch["text"][[row], :n]})
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)
        tokens = system.words({"text": batch["text"][[row], :n]})
        states = system.read(tokens.ids, tokens)
        torch.testing.assert_close(alone[0], states[0, -1])


def test_words_are_predicted_from_the_image_and_matching_trains_no_reader() -> None:
    system, batch = shaken(make()), pairs()
    found = losses(system, batch)
    found["match"].backward(retain_graph=True)
    assert all(p.grad is None for p in system.reader.parameters())
    assert system.image_map.weight.grad.any() and system.text_map.weight.grad.any()
    system.zero_grad()
    found["words"].backward()
    assert any(p.grad is not None and p.grad.any() for p in system.encoder.parameters())
    other = {**batch, "image": -batch["image"]}
    assert not torch.equal(losses(system, other)["words"], found["words"])


def test_words_that_are_not_hidden_and_padding_do_not_count() -> None:
    system, batch = shaken(make()).eval(), pairs()
    tokens = system.words(batch)
    mask = system.draw(tokens, batch, STEP)
    shown = system.corrupt(tokens, mask, batch, STEP, 1)
    assert torch.equal(shown[~mask.hidden], batch["text"][~mask.hidden])
    logits = system.reader.head(system.reader(system.read(shown, tokens), system.see(batch), tokens.real))
    expected = F.cross_entropy(logits[mask.hidden], batch["text"][mask.hidden])
    torch.testing.assert_close(losses(system, batch)["words"], system.words_weight * expected)
    changed = {**batch, "text": torch.where(tokens.real, batch["text"], 9)}
    torch.testing.assert_close(losses(system, changed), losses(system, batch))


def test_captions_that_say_the_same_match_each_other() -> None:
    system, batch = shaken(make()).eval(), pairs()
    alone = losses(system, batch)["match"]
    own = losses(system, {**batch, "identity": torch.arange(6) + 40})["match"]
    shared = losses(system, {**batch, "identity": torch.tensor([1, 1, 2, 3, 4, 5])})["match"]
    torch.testing.assert_close(alone, own)
    assert shared != own


# ---------------------------------------------------------------------------------------- scores


def test_scores_are_noted_in_training_alone_and_leave_no_gradient() -> None:
    system, batch = shaken(make()), pairs()
    losses(system, batch)
    assert all(p.grad is None for p in system.parameters())
    assert (system.memory.scores == 0.85).all()
    system.after_step(STEP)
    scores = system.word_scores(batch)
    assert not scores.requires_grad and (scores[batch["text"] < 5] == 0).all()
    torch.testing.assert_close(system.memory.recall(batch, 12), scores)
    assert (system.memory.scores[1] == 0.85).all()
    for prepare in (torch.no_grad(), torch.enable_grad()):
        again = shaken(make())
        again.train(isinstance(prepare, torch.no_grad))
        with prepare:
            losses(again, batch)
        again.after_step(STEP)
        assert (again.memory.scores == 0.85).all()


def test_scores_do_not_depend_on_other_samples_or_on_padding() -> None:
    system, batch = shaken(make()), pairs()
    together = system.word_scores(batch)
    for row in range(6):
        n = int(batch["text_length"][row])
        one = {"image": batch["image"][[row]], "text": batch["text"][[row], :n]}
        torch.testing.assert_close(system.word_scores(one)[0], together[row, :n], rtol=1e-3, atol=1e-4)


def test_scores_work_where_encoders_are_frozen() -> None:
    system, batch = shaken(make()), pairs()
    expected = system.word_scores(batch)
    system.requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(system.word_scores(batch), expected)


def test_a_word_that_speaks_for_the_image_is_scored_above_others() -> None:
    """Of six words one names the image: its score is the highest far oftener than in one caption of six."""
    system = make(
        noise_masking=None,
        words_weight=0.0,
        **{"text_encoder.depth": 1, "last_blocks": 1, "match_objective.temperature": 0.1},
    )
    optimizer = torch.optim.AdamW(system.parameters(), lr=3e-3)
    for index in range(40):
        batch, _ = told(32, index)
        loss = losses(system, batch, Step(index, 40))["match"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batch, place = told(200, 1000)
    system.eval()
    found = {e: system.word_scores(batch, evidence=e).argmax(1) == place for e in ("gradient", "attention")}
    assert float(found["gradient"].double().mean()) > 0.4
    assert float(found["attention"].double().mean()) > 0.9


def told(n: int, seed: int) -> tuple[Batch, Tensor]:
    """Images of one of 12 patterns; captions of six words, one of which, anywhere, names it."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(99))
    kind = torch.randint(12, (n,), generator=generator)
    text = torch.randint(30, 60, (n, 8), generator=generator)
    text[:, 0], text[:, -1] = 2, 3
    place = torch.randint(1, 7, (n,), generator=generator)
    text[torch.arange(n), place] = 5 + kind
    return {"image": patterns[kind], "text": text, "identity": kind}, place


# -------------------------------------------------------------------------------------- refusals


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(UserError, match="--match_objective core/sdm"):
        make(match_objective="core/mse")
    with pytest.raises(UserError, match="--text_encoder language/causal"):
        make(text_encoder="vision/vit")
    with pytest.raises(UserError, match="takes gradient . gradient-released"):
        make(evidence="none")
    with pytest.raises(UserError, match="must divide into"):
        make(heads=5)
    with pytest.raises(UserError, match="--data.text_vocab bpe"):
        losses(make(), {"image": torch.zeros(2, 3, 8, 8)})
    with pytest.raises(UserError, match="not from a llama"):
        losses(
            make(text_encoder={"name": "language/causal", "architecture": "llama", "dropout": 0.0}), pairs()
        )


def test_features_are_those_of_the_image_encoder() -> None:
    system, batch = make(), pairs()
    alone = {"image": batch["image"]}
    assert system.encode(alone).values.shape == (6, 4, 32)
    kept = system.encode(alone).values
    del system.text_encoder, system.reader, system.text_map
    assert torch.equal(system.encode(alone).values, kept)


def test_the_preview_shows_words_and_their_scores() -> None:
    system, batch = make(), pairs()
    media = system.preview(batch, STEP).media
    assert list(media) == ["scores of words", "words predicted from the image"]
    assert all(len(column) == 6 for column in media.values())


# ------------------------------------------------------------------------------------ evaluations


def test_places_and_chance_are_those_of_their_definition() -> None:
    scores = torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.2, 0.2, 0.2]])
    right = torch.tensor([[True, False, False], [False, False, True], [False, True, False]])
    assert places(scores, right).tolist() == [0, 2, 2]
    right[1, 0] = True
    assert places(scores, right).tolist() == [0, 0, 2]
    assert places(torch.full((3, 3), torch.nan), right).tolist() == [2, 1, 2]
    assert chance(torch.eye(50, dtype=torch.bool), 5) == pytest.approx(0.1)
    assert chance(torch.eye(3, dtype=torch.bool), 10) == 1
    two = torch.tensor([[True, True, False, False]])
    drawn = torch.rand(20000, 4, generator=torch.Generator().manual_seed(0)).argsort(1)[:, :2]
    assert chance(two, 2) == pytest.approx(float((drawn < 2).any(1).double().mean()), abs=0.02)


def test_the_share_below_is_the_area_under_the_curve() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    false, true = (torch.randint(0, 6, (n,), generator=generator) / 5 for n in (30, 70))
    expected = metrics.roc_auc_score([1] * 30 + [0] * 70, (1 - torch.cat([false, true])).tolist())
    assert below(false, true) == pytest.approx(expected)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(persons, "_drawings", noise)
        data = {"name": "vision/persons", "count": 120, "pixels": 8, "false": 0.5}
        config = {"system": "vision/ga-dms", "preset": "tiny", "data": data, "steps": 4, "batch_size": 8}
        run = Run.create(RunConfig.resolve(config), tmp_path_factory.mktemp("ga-dms") / "run")
        fit(run, progress=False)
    return run


def noise(people: Any, pixels: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (len(people), 3, pixels, pixels), generator=generator, dtype=torch.uint8)


def test_a_run_has_the_vocabulary_of_its_captions_and_remembers_them(run: Run) -> None:
    system: Any = run.system
    facts = run.facts["text"]
    assert system.text_tokenizer.vocabulary == facts["vocabulary"] and facts["length"] == 32
    met = (system.memory.scores != system.prior).any(1)
    assert int(met.sum()) == 32  # four steps of eight


def test_retrieval_of_untrained_systems_is_about_chance(run: Run) -> None:
    found = {(one.row, one.metric): one for one in TextRetrieval()(run)}
    assert len(found) == 18
    for way in ("image to text", "text to image"):
        lucky = found["chance", f"{way} R@5"].value
        assert lucky == pytest.approx(5 / 24, abs=0.02)
        one = found["untrained", f"{way} R@5"]
        assert one.low is not None and one.high is not None and one.low <= one.value <= one.high
        shares = [found["pre-trained", f"{way} R@{k}"].value for k in (1, 5, 10)]
        assert shares == sorted(shares) and shares[0] < shares[2]


def test_planted_words_are_looked_for_among_those_of_training(run: Run) -> None:
    found = {(one.row, one.metric): one for one in PlantedWords()(run)}
    assert len(found) == 12
    assert all(0 <= one.value <= 1 for one in found.values())
    for evidence in ("gradient", "cosine", "attention"):
        for row in ("pre-trained", "untrained"):
            one = found[row, f"AUC within captions, {evidence}"]
            assert one.low is not None and one.low <= one.value
            assert (row, f"AUC over all words, {evidence}") in found


def test_evaluations_of_pairs_refuse_others(run: Run, tmp_path: Path) -> None:
    data = {"name": "vision/digits", "limit": 16}
    mae = Run.create(
        RunConfig.resolve({"system": "vision/mae", "preset": "tiny", "data": data}), tmp_path / "run"
    )
    for evaluation in (TextRetrieval(), PlantedWords()):
        with pytest.raises(UserError, match="this is for vision/ga-dms"):
            list(evaluation(mae))
