"""Selfie chooses by place and context; what its published query can and cannot know."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from polymask import Batch, Mask, Step, Tokens, UserError, build
from polymask.config import RunConfig
from polymask.evaluation.finetuning import finetune
from polymask.run import Run
from polymask.training import fit
from polymask_vision.systems.selfie import accuracy, choice_loss

TINY: dict[str, Any] = {
    "tokenizer.patch_size": 4,
    "encoder.model": "resnet18",
    "encoder.arguments": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 8]},
    "encoder.small_stem": True,
    "depth": 2,
    "heads": 2,
    "mlp_dim": 24,
}
STEP = Step(6, 10, seed=1)
N, M = 16, 4


def make(**options: Any) -> Any:
    """A system of which no parameter is as it began."""
    torch.manual_seed(0)
    system = build("vision/selfie", facts={"size": (16, 16), "channels": 3}, **(TINY | options))
    with torch.no_grad():
        for parameter in system.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return system.eval()


def images(n: int = 3, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.randn(n, 3, 16, 16, generator=generator), "id": torch.arange(n)}


def parts(system: Any, batch: Batch) -> tuple[Tokens, Tokens, Mask]:
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    return *system.encoded(tokens, mask), mask


def ordered(tokens: Tokens, order: torch.Tensor, position: bool = True) -> Tokens:
    return Tokens(tokens.values[:, order], tokens.position[:, order] if position else tokens.position)


@pytest.mark.parametrize("query", ["additive", "token", "position"])
def test_a_query_knows_nothing_of_hidden_patches_but_where_they_lie(query: str) -> None:
    """Changing the pixels of a hidden patch changes its column of the scores alone."""
    system, batch = make(query=query), images()
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, STEP)
    first = mask.hidden & (mask.hidden.cumsum(1) == 1)
    changed = Tokens(tokens.values + first[..., None] * 3.0, tokens.position, tokens.grid)
    (seen, asked), (other, moved) = (system.encoded(x, mask) for x in (tokens, changed))
    assert torch.equal(system.queries(seen, asked), system.queries(other, moved))
    difference = (system.scores(seen, asked) - system.scores(other, moved)).abs().amax(1)
    assert (difference[:, 0] > 1e-3).all() and not difference[:, 1:].any()


def test_scores_by_hand() -> None:
    system, batch = make(), images()
    seen, asked, mask = parts(system, batch)
    h = system.encoder.of_patches(system.tokenizer(batch).values)
    at, table = torch.arange(N), system.positions[0].weight
    for row in range(3):
        t, c = at[mask.hidden[row]], at[~mask.hidden[row]]
        x = torch.cat([system.summary[None], h[row, c] + table[c]])[None]
        for block in system.pooling:
            x = block(x)
        expected = (system.norm(x)[0, 0] + table[t]) @ h[row, t].T
        torch.testing.assert_close(system.scores(seen, asked)[row], expected)
    assert len(t) == M
    wanted = F.cross_entropy(system.scores(seen, asked).flatten(0, 1), torch.arange(M).repeat(3))
    torch.testing.assert_close(system(batch, STEP)["choice"], wanted)


def test_equal_patches_cost_ln_m_and_teach_queries_nothing() -> None:
    query = torch.randn(2, M, 8, requires_grad=True)
    scores = query @ torch.randn(2, 1, 8).expand(2, M, 8).transpose(1, 2)
    loss = choice_loss(scores)
    assert loss.item() == pytest.approx(math.log(M))
    (gradient,) = torch.autograd.grad(loss, query)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-6, rtol=0)
    assert accuracy(torch.zeros(2, M, M)).item() == pytest.approx(1 / M)


def test_at_random_the_choice_is_right_once_in_m() -> None:
    system, right = make(), []
    for seed in range(8):
        seen, asked, _ = parts(system, images(128, seed))
        right.append(accuracy(system.scores(seen, asked)))
    # images are independent, choices within one are not
    assert torch.stack(right).mean().item() == pytest.approx(1 / M, abs=4 * math.sqrt(0.25 * 0.75 / 1024))


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_queries_that_are_their_patches_cost_what_a_softmax_says(scale: float) -> None:
    scores = scale * torch.eye(M).expand(2, M, M)
    assert choice_loss(scores).item() == pytest.approx(math.log(1 + (M - 1) * math.exp(-scale)), rel=1e-5)
    assert accuracy(scores).item() == pytest.approx(1.0 if scale else 1 / M)


def test_padding_is_neither_chosen_nor_asked() -> None:
    scores, valid = torch.randn(2, M, M), torch.tensor([[True] * 4, [True, True, False, False]])
    losses = [F.cross_entropy(scores[0], torch.arange(4), reduction="sum")]
    losses += [F.cross_entropy(scores[1, :2, :2], torch.arange(2), reduction="sum")]
    torch.testing.assert_close(choice_loss(scores, valid), sum(losses) / 6)
    scores[1, :, 2:] = 1e6
    whole, short = scores[0].argmax(1), scores[1, :2, :2].argmax(1)
    right = (whole == torch.arange(4)).sum() + (short == torch.arange(2)).sum()
    assert accuracy(scores, valid).item() == pytest.approx(right.item() / 6)


@pytest.mark.parametrize("positions", ["cells", "axes"])
@pytest.mark.parametrize("query", ["additive", "token"])
def test_it_goes_by_places_and_not_by_order(query: str, positions: str) -> None:
    system = make(query=query, positions=positions)
    seen, asked, _ = parts(system, images())
    scores, order = system.scores(seen, asked), torch.tensor([2, 0, 3, 1])
    mixed = torch.randperm(N - M, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(system.scores(seen, ordered(asked, order)), scores[:, order][:, :, order])
    torch.testing.assert_close(system.scores(ordered(seen, mixed), asked), scores)
    swapped = system.queries(ordered(seen, mixed, position=False), asked)
    assert (swapped - system.queries(seen, asked)).abs().amax(-1).min() > 1e-4


def test_axes_add_a_row_and_a_column() -> None:
    system = make(positions="axes")
    rows, columns = (table.weight for table in system.positions)
    assert len(rows) == len(columns) == 4
    at = torch.tensor([[[2.0, 1.0]]])
    torch.testing.assert_close(system.place(at)[0, 0], rows[2] + columns[1])


@pytest.mark.parametrize("query", ["additive", "token", "position"])
def test_gradient_reaches_visible_and_hidden_patches_and_every_place_used(query: str) -> None:
    system, batch = make(query=query), images()
    tokens = system.tokenizer(batch)
    values = tokens.values.requires_grad_()
    mask = system.draw(tokens, batch, STEP)
    seen, asked = system.encoded(Tokens(values, tokens.position, tokens.grid), mask)
    choice_loss(system.scores(seen, asked)).backward()
    reached = values.grad.abs().sum(-1) > 0
    assert torch.equal(reached, mask.hidden if query == "position" else torch.ones_like(mask.hidden))
    used = mask.hidden.any(0) if query == "position" else torch.ones(N, dtype=torch.bool)
    assert torch.equal(system.positions[0].weight.grad.abs().sum(1) > 0, used)


@pytest.mark.parametrize(("query", "orders"), [("additive", False), ("token", True), ("position", False)])
def test_only_a_token_of_its_own_lets_context_say_which_patch_belongs_where(query: str, orders: bool) -> None:
    """s_jk - s_jk' - s_j'k + s_j'k' is what decides between two assignments of two patches."""
    system = make(query=query)
    seen, asked, _ = parts(system, images())
    other = Tokens(seen.values + torch.randn_like(seen.values), seen.position)

    def double(context: Tokens) -> torch.Tensor:
        s = system.scores(context, asked).double()
        return s[:, 1:, 1:] - s[:, :-1, 1:] - s[:, 1:, :-1] + s[:, :-1, :-1]

    change = (double(seen) - double(other)).abs().max() / double(seen).abs().max()
    assert (change > 1e-2) if orders else (change < 1e-5)
    if query == "additive":  # though the scores themselves do change
        assert (system.scores(seen, asked) - system.scores(other, asked)).abs().max() > 1e-2


def ramps(n: int, seed: int) -> Batch:
    """Images whose patches are of one colour each, which rises to the right or to the left."""
    generator = torch.Generator().manual_seed(seed)
    right = torch.rand(n, generator=generator) < 0.5
    x = torch.linspace(-1.5, 1.5, 4).repeat_interleave(4).expand(n, 3, 16, 16)
    start = torch.arange(n) + 10_000 * seed
    return {"image": torch.where(right[:, None, None, None], x, x.flip(3)).contiguous(), "id": start}


@pytest.mark.slow
def test_context_is_worth_something_to_a_token_of_its_own_and_nothing_to_the_published_query() -> None:
    """Without the direction half of the hidden patches cannot be told; columns alone cannot tell it."""
    gap = {}
    for query in ("additive", "token"):
        system = make(query=query, dropout=0.0, positions="axes", depth=1)
        optimiser = torch.optim.AdamW(system.parameters(), lr=4e-3)
        for index in range(100):
            optimiser.zero_grad()
            system.train()(ramps(32, index), Step(index, 100))["choice"].backward()
            optimiser.step()
        found = system.eval().monitor(ramps(256, 999), STEP)
        gap[query] = found["accuracy"] - found["accuracy_without_context"]
        assert found["chance"].item() == 1 / M
    assert gap["token"] > 0.2 and abs(gap["additive"]) < 0.1


def test_a_picture_shows_chosen_patches_in_their_places() -> None:
    system, batch = make(query="position"), images()
    shown = system.preview(batch, STEP).media
    tokens = system.tokenizer(batch)
    seen, asked, mask = parts(system, batch)
    placed = system.tokenizer({"image": shown["hidden patches where they were chosen to belong"]}).values
    chosen = system.scores(seen, asked).argmax(-1)
    for row in range(3):
        at = mask.hidden[row].nonzero()[:, 0]
        assert torch.equal(placed[row, at], tokens.values[row, at[chosen[row]]])
        assert torch.equal(placed[row, ~mask.hidden[row]], tokens.values[row, ~mask.hidden[row]])


def test_fine_tuning_runs_the_same_weights_on_whole_images_with_a_stage_drawn_anew(tmp_path: Any) -> None:
    config = {"system": "vision/selfie", "preset": "tiny", "data": "digits", "data.size": 16, "workers": 0}
    run = Run.create(RunConfig.resolve({**config, "steps": 2}), tmp_path / "run")
    fit(run, progress=False)
    options = {"steps": 1, "batch_size": 8, "workers": 0, "tokenizer.patch_size": 8, "encoder.stages": 4}
    with torch.random.fork_rng():
        finetune(run, tmp_path / "tuned", labels=(0.1,), seeds=1, scratch=False, options=options)
    tuned = Run.open(next((tmp_path / "tuned").glob("pre-trained*")))
    began, has = run.system.backbone.state_dict(), tuned.system.backbone.state_dict()
    assert any("layer4" in name for name in has)
    moved = [(has[name] - x).abs().max() for name, x in began.items() if name.endswith("weight")]
    assert 0 < max(moved) < 2e-3  # by one step


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="vision/patch-resnet"):
        build("vision/selfie", facts={"size": (16, 16)}, encoder="vision/vit", **{"tokenizer.patch_size": 4})
    with pytest.raises(UserError, match="additive | token | position"):
        make(query="sum")
    with pytest.raises(UserError, match="cannot share features of 16"):
        make(heads=3)
    system = make(**{"masking.ratio": 0.07})
    with pytest.raises(UserError, match="hides 1 of 16"):
        system(images(), STEP)
