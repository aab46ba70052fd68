"""TGM hides of each time what the caption speaks of, and matches what is left with the caption."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Batch, Run, RunConfig, Step, UserError, build
from polymask.config import relative_to_run
from polymask.recipes import run_recipe
from polymask.training import fit
from polymask_vision.systems.previps import previps
from polymask_vision.systems.tgm import tgm

FACTS = {"frames": 8, "size": (16, 16), "channels": 3}
TINY = {
    "preset": "tiny",
    "tokenizer.patch_size": 4,
    "encoder.dim": 24,
    "encoder.depth": 2,
    "encoder.heads": 2,
    "decoder_dim": 24,
    "decoder_depth": 2,
    "decoder_heads": 2,
    "dim": 8,
}
RANDOM = {"masking": {"name": "core/random", "ratio": 0.6}, "score": None}
STEP = Step(6, 10, seed=1)


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    return shaken(build("vision/tgm", facts=FACTS, **(TINY | options)))


def shaken(system: Any) -> Any:
    """All parameters moved, so that nothing is equal by initialisation."""
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return system


def clips(n: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(n, 8, 3, 16, 16, generator=generator)
    text = torch.randint(5, 60, (n, 5), generator=generator)
    return {"video": video, "text": text, "id": torch.arange(n)}


def test_each_slot_hides_the_same_number_by_the_score_of_its_tokens() -> None:
    system, batch = make(), clips()
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    assert mask.visible == 4 * 6  # of 4 slots of 16 tokens, round(9.6) are hidden
    hidden, score = mask.hidden.view(6, 4, 16), system.score(batch, tokens).view(6, 4, 16)
    least = torch.where(hidden, score, math.inf).amin(2)
    most = torch.where(hidden, -math.inf, score).amax(2)
    assert (hidden.sum(2) == 10).all() and (least > most).all()
    # chance has no part, the caption has
    assert torch.equal(system.draw(tokens, batch, Step(7, 10, seed=2)).hidden, mask.hidden)
    other = {**batch, "text": batch["text"].flip(0)}
    assert (system.draw(tokens, other, STEP).hidden != mask.hidden).any(1).all()


def test_both_losses_by_hand() -> None:
    system, batch = make(**{"match_objective.learned": False}), clips()
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    losses = system(batch, STEP)
    target = system.target(batch, tokens)
    errors, seen = [], []
    for row in range(6):
        # each clip alone
        hidden = mask.hidden[row]
        errors.append(
            (system.predict(_row(tokens, row), _row_mask(mask, row))[0] - target[row, hidden]).square()
        )
        x = system.encoder.embed(tokens.values[row : row + 1, ~hidden])
        seen.append(system.encoder(x, tokens.position[row : row + 1, ~hidden]).mean(1))
    torch.testing.assert_close(losses["reconstruction"], torch.cat(errors).mean())
    clip, text = system.clip_map(torch.cat(seen)), system.text_map(system.guide.module.text(batch))
    logits = torch.nn.functional.cosine_similarity(clip[:, None], text[None], dim=-1) / 0.07
    own = torch.arange(6)
    by_hand = [torch.nn.functional.cross_entropy(x, own) for x in (logits, logits.T)]
    torch.testing.assert_close(losses["match"], sum(by_hand) / 2)
    halved = make(**{"match_objective.learned": False}, match_weight=0.5)(batch, STEP)
    torch.testing.assert_close(halved["match"], losses["match"] / 2)


def _row(tokens: Any, row: int) -> Any:
    return type(tokens)(tokens.values[row : row + 1], tokens.position[row : row + 1], tokens.grid)


def _row_mask(mask: Any, row: int) -> Any:
    return type(mask)(mask.hidden[row : row + 1])


def test_the_match_of_equal_rows_is_the_logarithm_of_the_batch_and_captions_of_one_identity_share() -> None:
    system, batch = make(), clips()
    with torch.no_grad():
        for part in (system.clip_map, system.text_map):
            part.weight.zero_()
    torch.testing.assert_close(system(batch, STEP)["match"], torch.tensor(math.log(6)))
    other = make(**{"match_objective.learned": False})
    identity = torch.tensor([0, 0, 1, 2, 2, 2])
    tokens = other.tokenizer(batch)
    visible = other.draw(tokens, batch, STEP).keep(tokens)
    encoded = other.encoder(other.encoder.embed(visible.values), visible.position)
    clip, text = other.embed_visible(encoded, visible), other.embed_text(batch)
    logits = torch.nn.functional.cosine_similarity(clip[:, None], text[None], dim=-1) / 0.07
    same = (identity[:, None] == identity).float()
    shares = same / same.sum(1, keepdim=True)
    by_hand = [-(shares * x.log_softmax(1)).sum(1).mean() for x in (logits, logits.T)]
    torch.testing.assert_close(other({**batch, "identity": identity}, STEP)["match"], sum(by_hand) / 2)


def test_gradient_of_the_match_reaches_the_encoder_and_neither_decoder_nor_guide() -> None:
    def reached(name: str) -> set[str]:
        system = make()
        system(clips(), STEP)[name].backward()
        found = {
            n.partition(".")[0] for n, p in system.named_parameters() if p.grad is not None and p.grad.any()
        }
        assert not any(p.requires_grad for part in (system.guide, system.score) for p in part.parameters())
        return found

    assert reached("match") == {"encoder", "clip_map", "text_map", "match_objective"}
    assert reached("reconstruction") == {"encoder", "decoder"}


def test_hidden_pixels_reach_neither_prediction_nor_match() -> None:
    system, batch = make(**RANDOM).eval(), clips()
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    noise = mask.invert().fill(torch.randn_like(tokens.values), torch.zeros(1))
    other = {**batch, "video": system.tokenizer.inverse(tokens.values + noise)}
    one, two = system(batch, STEP), system(other, STEP)
    assert torch.equal(one["match"], two["match"])
    assert not torch.equal(one["reconstruction"], two["reconstruction"])
    assert torch.equal(*(system.predict(system.tokenizer(x), mask) for x in (batch, other)))


def test_without_match_and_guidance_it_is_the_masked_autoencoder() -> None:
    options = {key: value for key, value in TINY.items() if key not in ("dim", "preset")} | RANDOM
    more = {"tokenizer": "vision/tubelets", "encoder.class_token": False, "target.patch_norm": True}
    system = make(**RANDOM, match_weight=0, guide=None)
    mae: Any = build("vision/mae", facts=FACTS, **options, **more, **{"target.by_channel": True})
    mae.load_state_dict(system.state_dict())
    silent = {key: value for key, value in clips().items() if key != "text"}
    losses = system(silent, STEP)
    assert set(losses) == {"reconstruction"} and system.guide is None
    torch.testing.assert_close(losses["reconstruction"], mae(silent, STEP)["reconstruction"])


def test_masks_of_uneven_rows_are_averaged_over_what_is_visible() -> None:
    """What pads shorter rows has no part in the mean of the visible tokens."""
    blocks = {"masking": {"name": "core/tube-blocks"}, "score": None}
    system, batch = make(**blocks), clips()
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    assert mask.hidden.sum(1).unique().numel() > 1
    visible = mask.keep(tokens)
    encoded = system.encoder(system.encoder.embed(visible.values), visible.position, visible.valid)
    found: Tensor = system.embed_visible(encoded, visible)
    for row in range(6):
        one = _row_mask(mask, row).keep(_row(tokens, row))
        alone = system.encoder(system.encoder.embed(one.values), one.position)
        torch.testing.assert_close(found[row : row + 1], system.clip_map(alone.mean(1)), rtol=1e-4, atol=1e-5)


def test_what_it_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--match_weight 0"):
        make(guide=None)
    with pytest.raises(UserError, match="MSE does not"):
        make(match_objective="core/mse")
    silent = {key: value for key, value in clips().items() if key != "text"}
    with pytest.raises(UserError, match="--data.text_vocab bpe"):
        make(**RANDOM)(silent, STEP)


def test_the_report_shows_the_score_that_was_gone_by_and_predictions_where_tokens_are_hidden() -> None:
    system, batch = make(), clips(3)
    tokens = system.tokenizer(batch)
    target, score = system.target(batch, tokens), system.score(batch, tokens)[..., 0]
    system.predict = lambda tokens, mask: mask.invert().keep(target)
    media = system.preview(batch, STEP).media
    assert len(media) == 4 and all(x.shape == (3, 8, 3, 16, 16) for x in media.values())
    predicted = next(value for name, value in media.items() if name.startswith("hidden predicted"))
    torch.testing.assert_close(predicted, batch["video"], atol=1e-4, rtol=0)
    heat = system.tokenizer({"video": media["score to hide by (bright: high)"]}).values[..., 0]
    assert torch.equal(heat.argmax(1), score.argmax(1))
    assert len(make(**RANDOM).preview(clips(2), STEP).media) == 3


def test_it_is_watched_whether_what_is_matched_differs() -> None:
    system, batch = make(), clips(3)
    tokens = system.tokenizer(batch)
    visible = system.draw(tokens, batch, STEP).keep(tokens)
    encoded = system.encoder(system.encoder.embed(visible.values), visible.position)
    found = system.monitor(batch, STEP)
    torch.testing.assert_close(found["clips"], system.embed_visible(encoded, visible).detach())
    torch.testing.assert_close(found["captions"], system.embed_text(batch).detach())
    assert not any(x.requires_grad for x in found.values())
    assert make(**RANDOM, match_weight=0, guide=None).monitor(batch, STEP) == {}
    assert "text" in system.example(2)


@pytest.mark.parametrize(("recipe", "half"), [(tgm, 1 / 3), (previps, 0.4)])
def test_stages_share_the_steps_and_the_second_goes_by_the_first(recipe: Any, half: float) -> None:
    for given, expected in (
        ({"steps": 30}, (round(30 * half), 30 - round(30 * half))),
        ({"steps": 10, "share": 1.0}, (9, 1)),
        ({"steps": 2, "share": 0.0}, (1, 1)),
        ({"steps": 1}, (1, 1)),
        ({}, (None, None)),
    ):
        told: list[dict[str, Any]] = []

        def stage(name: str, system: str, told: Any = told, **options: Any) -> Any:
            told.append(options)
            return SimpleNamespace(folder=Path("somewhere") / name)

        recipe(stage, preset="tiny", **given)
        assert tuple(options.get("steps") for options in told) == expected
        first = "guide" if recipe is tgm else "pose-tokenizer"
        pointers = {str(x) for key, x in told[1].items() if key not in ("preset", "steps")}
        assert pointers == {relative_to_run(first)} and len(told[1]) - len(told[0]) == 2
        assert all(options["preset"] == "tiny" for options in told)


@pytest.mark.slow
def test_the_recipe_trains_a_guide_that_masks_and_matches_by(tmp_path: Path) -> None:
    pytest.importorskip("polymask_language")
    data = {"name": "vision/moving-digits", "limit": 40, "size": 16}
    options = {"preset": "tiny", "steps": 6}
    done = run_recipe("vision/tgm", data, tmp_path / "r", options=options, progress=False)
    guide, student = done.done
    assert (guide.step, student.step) == (2, 4)
    own = guide.system.state_dict()
    for opened in (student.system.guide.module, student.system.score.guide.module):
        assert all(torch.equal(value, own[name]) for name, value in opened.dual.state_dict().items())
    assert student.system.score.guide.module.dim == 16
    # of other clips, of other captions, or of no captions at all
    with pytest.raises(UserError, match="was trained on clips of"):
        student.system.score({**student.system.example(2), "video": torch.zeros(2, 8, 3, 16, 16)}, _grid(4))
    config = {"system": "vision/tgm", "preset": "tiny", "guide": str(guide.folder)}
    with pytest.raises(UserError, match="another vocabulary"):
        Run.create(RunConfig.resolve({**config, "data": {**data, "told": ["digit"]}}), tmp_path / "a")
    mae = {"system": "vision/mae", "preset": "tiny-v-pixel", "data": data, "steps": 1}
    fit(run := Run.create(RunConfig.resolve(mae), tmp_path / "mae"), progress=False)
    with pytest.raises(UserError, match="does not match patches with captions"):
        make(guide=str(run.folder))


def _grid(side: int) -> Any:
    system = make()
    assert system.tokenizer.grid[1] == side
    return system.tokenizer(system.tokenizer.example(2))
