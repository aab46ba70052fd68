from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from polymask import Batch, Mask, Step, Tokens, UserError, build
from polymask.codebooks import Codebook, Units
from polymask.data import open_data
from polymask.export import export
from polymask.imports import load_initial
from polymask.recipes import run_recipe
from polymask.run import Run
from polymask_vision.codes import fit_codes
from polymask_vision.decoding import Decoding, drawn, left_after
from polymask_vision.systems import maskgit
from polymask_vision.systems.maskgit import MaskGIT

STEP = Step(index=3, total=10, seed=1)
PAPER = Decoding(1.0, 4.5, False, "cosine", "up")


def make(**options: Any) -> MaskGIT:
    torch.manual_seed(0)
    system: MaskGIT = build(
        "vision/maskgit", preset="tiny", facts={"size": (16, 16), "channels": 3}, **options
    )
    return system


def images(n: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return {"image": torch.randn(n, 3, 16, 16, generator=generator), "id": torch.arange(n) * 7 + 2}


def with_codes(tokens: Tokens, ids: Tensor) -> Tokens:
    return dataclasses.replace(tokens, values=ids[..., None], ids=ids)


class Oracle(MaskGIT):
    """Knows the joint distribution: with a chance of 1 each, or of 1 / K, all tokens of a sample are alike.

    Args:
        alike: whether they are; else each is drawn by ``odds`` on its own.
        odds: of the codes.
    """

    def __init__(self, odds: Tensor, alike: bool) -> None:
        torch.nn.Module.__init__(self)
        self.tokenizer, self.odds, self.alike = make().tokenizer, odds, alike

    def predict(self, tokens: Tokens, mask: Mask, batch: Batch) -> Tensor:
        free = self.odds.log().expand(*tokens.shape, -1)
        if not self.alike:
            return free
        assert tokens.ids is not None
        seen = F.one_hot(tokens.ids, len(self.odds)) & ~mask.hidden[..., None]
        counts = seen.sum(1, keepdim=True)
        known = counts.float().log().expand_as(free)
        return torch.where(counts.sum(-1, keepdim=True) > 0, known, free)


def oracle(alike: bool = False, odds: tuple[float, ...] = (0.125,) * 8) -> Oracle:
    return Oracle(torch.tensor(odds), alike)


# ----------------------------------------------------------------------------------- reference


def test_paper_network_is_berts(twins: Any) -> None:
    """Logits, loss and gradients are those of transformers' BertForMaskedLM on the same weights."""
    transformers = pytest.importorskip("transformers")
    system = make(**{"encoder.norm_first": False, "objective.label_smoothing": 0.0}).eval()
    config = transformers.BertConfig(
        vocab_size=9,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=16,
        type_vocab_size=1,
        layer_norm_eps=1e-6,
        pad_token_id=None,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    theirs = transformers.BertForMaskedLM(config).eval()
    types = theirs.bert.embeddings.token_type_embeddings.weight
    types.requires_grad_(False).zero_()
    # the table's ninth row is the mask token; its logit is left out
    pairs = twins(system, theirs)
    words = "bert.embeddings.word_embeddings.weight"
    pairs.pair("encoder.vit.patch_embed.proj.weight", words, their_view=lambda x: x[:8])
    pairs.pair("mask_token", words, their_view=lambda x: x[8])
    pairs.pair("encoder.vit.pos_embed", "bert.embeddings.position_embeddings.weight")
    pairs.both("encoder.vit.norm_pre", "bert.embeddings.LayerNorm")
    for i in range(2):
        ours, layer = f"encoder.vit.blocks.{i}", f"bert.encoder.layer.{i}"
        for part, name in enumerate(("query", "key", "value")):
            cut = lambda x, part=part: x.chunk(3)[part]  # noqa: E731
            pairs.both(f"{ours}.attn.qkv", f"{layer}.attention.self.{name}", cut)
        pairs.both(f"{ours}.attn.proj", f"{layer}.attention.output.dense")
        pairs.both(f"{ours}.norm1", f"{layer}.attention.output.LayerNorm")
        pairs.both(f"{ours}.mlp.fc1", f"{layer}.intermediate.dense")
        pairs.both(f"{ours}.mlp.fc2", f"{layer}.output.dense")
        pairs.both(f"{ours}.norm2", f"{layer}.output.LayerNorm")
    pairs.both("head.0", "cls.predictions.transform.dense")
    pairs.both("head.2", "cls.predictions.transform.LayerNorm")
    pairs.pair("bias", "cls.predictions.bias", their_view=lambda x: x[:8])
    pairs.copy()
    batch = images()
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    logits = theirs(torch.where(mask.hidden, 8, tokens.ids)).logits[..., :8]
    torch.testing.assert_close(system.predict(tokens, mask, batch), logits, rtol=1e-5, atol=1e-5)
    loss = system(batch, STEP)["codes"]
    expected = F.cross_entropy(logits[mask.hidden], tokens.ids[mask.hidden])
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    pairs.check_gradients()


# ----------------------------------------------------------------------------------- training


def test_hidden_codes_reach_no_prediction_and_visible_ones_all() -> None:
    system, batch = make().eval(), images()
    tokens = system.tokenizer(batch)
    hidden = torch.arange(16) % 3 > 0
    mask = Mask(hidden.expand(4, -1))
    before = system.predict(tokens, mask, batch)
    assert tokens.ids is not None
    other = (tokens.ids + 3) % 8
    changed = with_codes(tokens, torch.where(mask.hidden, other, tokens.ids))
    assert torch.equal(system.predict(changed, mask, batch), before)
    seen = with_codes(tokens, torch.where(mask.hidden, tokens.ids, other))
    assert ((system.predict(seen, mask, batch) - before).abs().amax(-1) > 1e-4).all()


def test_the_loss_is_the_smoothed_cross_entropy_of_hidden_codes_alone() -> None:
    system, batch = make(), images(16)
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    assert mask.hidden.sum(1).unique().numel() > 3  # a ratio of its own for each sample
    logits = system.predict(tokens, mask, batch)
    assert tokens.ids is not None
    codes = tokens.ids[mask.hidden]
    expected = F.cross_entropy(logits[mask.hidden], codes, label_smoothing=0.1)
    torch.testing.assert_close(system(batch, STEP)["codes"], expected)
    (gradient,) = torch.autograd.grad(
        system.objective(logits, tokens.ids, mask),
        logits,  # the same objective
    )
    assert torch.equal(gradient.abs().amax(-1) > 0, mask.hidden)


def test_whole_images_are_hidden_as_often_as_the_cosine_has_it() -> None:
    """Generation begins with nothing, which training has to meet: more than 15 of 16 tokens in 22 %."""
    system = make()
    batch = {"image": torch.zeros(4000, 3, 16, 16), "id": torch.arange(4000)}
    counts = system.draw(system.tokenizer(batch), batch, STEP).hidden.sum(1)
    chance = 1 - 2 / math.pi * math.asin(15 / 16)
    assert abs((counts == 16).double().mean() - chance) < 5 * math.sqrt(chance * (1 - chance) / 4000)


def test_the_head_is_tied_to_the_embedding_of_codes() -> None:
    system, batch = make(), images()
    tokens = system.tokenizer(batch)
    everything = Mask(torch.ones(4, 16, dtype=torch.bool))
    before = system.predict(tokens, everything, batch)
    with torch.no_grad():
        system.encoder.weight[5] *= 3  # type: ignore[attr-defined]
    after = system.predict(tokens, everything, batch)
    assert torch.equal((after - before).abs().amax((0, 1)) > 0, torch.arange(8) == 5)


def test_labels_condition_and_none_is_a_label_of_its_own() -> None:
    system, batch = make(conditional=True, classes=3).eval(), images()
    assert system.supervised and not make().supervised
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)

    def logits(*labels: int) -> Tensor:
        return system.predict(tokens, mask, {**batch, "label": torch.tensor(labels)})

    first = logits(0, 1, 2, -1)
    assert torch.equal(logits(0, 1, 2, 0)[:3], first[:3])
    assert ((logits(1, 2, -1, 0) - first).abs().amax((1, 2)) > 1e-4).all()
    unknown = logits(-1, -1, -1, -1)
    assert torch.equal(system.predict(tokens, mask, batch), unknown)


def test_what_makes_no_codes_or_has_no_table_is_refused() -> None:
    with pytest.raises(UserError, match="Patches makes none: choose a tokenizer of codes"):
        make(tokenizer="vision/patches")
    with pytest.raises(UserError, match="choose --encoder vision/vit"):
        make(encoder="vision/swin")
    with pytest.raises(UserError, match="recipe vision/maskgit"):
        make(**{"tokenizer.file": None})


# ----------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize("rounding", ["up", "down"])
def test_tokens_left_follow_the_cosine(rounding: Any) -> None:
    how = dataclasses.replace(PAPER, rounding=rounding)
    left = left_after(torch.tensor([256, 49, 3, 0]), 12, how)

    def number(x: float) -> int:
        return math.ceil(x - 1e-6) if rounding == "up" else math.floor(x + 1e-6)

    for k in range(11):
        share = math.cos(math.pi / 2 * (k + 1) / 12)
        assert left[k, 0] == number(256 * share)
        assert left[k, 1] == min(number(49 * share), 49 - k - 1)
    assert left[:, 2].tolist() == [2, 1] + [0] * 10
    assert left[-1].tolist() == [0] * 4 and not left[:, 3].any()


def test_each_step_fixes_the_scheduled_number_and_changes_nothing_that_is_fixed() -> None:
    system, batch = make().eval(), images()
    tokens = system.tokenizer(batch)
    given = torch.arange(16) < torch.tensor([[0], [3], [15], [16]])
    groups = [range(k, k + 1) for k in range(6)]
    states = list(system.decode(batch, STEP, Mask(~given), groups, PAPER))
    left = left_after((~given).sum(1), 6, PAPER)
    before, hidden = tokens, ~given
    for k, (after, still) in enumerate(states):
        assert after.ids is not None and before.ids is not None
        assert torch.equal(still.sum(1), left[k])
        assert not (still & ~hidden).any()
        assert torch.equal(after.ids[~hidden], before.ids[~hidden])
        before, hidden = after, still
    assert torch.equal(before.ids[given], tokens.ids[given]) and not hidden.any()  # type: ignore[index]


def codes_of(system: MaskGIT, n: int, steps: int, **options: Any) -> Tensor:
    batch = {"image": torch.zeros(n, 3, 16, 16), "id": torch.arange(n)}
    how = dataclasses.replace(PAPER, **options)
    *_, (tokens, _) = system.decode(batch, STEP, None, [range(k, k + 1) for k in range(steps)], how)
    assert tokens.ids is not None
    return tokens.ids


def test_one_step_draws_every_token_on_its_own() -> None:
    """Frequencies are those of the model, and pairs of tokens agree as often as chance has it."""
    odds = torch.tensor([0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05, 0.0])
    ids = codes_of(Oracle(odds, alike=False), 4000, 1)
    found = F.one_hot(ids, 8).double().mean((0, 1))
    assert ((found - odds).abs() <= 5 * (odds * (1 - odds) / ids.numel()).sqrt() + 1e-9).all()
    agree, chance = (ids[:, :8] == ids[:, 8:]).double().mean(), float(odds.square().sum())
    assert abs(agree - chance) < 5 * math.sqrt(chance / 32000)
    batch = {"image": torch.zeros(4000, 3, 16, 16), "id": torch.arange(4000)}
    logits = odds.log().expand(4000, 16, 8)
    assert torch.equal(ids, drawn(logits, STEP.noise(batch["id"], 16, 1 << 50), 1.0))


def test_a_perfect_model_is_consistent_token_by_token_and_not_at_once() -> None:
    """Data whose tokens are all alike: one at a time they are, at once they agree by chance."""
    alike = oracle(alike=True)
    assert (codes_of(alike, 500, 16) == codes_of(alike, 500, 16)[:, :1]).all()
    at_once = codes_of(alike, 2000, 1)
    rate = (at_once[:, 1:] == at_once[:, :1]).double().mean()
    assert abs(rate - 1 / 8) < 0.02
    # the first of four steps draws two of sixteen tokens, which differ in 7 of 8 samples
    few = codes_of(alike, 2000, 4)
    consistent = (few == few[:, :1]).all(1).double().mean()
    assert left_after(torch.tensor([16]), 4, PAPER)[0].item() == 15
    assert consistent == 1
    two = codes_of(alike, 2000, 4, curve=2.0)
    assert left_after(torch.tensor([16]), 4, dataclasses.replace(PAPER, curve=2.0))[0].item() == 15
    linear = codes_of(alike, 2000, 8, curve=1.0)  # two at a time
    assert (two == two[:, :1]).all()
    assert abs((linear == linear[:, :1]).all(1).double().mean() - 1 / 8) < 5 * math.sqrt(0.11 / 2000)


def test_the_most_probable_are_kept_first_and_noise_makes_the_order_random() -> None:
    """Odds differ by place: without noise likely places come first, with much of it any place does."""

    class Graded(Oracle):
        def predict(self, tokens: Tokens, mask: Mask, batch: Batch) -> Tensor:
            # how certain place n is of code 0 falls with n
            logits = torch.zeros(*tokens.shape, 8)
            logits[..., 0] = 8 - torch.arange(16.0) / 2
            return logits

    system = Graded(torch.full((8,), 0.125), alike=False)
    batch = {"image": torch.zeros(4000, 3, 16, 16), "id": torch.arange(4000)}

    def kept_first(noise: float) -> Tensor:
        how = dataclasses.replace(PAPER, choice_temperature=noise)
        groups = [range(k, k + 1) for k in range(3)]
        _, still = next(system.decode(batch, STEP, None, groups, how))
        return (~still).double().mean(0)

    sure = kept_first(0.0)
    assert sure[0] > 0.99 and sure[-1] < 0.05
    even = kept_first(1e6)
    assert abs(even - 2 / 16).max() < 5 * math.sqrt(0.11 / 4000)
    assert sure[0] > kept_first(3.0)[0] > even[0]


def test_noise_on_the_choice_falls_linearly_to_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[float] = []

    def doubt(logits: Tensor, code: Tensor, uniform: Tensor, temperature: float) -> Tensor:
        found.append(temperature)
        return torch.arange(16).expand_as(code)

    monkeypatch.setattr(maskgit, "doubt", doubt)
    system, batch = make().eval(), images()
    list(system.decode(batch, STEP, None, [range(k, k + 1) for k in range(4)], PAPER))
    assert found == pytest.approx([4.5 * share for share in (3 / 4, 2 / 4, 1 / 4, 0)])


def test_choosing_places_by_their_drafts_favours_the_mode_and_drawing_anew_does_not() -> None:
    odds = (0.5, 0.3, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0)
    system = oracle(odds=odds)
    n = 1000 * 16
    biased = (codes_of(system, 1000, 16, choice_temperature=0.0) == 0).double().mean()
    fair = (codes_of(system, 1000, 16, choice_temperature=0.0, redraw=True) == 0).double().mean()
    assert biased > 0.9
    assert abs(fair - 0.5) < 5 * math.sqrt(0.25 / n)


def test_temperature_falls_by_a_root_and_sharpens_draws() -> None:
    how = dataclasses.replace(PAPER, temperature=0.5)
    assert how.heat(0, 5) == 1.0 and how.heat(4, 5) == 0.5
    assert how.heat(1, 5) == pytest.approx(0.5 + 0.5 * 0.5)
    assert PAPER.heat(3, 5) == 1.0 and how.heat(0, 1) == 1.0
    logits = torch.tensor([0.6, 0.4]).log().expand(1, 20_000, 2)
    uniform = torch.rand(1, 20_000, generator=torch.Generator().manual_seed(0))
    first = (drawn(logits, uniform, 0.5) == 0).double().mean()
    assert abs(first - 0.36 / (0.36 + 0.16)) < 0.02


def test_a_sample_is_the_same_in_any_batch_and_another_at_another_step() -> None:
    system, batch = make().eval(), images(6)
    few = {key: value[[4, 1]] for key, value in batch.items()}
    hidden = torch.arange(16) < torch.arange(3, 15, 2)[:, None]

    def codes(batch: Batch, step: Step, mask: Mask | None = None) -> Tensor:
        *_, (tokens, _) = system.decode(batch, step, mask, [range(k, k + 1) for k in range(5)], PAPER)
        assert tokens.ids is not None
        return tokens.ids

    assert torch.equal(codes(batch, STEP)[[4, 1]], codes(few, STEP))
    assert torch.equal(codes(batch, STEP, Mask(hidden))[[4, 1]], codes(few, STEP, Mask(hidden[[4, 1]])))
    assert not torch.equal(codes(batch, STEP), codes(batch, Step(4, 10, 1)))
    assert not torch.equal(codes(batch, STEP), codes(batch, Step(3, 10, 2)))


# ----------------------------------------------------------------------------------- codes


def saved_book(folder: Path, codes: int = 5) -> str:
    book = Codebook(torch.randn(1, codes, 48), torch.randn(48), torch.rand(48) + 0.5)
    return str(Units("pixels", (None,), (book,)).save(folder / "codes.safetensors"))


def test_patches_are_the_numbers_of_their_nearest_codes_and_back(tmp_path: Path) -> None:
    file, batch = saved_book(tmp_path), images()
    system = make(**{"tokenizer.file": file})
    tokenizer: Any = system.tokenizer
    patches = build("vision/patches", kind="tokenizers", size=16, channels=3, patch_size=4)
    tokens, pixels, book = tokenizer(batch), patches(batch).values, tokenizer.book
    nearest = torch.cdist((pixels - book.mean) / book.std, book.centers).argmin(-1)
    assert torch.equal(tokens.ids, nearest) and torch.equal(tokens.values, nearest[..., None])
    assert tokenizer.provides["vocabulary"] == system.bias.numel() == len(system.encoder.weight) == 5  # type: ignore[attr-defined]
    back = patches({"image": tokenizer.inverse(tokens.values)}).values
    torch.testing.assert_close(back, (book.centers[0] * book.std + book.mean)[nearest])
    mask = Mask(torch.arange(16).expand(4, 16) % 2 == 0)
    shown = patches({"image": tokenizer.inverse(mask.fill(tokens.values, torch.tensor(-1)))}).values
    assert torch.equal(shown, mask.fill(back, torch.zeros(1)))
    completed = patches({"image": tokenizer.complete(tokens.values, batch, mask)}).values
    assert torch.equal(completed, mask.fill(pixels, back))


def test_previews_show_codes_and_the_likeliest_in_their_place(tmp_path: Path) -> None:
    system, batch = make(**{"tokenizer.file": saved_book(tmp_path)}).eval(), images()
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    media = system.preview(batch, STEP).media
    assert torch.equal(media["original"], batch["image"])  # type: ignore[arg-type]
    patches = build("vision/patches", kind="tokenizers", size=16, channels=3, patch_size=4)
    shown = patches({"image": media["visible"]}).values
    assert torch.equal((shown == 0).all(-1), mask.hidden)
    likeliest = system.predict(tokens, mask, batch).argmax(-1, keepdim=True)
    found = system.tokenizer({**batch, "image": media["hidden predicted (the likeliest code)"]}).values  # type: ignore[dict-item]
    assert torch.equal(found, mask.fill(tokens.values, likeliest))
    assert torch.equal(system.tokenizer({**batch, "image": media["its codes"]}).values, tokens.values)  # type: ignore[dict-item]


def test_samples_are_pictures_of_codes_and_frames_those_of_the_steps(tmp_path: Path) -> None:
    system, batch = make(**{"tokenizer.file": saved_book(tmp_path)}).eval(), images()
    patches = build("vision/patches", kind="tokenizers", size=16, channels=3, patch_size=4)
    made = system.generate(batch, STEP, steps=5)
    *states, (last, _) = system.decode(batch, STEP, None, [range(k, k + 1) for k in range(5)], PAPER)
    assert torch.equal(system.tokenizer(made.samples).values, last.values)
    assert len(made.frames) == 5 and torch.equal(made.frames[-1]["image"], made.samples["image"])
    for frame, (_, hidden) in zip(made.frames, states, strict=False):
        assert torch.equal((patches(frame).values == 0).all(-1), hidden)  # type: ignore[arg-type]
    mask = Mask(torch.arange(16).expand(4, 16) % 3 > 0)
    given, completed = (
        patches({"image": x}).values
        for x in (batch["image"], system.generate(batch, STEP, mask).samples["image"])
    )
    assert torch.equal(completed[~mask.hidden], given[~mask.hidden])
    system.tokenizer = torch.nn.Module()  # type: ignore[assignment]
    with pytest.raises(UserError, match="nothing can be generated"):
        system.shown(iter(()), batch, None)


def test_the_recipe_fits_codes_once_and_trains_with_them(tmp_path: Path) -> None:
    shared = {"accelerator": "cpu", "workers": 0, "tokenizer.patch_size": 2}
    options = {"codes": 6, "patches": 500, "steps": 2, "preset": "tiny"}

    def recipe(folder: Path) -> Any:
        given = {"name": "digits", "limit": 60}
        return run_recipe("vision/maskgit", given, folder, options=options, shared=shared, progress=False)

    assert recipe(tmp_path / "here").done[0].step == 2
    file = tmp_path / "here" / "codes.safetensors"
    before = file.stat().st_mtime_ns
    file.parent.rename(tmp_path / "there")
    system: Any = Run.open(tmp_path / "there" / "pretrain").system
    assert system.codes == system.tokenizer.book.codes == 6
    assert system.tokenizer.book.centers.std() > 0.3  # fitted, and not those that stood in for them
    assert recipe(tmp_path / "there").done[0].step == 2
    assert (tmp_path / "there" / file.name).stat().st_mtime_ns == before


# ----------------------------------------------------------------------------------- learning


@pytest.mark.slow
def test_codes_of_held_out_digits_are_predicted_better_than_by_frequency(tmp_path: Path) -> None:
    pixels = torch.tensor(load_digits().images, dtype=torch.float32)[:, None]
    pixels = (pixels - pixels.mean()) / pixels.std()
    patches = build("vision/patches", kind="tokenizers", size=8, channels=1, patch_size=2)
    file = fit_codes(tmp_path / "codes.safetensors", open_data("digits"), patches, codes=16, patches=2000)
    options: dict[str, Any] = {"tokenizer.patch_size": 2, "tokenizer.file": str(file)}
    torch.manual_seed(0)
    facts = {"size": (8, 8), "channels": 1}
    system = build(
        "vision/maskgit", preset="tiny", facts=facts, **options, **{"objective.label_smoothing": 0.0}
    )
    optimizer = torch.optim.AdamW(system.parameters(), lr=5e-3)
    for index in range(150):
        ids = torch.randint(1200, (32,), generator=torch.Generator().manual_seed(index))
        loss = system({"image": pixels[ids], "id": ids}, Step(index, 150))["codes"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batch = {"image": pixels[1200:], "id": torch.arange(597)}
    with torch.no_grad():
        held_out = system.eval()(batch, Step(0, 1))["codes"]
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, Step(0, 1))
    share = torch.bincount(tokens.ids[mask.hidden], minlength=16).float()
    assert held_out < 0.85 * torch.special.entr(share / share.sum()).sum()


@pytest.mark.compile
def test_forward_compiles_without_graph_breaks() -> None:
    system, batch = make(), images()
    expected = system(batch, STEP)["codes"]
    compiled = torch.compile(system, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(batch, STEP)["codes"], expected)


def test_an_encoder_of_codes_begins_another_one_and_none_of_pixels(tmp_path: Path) -> None:
    source, other = make(), make()
    facts = {"size": (16, 16), "channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3}
    with torch.no_grad():
        for parameter in source.encoder.parameters():
            parameter.add_(1)
    export(source, "safetensors", tmp_path, facts=facts)
    load_initial(other, tmp_path, facts=facts)
    assert torch.equal(other.encoder.weight, source.encoder.weight)
    bare = {"encoder.class_token": False}
    pixels = build("vision/mae", preset="tiny", facts=facts, **bare)
    with pytest.raises(UserError, match="patch_embed"):
        load_initial(pixels, tmp_path, facts=facts)
