"""Words, samples and objectives come as time goes on, and nothing else changes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chi2, chisquare
from torch import Tensor

from polymask import Mask, Step, UserError, build
from polymask.config import TrainOptions
from polymask.schedules import Schedule
from polymask.training.optimiser import parameter_groups
from polymask.training.order import Batches
from polymask.training.plan import make_plan
from polymask_language.curricula import EasyFirst, Vocabulary, difficulty_of, every_word
from polymask_language.datasets.base import TextDataset
from polymask_language.datasets.folder import folder
from polymask_language.datasets.lines import lines
from polymask_language.maskings import Rates
from polymask_language.presets import CLIMB as CLIMB_PRESETS
from polymask_language.systems.climb import CLASSES

V, SPECIAL, UNKNOWN = 96, (0, 1, 2, 3, 4), 1
FACTS = {"vocabulary": V, "length": 24}
STEP = Step(300, 1000, seed=1)
HOSTS = ("mlm", "meap", "prop")


def make(host: str = "language/mlm", **options: Any) -> Any:
    torch.manual_seed(0)
    name = {"host": {"name": host, **tiny(host)}}
    return build("language/climb", preset="tiny", facts=FACTS, **{**name, **options}).eval()


def tiny(host: str) -> dict[str, Any]:
    encoder = {"dim": 32, "depth": 2, "heads": 2, "dropout": 0.0}
    return {"encoder": encoder, **({"dropout": 0.0} if host == "language/prop" else {})}


def batch_of(system: Any, n: int = 8) -> dict[str, Tensor]:
    return {**system.example(n), "id": torch.arange(n)}


def at(share: float, by: Any = "ids", **options: Any) -> Vocabulary:
    """A vocabulary that stays at one share."""
    settings = {"vocabulary": V, "special_ids": SPECIAL, "unknown_id": UNKNOWN, **options}
    return Vocabulary(by=by, schedule=Schedule(share, share), **settings)


def test_word_classes_need_whole_masks() -> None:
    system = make(class_masking="language/constant-weight")
    with pytest.raises(UserError, match="hides them in part"):
        system.classify(batch_of(system), STEP)


def test_evaluations_ask_the_host() -> None:
    system = make("language/meap")
    batch = batch_of(system, 3)
    assert system.perplexity == system.host.perplexity and not hasattr(system, "relevance")
    with torch.no_grad():
        assert torch.equal(system.following(batch), system.host.following(batch))
    assert not hasattr(make(), "following")


# ------------------------------------------------------------------------------ words


def test_what_is_known_of_a_vocabulary_is_the_mass_of_its_allowed_ids() -> None:
    counts = torch.arange(1, V + 1).flip(0)
    ids = torch.arange(V).repeat_interleave(counts)[None]
    for share in (0.1, 0.3, 0.77):
        known = at(share)(ids, {}, STEP)
        content = ids > 4
        allowed = counts[5 : math.floor(share * V) + 1].sum() / counts[5:].sum()
        assert float((known[content] != UNKNOWN).float().mean()) == pytest.approx(float(allowed), rel=1e-6)
        assert torch.equal(known[known != UNKNOWN], ids[known != UNKNOWN])
        assert torch.equal(known[~content], ids[~content])


def test_parts_of_speech_alone_and_before_ids() -> None:
    tags = torch.arange(12).repeat_interleave(V)[None]
    ids = torch.arange(V).repeat(12)[None]
    batch, content = {"part_of_speech": tags}, ids > 4
    assert torch.equal(at(0.1, "part-of-speech").hard(ids, batch, STEP), content & (tags > 1))
    assert torch.equal(at(0.5, "part-of-speech").hard(ids, batch, STEP), content & (tags > 5))
    both = at(0.1, "both").hard(ids, batch, STEP)
    limit = 0.1 * 11 * V  # of tag 1 the ids up to V / 10 are known
    assert torch.equal(both, content & ((tags > 1) | ((tags == 1) & (ids > limit - V))))
    with pytest.raises(UserError, match="--data.tags true"):
        at(0.1, "both").hard(ids, {}, STEP)


@pytest.mark.parametrize("by", ["ids", "part-of-speech", "both"])
def test_in_the_end_every_word_is_known_bit_for_bit(by: Any) -> None:
    ids = torch.arange(V).repeat(12)[None]
    batch = {"part_of_speech": torch.arange(12).repeat_interleave(V)[None]}
    assert torch.equal(at(1.0, by)(ids, batch, STEP), ids)


def test_special_tokens_are_known_wherever_their_ids_lie() -> None:
    late = at(0.1, special_ids=(0, 1, V - 1), unknown_id=1)
    ids = torch.tensor([[0, 1, V - 1, V - 2]])
    assert late(ids, {}, STEP).tolist() == [[0, 1, V - 1, 1]]
    with pytest.raises(UserError, match="this vocabulary has none"):
        at(0.1, unknown_id=None)


@pytest.mark.parametrize("host", HOSTS)
def test_any_language_system_sees_and_says_known_words_alone(host: str) -> None:
    system = make(f"language/{host}", words="ids", least=0.5, window=(0.9, 1.0))
    inner, batch = system.host, batch_of(system)
    seen: list[Tensor] = []
    embed, objective = inner.encoder.embed, inner.objective
    said: list[Tensor] = []
    inner.encoder.embed = lambda values: seen.append(values) or embed(values)
    inner.objective = lambda x, y, mask: said.append(y[mask.hidden]) or objective(x, y, mask)
    inner(batch, STEP)
    for found in (torch.cat([x.flatten() for x in seen]), torch.cat(said)):
        assert found.max() <= 0.5 * V and (found == UNKNOWN).any() and (found > 0.3 * V).any()
    restricted = torch.cat(said)
    said.clear(), seen.clear()
    inner.known = every_word
    inner(batch, STEP)
    free = torch.cat(said)
    # what is masked and hard is asked for all the same, as the unknown word
    assert torch.equal(restricted, torch.where(free > 0.5 * V, UNKNOWN, free))
    assert max(int(x.max()) for x in seen) > 0.5 * V
    if host == "mlm":  # a mask token stays one
        shown = inner.corrupt(system.tokenizer(batch), inner.masks(batch, STEP)["mask"].mask, batch, STEP)
        assert (shown == 4).any()


def test_random_words_that_are_not_known_are_unknown_too() -> None:
    system = make(words="ids", least=0.2, window=(0.9, 1.0), **{"host.shares": (0.0, 1.0, 0.0)})
    batch = batch_of(system)
    tokens = system.tokenizer(batch)
    mask = system.host.draw(tokens, batch, STEP)
    shown = system.host.corrupt(tokens, mask, batch, STEP)[mask.hidden]
    assert shown.max() <= 0.2 * V and (shown == UNKNOWN).any() and (shown > 4).any()


def test_classes_are_never_taken_for_words() -> None:
    """All twelve of them: those above the special ids would be unknown words."""
    targets = {"class_target": {"name": "language/word-class", "tags": None}}
    system = make(words="ids", least=0.01, window=(0.9, 1.0), **targets)
    batch, said = batch_of(system), []
    objective = system.class_objective
    system.class_objective = lambda x, y, mask: said.append(y[mask.hidden]) or objective(x, y, mask)
    system.classify(batch, STEP)
    mask = system.masks(batch, STEP)["word classes"].mask
    assert torch.equal(said[0], batch["part_of_speech"][mask.hidden]) and said[0].max() > 4


def test_held_out_words_are_all_known() -> None:
    system = make(words="ids", least=0.1, window=(0.9, 1.0))
    batch = batch_of(system, 3)
    with torch.no_grad():
        nats = system.surprise(batch)
        system.host.known = every_word
        assert torch.equal(nats.isnan(), system.surprise(batch).isnan())
        assert torch.equal(nats.nan_to_num(), system.surprise(batch).nan_to_num())
    assert system.perplexity == "pseudo-perplexity"


# ------------------------------------------------------------------------------ samples


def drawn(curriculum: EasyFirst, samples: int, steps: int, batch_size: int = 20) -> Tensor:
    """int64 ``[steps, batch_size]``, what the trainer draws."""
    plan = make_plan(TrainOptions(steps=steps, batch_size=batch_size, seed=3), samples)
    batches = Batches(plan, weights=curriculum)
    return torch.tensor([[sample for _, sample in batches.keys(step, 0)] for step in range(steps)])


def test_samples_are_drawn_alike_up_to_the_percentile() -> None:
    difficulty = torch.randn(400, generator=torch.Generator().manual_seed(0))
    share = 0.3
    easy = EasyFirst(difficulty, Schedule(share, share))
    cutoff = float(np.percentile(difficulty.double().numpy(), 100 * share))
    assert easy.cutoff(STEP) == pytest.approx(cutoff)
    found = drawn(easy, 400, 1500)
    assert float(difficulty[found].max()) <= cutoff
    assert all(len(set(row)) == 20 for row in found.tolist())
    eligible = torch.nonzero(difficulty <= cutoff)[:, 0]
    counts = torch.bincount(found.flatten(), minlength=400)[eligible]
    assert counts.sum() == 1500 * 20 and len(counts) == 120
    # drawn without replacement, 20 of 120 at a time, counts spread less than those of chance
    statistic = chisquare(counts.numpy()).statistic / (1 - 20 / 120)
    assert 0.005 < chi2.sf(statistic, 119) < 0.995


def test_once_all_are_drawn_plain_epochs_go_on() -> None:
    difficulty = torch.arange(200.0)
    schedule = Schedule(0.5, 1.0, "step", (0.0, 0.5))
    found, plain = drawn(EasyFirst(difficulty, schedule), 200, 40), drawn(lambda step: None, 200, 40)  # type: ignore[arg-type]
    assert found[:20].max() < 100
    assert torch.equal(found[20:], plain[20:]) and not torch.equal(found[:20], plain[:20])


def test_sources_come_a_level_at_a_time() -> None:
    easy = EasyFirst(torch.tensor([1.0] * 50 + [2.0] * 30 + [3.0] * 20), Schedule(0.0, 1.0))
    open_at = [int(easy(Step(k, 100)).sum()) for k in range(100)]  # type: ignore[union-attr]
    assert sorted(set(open_at)) == [50, 80, 100]
    assert open_at.index(80) == 51  # interpolation between levels admits nothing: 2 is above 1.5


def test_what_a_data_set_tells_of_its_samples(tmp_path: Path) -> None:
    rare, common = "the zebra quacks oddly", "the cat and the dog and the cat and the dog"
    (tmp_path / "text.txt").write_text("\n".join([common] * 40 + [rare] + ["the dog"] * 40))
    data = TextDataset(lines(source=str(tmp_path / "text.txt")), vocab_size=300, test=0.0)
    file = data.provides["difficulty_file"]
    samples = data.split("train")
    ids = [sample["text"][1:-1] for sample in samples]  # type: ignore[attr-defined]
    every = torch.cat(ids)
    share = torch.bincount(every, minlength=300) / len(every)
    expected = torch.stack([(-share[row].log().mean()).exp() for row in ids])
    unigram = difficulty_of(file, "unigram")
    torch.testing.assert_close(unigram.float(), expected, rtol=1e-4, atol=0)
    assert int(unigram.argmax()) == 40
    assert difficulty_of(file, "length").tolist() == [len(row) + 2 for row in ids]
    with pytest.raises(UserError, match="does not tell where"):
        difficulty_of(file, "source")
    with pytest.raises(UserError, match="--order null"):
        difficulty_of(None, "unigram")
    system = make(order="unigram", difficulty_file=file, least=0.5, window=(0.5, 1.0))
    weights = system.sample_weights(STEP)
    assert torch.equal(weights > 0, unigram <= unigram.median()) and system.sample_weights(Step(9, 9)) is None


def test_sources_are_classes_of_the_data_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", label=np.array([2, 0, 1]), classes=np.array(["books", "film", "talk"]))
    file = str(tmp_path / "d.npz")
    assert difficulty_of(file, "source", ["talk film", "books"]).tolist() == [1, 2, 1]
    with pytest.raises(UserError, match="how hard talk are"):
        difficulty_of(file, "source", ["film", "books"])


def test_an_order_by_source_refuses_samples_without_one(tmp_path: Path) -> None:
    for name in ("books", "talk", "unlabeled"):
        (tmp_path / name).mkdir()
        for i in range(3):
            (tmp_path / name / f"{i}.txt").write_text(f"what {name} says, {i} times over")
    file = TextDataset(folder(source=str(tmp_path)), vocab_size=300, test=0.0).provides["difficulty_file"]
    with pytest.raises(UserError, match="3 of 9 training samples have no source, .* `unlabeled`"):
        difficulty_of(file, "source", ["talk", "books"])
    assert len(difficulty_of(file, "length")) == 9


# ------------------------------------------------------------------------------ objectives


def test_words_of_a_class_are_hidden_at_a_rate_of_their_own() -> None:
    system = make()
    batch = {**system.tokenizer.example(3000), "id": torch.arange(3000)}
    batch["text"][:, 0], batch["text"][:, 7] = 2, 3
    tokens = system.tokenizer(batch)
    mask = system.draw_classes(tokens, batch, STEP)
    content = tokens.valid & (tokens.ids > 4)
    assert torch.equal(mask.valid, content) and not mask.hidden[~content].any()
    listed = batch["part_of_speech"] < 2
    for chosen, rate in ((listed, 0.4), (~listed, 0.15)):
        found = mask.hidden[content & chosen].double()
        assert abs(float(found.mean()) - rate) < 4 * math.sqrt(rate * (1 - rate) / len(found))
    classes = system.class_target(batch, tokens)
    assert set(classes[~listed].tolist()) == {0}
    assert torch.equal(classes[listed], 1 + batch["part_of_speech"][listed])
    shown = system.host.corrupt(tokens, mask, batch, STEP)[mask.hidden]
    kept = float((shown == tokens.ids[mask.hidden]).float().mean())
    assert abs(float((shown == 4).float().mean()) - 0.8) < 0.01 and abs(kept - 0.1) < 0.01
    words = system.host.draw(tokens, batch, STEP)
    assert abs(float(words.hidden.sum() / content.sum()) - 0.15) < 0.01
    both = (words.hidden & mask.hidden)[content].float().mean()
    apart = (words.hidden[content].float().mean() * mask.hidden[content].float().mean()).item()
    assert float(both) == pytest.approx(apart, rel=0.1)  # copies of their own


def test_every_row_has_something_hidden_and_something_left() -> None:
    from polymask import Request

    valid = torch.ones(4000, 3, dtype=torch.bool)
    valid[:1000, 1:] = False
    asked = Request(torch.arange(4000), 3, STEP, valid=valid, score=torch.rand(4000, 3).round())
    counts = Rates(high=0.9, low=0.01)(asked).hidden.sum(1)
    assert set(counts[:1000].tolist()) == {0} and set(counts[1000:].tolist()) == {1, 2}
    with pytest.raises(UserError, match="0 < low <= high"):
        Rates(high=0.1, low=0.2)


def test_shares_are_ninety_and_ten_of_words_and_the_usual_of_classes() -> None:
    presets = CLIMB_PRESETS
    assert presets["paper"]["host.shares"] == presets["small"]["host.shares"] == (0.9, 0.1, 0.0)
    assert not {k for k in presets["paper"] if k.startswith("class") and "shares" in k}


def windowed(**windows: Any) -> Any:
    return make(words=None, **windows)


def test_a_head_outside_its_window_does_not_move() -> None:
    system = windowed(host_window=(0.125, 1.0), class_window=(0.0, 0.5))
    batch = batch_of(system)
    optimiser = torch.optim.AdamW(system.parameters(), lr=1e-2, weight_decay=0.1)
    kept = {name: p.detach().clone() for name, p in system.named_parameters()}

    def moved(index: int) -> set[str]:
        optimiser.zero_grad()
        sum(system(batch, Step(index, 1000)).values()).backward()
        optimiser.step()
        names = {name for name, p in system.named_parameters() if not torch.equal(p, kept[name])}
        kept.update({name: p.detach().clone() for name, p in system.named_parameters()})
        return {name.rpartition("head")[0] + "head" if "head." in name else "rest" for name in names}

    assert moved(124) == {"class_head", "rest"}
    assert moved(125) == moved(500) == {"class_head", "host.head", "rest"}  # both ends are included
    assert moved(501) == {"host.head", "rest"}


def test_the_loss_is_the_sum_of_its_units_and_each_reaches_the_encoder() -> None:
    system, batch = windowed(), batch_of(windowed())
    terms = system(batch, STEP)
    assert list(terms) == ["words", "word classes"]
    torch.testing.assert_close(terms["words"], system.host(batch, STEP)["words"])
    for term in terms.values():
        (gradient,) = torch.autograd.grad(term, [system.encoder.weight], retain_graph=True)
        assert gradient.abs().sum() > 0


def test_the_loss_of_classes_is_that_of_hidden_tokens_with_nothing_else_seen() -> None:
    system = windowed()
    batch = batch_of(system)
    tokens, mask = system.tokenizer(batch), system.masks(batch, STEP)["word classes"].mask
    states = system.class_states(tokens, mask, batch, STEP).values
    logits, classes = system.class_head(states), system.class_target(batch, tokens)
    expected = F.cross_entropy(logits[mask.hidden], classes[mask.hidden])
    torch.testing.assert_close(system(batch, STEP)["word classes"], expected)
    from polymask.nn.corruption import STREAM, corrupt

    stream = {"stream": STREAM - CLASSES, "mask_id": 4, "vocabulary": V, "special_ids": SPECIAL}
    shown = corrupt(tokens.ids, mask, STEP, batch["id"], **stream)
    x = system.encoder(system.encoder.embed(shown[..., None]), tokens.position, tokens.valid)
    torch.testing.assert_close(states, x)


def test_without_curricula_it_is_its_host_bit_for_bit() -> None:
    system = make(words=None, class_window=None)
    batch = batch_of(system)
    (loss,) = system(batch, STEP).values()
    alone: Any = build("language/mlm", preset="tiny", facts=FACTS, encoder={"dropout": 0.0}).eval()
    alone.load_state_dict(system.host.state_dict())
    assert torch.equal(loss, alone(batch, STEP)["words"])
    assert system.sample_weights(STEP) is None and list(system.masks(batch, STEP)) == ["mask"]
    assert system.schedule(STEP) == {"host loss": 1.0}


def test_windows_without_a_loss_are_refused() -> None:
    for host, classes in (((0.5, 1.0), (0.0, 0.4)), ((0.0, 0.5), None), ((0.2, 1.0), (0.1, 0.5))):
        with pytest.raises(UserError, match="nothing is trained"):
            windowed(host_window=host, class_window=classes)
    with pytest.raises(UserError, match="0 <= from < to <= 1"):
        windowed(host_window=(0.0, 1.2))


def test_heads_warm_up_over_the_first_tenth_of_their_window() -> None:
    system = windowed(host_window=(0.2, 1.0), class_window=(0.0, 0.5))
    groups = system.parameter_groups()
    grouped = {id(p): group for group in groups for p in group["params"]}
    names = {name: grouped.get(id(p)) for name, p in system.named_parameters()}
    assert all((group is None) == ("encoder" in name) for name, group in names.items())
    scale = {name: group["lr_scale"] for name, group in names.items() if group is not None}
    assert scale["class_head.last.weight"](Step(24, 1000)) == pytest.approx(0.5)
    assert scale["class_head.last.weight"](Step(49, 1000)) == 1.0
    assert scale["host.head.bias"](Step(239, 1000)) == pytest.approx(0.5)
    assert scale["host.head.bias"](Step(400, 1000)) == 1.0
    decay = {id(p): group["weight_decay"] for group in parameter_groups(system, 0.1) for p in group["params"]}
    last = system.class_head.last
    assert (decay[id(last.weight)], decay[id(last.bias)]) == (0.1, 0)


def test_an_untied_head_has_weights_of_its_own() -> None:
    states = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    for tied in (True, False):
        system = make(**{"host.tied": tied})
        before = system.host.head(states, system.encoder)
        with torch.no_grad():
            system.encoder.weight.mul_(2.0)
        assert before.shape == (2, 3, V)
        assert torch.equal(system.host.head(states, system.encoder), before) is not tied


# ------------------------------------------------------------------------------ what there is to see


def test_what_it_shows() -> None:
    system = make(words="ids", least=0.1, window=(0.25, 0.5), words_curve="linear")
    batch = batch_of(system)
    words, classes = system.preview(batch, STEP).media.values()
    masks = system.masks(batch, STEP)
    assert [sum(row.hidden) for row in classes] == masks["word classes"].mask.hidden.sum(1).tolist()
    assert any("(NOUN)" in row._repr_html_() for row in classes) and len(words) == 8
    hard = masks["unknown words"].mask.hidden
    assert torch.equal(
        hard, system.tokenizer(batch).valid & (batch["text"] > system.words.schedule(STEP) * V)
    )
    assert system.schedule(Step(375, 1000)) == {
        "host loss": 1.0,
        "classes loss": 1.0,
        "vocabulary known": pytest.approx(0.55),
    }
    assert isinstance(masks["unknown words"].mask, Mask)


def test_a_host_that_does_not_ask_for_words_is_refused() -> None:
    with pytest.raises(UserError, match="--words null"):
        make("language/mae", words="ids")


def test_the_copy_for_classes_sees_no_unknown_words(monkeypatch: pytest.MonkeyPatch) -> None:
    system = make()
    batch, start, shown = batch_of(system), Step(0, 10, seed=1), []
    embed = system.encoder.embed
    monkeypatch.setattr(system.encoder, "embed", lambda values: (shown.append(values), embed(values))[1])
    tokens = system.tokenizer(batch)
    system.class_states(tokens, system.draw_classes(tokens, batch, start), batch, start)
    ids = shown[0][..., 0]
    assert torch.equal(system.words(ids, batch, start), ids)
    assert (ids != tokens.ids)[tokens.valid].float().mean() > 0.5
