"""Masked-PDPP: what the mask of a task does to noise, sampling and loss; its data and its scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Mask, Run, RunConfig, Step, UserError, build
from polymask.data import open_data
from polymask_language.datasets import openings, plans
from polymask_language.evaluations.planning import COMMONEST, FILTERED, TRUE, Planning, commonest, scores
from polymask_language.systems.masked_pdpp import MaskedPDPP

A, C, SEEN, T = 12, 3, 6, 4
ALLOWED = ((0, 1, 2, 3), (3, 4, 5, 6, 7), (8, 9))
FACTS = {"horizon": T, "actions": A, "observation": SEEN, "classes": C, "allowed": ALLOWED}
STEP = Step(2, 100, 0)
PLAIN = {"mask_noise": False, "mask_sampling": False, "mask_loss": False}


def system(seed: int = 0, facts: dict[str, Any] = FACTS, **options: Any) -> MaskedPDPP:
    torch.manual_seed(seed)
    made: MaskedPDPP = build("language/masked-pdpp", preset="tiny", facts=facts, **options)
    return made.eval()


def batch_of(n: int = 30) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    label = torch.arange(n) % C
    steps = [
        torch.tensor(ALLOWED[k])[torch.randint(len(ALLOWED[k]), (T,), generator=generator)] for k in label
    ]
    seen = torch.randn(n, 2, SEEN, generator=generator)
    return {"plan": torch.stack(steps), "observation": seen, "label": label, "id": torch.arange(n) * 3 + 1}


def spied(model: MaskedPDPP, part: str) -> list[Tensor]:
    """Rows that the planner, or its average, is given."""
    rows: list[Tensor] = []
    module: Any = model.planner if part == "planner" else model.average.module
    module.register_forward_pre_hook(lambda _, given: rows.append(given[0]))
    return rows


def of_steps(rows: Tensor) -> Tensor:
    return rows[..., C : C + A]


# ------------------------------------------------------------------------- mask


def test_nothing_of_foreign_steps_is_ever_in_the_state() -> None:
    model, batch = system(), batch_of()
    foreign = ~model.table[batch["label"]][:, None].expand(-1, T, -1)
    trained, sampled = spied(model, "planner"), spied(model, "average")
    model(batch, STEP)
    model.generate(batch, STEP, true_task=True)
    assert len(sampled) == 10
    for rows in (*trained, *sampled):
        assert not of_steps(rows)[foreign].any() and of_steps(rows)[~foreign].all()
    free = system(**PLAIN)
    trained, sampled = spied(free, "planner"), spied(free, "average")
    free(batch, STEP)
    free.generate(batch, STEP, true_task=True)
    assert all(of_steps(rows)[foreign].any() for rows in (*trained, *sampled))


def test_task_and_observations_stay_as_they_are_in_every_state() -> None:
    model, batch = system(), batch_of()
    sampled = spied(model, "average")
    model.generate(batch, STEP, true_task=True)
    for rows in sampled:
        assert torch.equal(rows[..., :C].argmax(-1), batch["label"][:, None].expand(-1, T))
        assert torch.equal(rows[:, [0, -1], C + A :], batch["observation"])
        assert not rows[:, 1:-1, C + A :].any()


def test_a_mask_of_all_steps_is_plain_pdpp_bit_for_bit() -> None:
    everything = {**FACTS, "allowed": (tuple(range(A)),) * C}
    one, other, batch = system(facts=everything), system(**PLAIN), batch_of()
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(batch, STEP)["plan"], other(batch, STEP)["plan"])
    assert torch.equal(one.generate(batch, STEP).samples["plan"], other.generate(batch, STEP).samples["plan"])


@pytest.mark.parametrize("mask_loss", [True, False])
def test_the_loss_asks_nothing_of_foreign_steps(mask_loss: bool) -> None:
    model, batch = system(mask_loss=mask_loss), batch_of()
    kept: list[Tensor] = []

    def keep(module: Any, given: Any, out: Tensor) -> Tensor:
        kept.append(out)
        out.retain_grad()
        return out

    model.planner.register_forward_hook(keep)
    model(batch, STEP)["plan"].backward()
    gradient = kept[0].grad
    assert gradient is not None
    foreign = ~model.table[batch["label"]][:, None].expand(-1, T, -1)
    assert bool(gradient[foreign].any()) != mask_loss and bool(gradient[~foreign].all())


def test_the_loss_of_a_right_guess_and_of_none() -> None:
    model, batch = system(), batch_of()
    clean = model.tokenizer(batch).values
    for guess, loss in ((clean, 0.0), (0 * clean, 10.0 + 10 + (T - 2))):
        model.planner.forward = lambda rows, time, x=guess: x  # type: ignore[method-assign]
        assert float(model(batch, STEP)["plan"]) == pytest.approx(loss)


def test_no_network_plans_foreign_steps_and_a_wrong_task_never_succeeds() -> None:
    batch = batch_of(300)
    masked, free, filtered = (
        made.generate(batch, STEP, true_task=True, filtered=f).samples["plan"]
        for made, f in ((system(), False), (system(**PLAIN), False), (system(**PLAIN), True))
    )
    table = system().table[batch["label"]]
    foreign = [float((~table.gather(1, x)).float().mean()) for x in (masked, free, filtered)]
    assert foreign[0] == foreign[2] == 0
    assert foreign[1] == pytest.approx(1 - (4 + 5 + 2) / 3 / A, abs=0.15)
    wrong = {**batch, "label": (batch["label"] + 2) % C}  # 0 to 2, of no step in common
    wrong = {k: v[batch["label"] == 0] for k, v in wrong.items()}
    made = system().generate(wrong, STEP, true_task=True).samples["plan"]
    assert not (made == wrong["plan"]).any()


def test_a_plan_of_no_known_task_may_have_any_step() -> None:
    model, batch = system(), batch_of()
    batch["label"] = torch.full_like(batch["label"], -1)
    assert torch.isfinite(model(batch, STEP)["plan"]) and float(model(batch, STEP)["task"]) == 0
    made = model.generate(batch, STEP, true_task=True).samples["plan"]
    assert int(made.max()) > 9  # a step that no task has


def test_the_planner_and_the_classifier_share_nothing() -> None:
    model, batch = system(), batch_of()
    model(batch, STEP)["task"].backward(retain_graph=True)
    assert all(p.grad is None or not p.grad.any() for p in model.planner.parameters())
    model.zero_grad()
    model(batch, STEP)["plan"].backward()
    assert all(p.grad is None for p in model.task_classifier.parameters())


def test_visible_steps_stay_and_reach_the_others() -> None:
    model, batch = system(), batch_of()
    hidden = torch.ones(30, T, dtype=torch.bool)
    hidden[:, 1] = False
    made = model.generate(batch, STEP, Mask(hidden), true_task=True).samples["plan"]
    assert torch.equal(made[:, 1], batch["plan"][:, 1])


def test_the_average_follows_every_tenth_step() -> None:
    model = system(copy_until=10, every=10)
    assert [model.average.momentum(Step(i, 100)) for i in (0, 5, 10, 20)] == [0.0, 1.0, 0.995, 0.995]


def test_the_average_is_of_the_planner_and_moves_after_a_step() -> None:
    model = system(copy_until=5)
    with torch.no_grad():
        for weight in model.planner.parameters():
            weight.add_(1.0)
    model.after_step(Step(0, 10, 0))
    pairs = zip(model.average.module.parameters(), model.planner.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_times_are_1_to_the_last_all_alike() -> None:
    """At time 0 there is no noise, and nothing to learn."""
    model, times = system(times=4), []
    model.planner.register_forward_pre_hook(lambda _, given: times.append(given[1]))
    for index in range(20):
        model(batch_of(), Step(index, 100, 0))
    share = torch.cat(times).bincount(minlength=5).float() / (20 * 30)
    assert share[0] == 0 and (share[1:] - 0.25).abs().max() < 4 * (0.25 * 0.75 / 600) ** 0.5


def test_plans_of_no_known_task_weigh_nothing_in_the_loss_of_the_classifier() -> None:
    model, batch = system(), batch_of()
    few = {name: x[:20] for name, x in batch.items()}
    unknown = {**batch, "label": batch["label"].masked_fill(torch.arange(30) >= 20, -1)}
    torch.testing.assert_close(model(unknown, STEP)["task"], model(few, STEP)["task"])


def test_plans_of_one_step_are_refused() -> None:
    with pytest.raises(UserError, match="plans 2 steps or more, and Steps makes 1"):
        system(facts={**FACTS, "horizon": 1})


@pytest.mark.slow
def test_it_learns_plans_that_observations_tell() -> None:
    """After 150 steps the true task's plan is right where what is seen tells it, and not before."""
    data = open_data(
        "made-up-plans", tasks=3, actions=9, each=3, horizon=2, noise=0.0, plans=128, test_plans=64
    )
    torch.manual_seed(0)
    options = {"dim": 16, "copy_until": 500, "classifier_dim": 32}
    model: Any = build(
        "language/masked-pdpp", preset="tiny", facts={**data.provides, "classes": 3}, **options
    )

    def split(name: Any) -> dict[str, Tensor]:
        rows = list(data.split(name))
        found = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
        return {**found, "label": data.labels(name), "id": torch.arange(len(rows))}

    train, test = split("train"), split("test")

    def right() -> float:
        made = model.eval().generate(test, STEP).samples["plan"]
        return float((made == test["plan"]).float().mean())

    before, optimizer = right(), torch.optim.Adam(model.parameters(), 3e-3)
    for index in range(150):
        model.train()
        loss = sum(model(train, Step(index, 150)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_step(Step(index, 150))
    assert before < 0.6 and right() > 0.9


# ------------------------------------------------------------------------- data


def test_the_table_of_tasks_is_of_training_plans_alone(tmp_path: Path) -> None:
    rows = [{"task": "tea", "actions": ["boil", f"add {i}"], "start": [0], "goal": [i]} for i in range(10)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data: Any = open_data(f"json-plans:{tmp_path / 'p.jsonl'}")
    train = {step for row in data.split("train") for step in row["plan"].tolist()}
    every = train | {step for row in data.split("test") for step in row["plan"].tolist()}
    assert set(data.provides["allowed"][0]) == train < every
    assert data.describe()["held-out steps that their task lacks"] == "50.0%"


def test_lines_that_are_no_plans_are_left_out_with_their_reason(tmp_path: Path) -> None:
    good = {"task": "tea", "actions": ["a", "b"], "start": [0.0, 1], "goal": [1, 1]}
    bad = [
        {**good, "actions": ["a", "b", "c"]},
        {k: v for k, v in good.items() if k != "goal"},
        {**good, "start": [0.0]},
        {**good, "task": 3},
        [1],
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps(x) for x in (good, good, *bad, {**good, "task": "coffee"})))
    data = open_data(f"json-plans:{path}", test=0.5)
    reasons = [reason for _, reason in data.skipped]
    assert len(reasons) == 5 and reasons[1] == "no field 'goal'" and reasons[4] == "no object"
    assert reasons[0] == "3 actions and 2 numbers, the first plan has 2 and 2"
    path.write_text("[]")
    with pytest.raises(UserError, match="there is no plan in .*; line 1: no object"):
        open_data(f"json-plans:{path}")


def test_openings_are_boards_around_the_last_moves(tmp_path: Path) -> None:
    chess = pytest.importorskip("chess")
    data: Any = open_data(f"openings:{openings.example_source(tmp_path)}")
    assert data.classes == ["Closed", "Open"]
    source = data.splits["train"].source
    k = source.names.index("e4 e5 Nf3 Nc6 a3 a6")
    assert [source.actions[i] for i in source.steps[k].tolist()] == ["Nc6", "a3", "a6"]
    board = chess.Board()
    for move in ("e4", "e5", "Nf3"):
        board.push_san(move)
    before, after = source.seen[k].view(2, 12, 64)
    assert before.sum() == after.sum() == 32
    assert before[1, chess.F3] == 1 and before[7, chess.B8] == 1  # a white knight, a black one
    assert after[7, chess.C6] == 1 and after[6, chess.A6] == 1 and after[0, chess.A3] == 1
    assert torch.equal(before[0], torch.tensor([p in board.pieces(1, True) for p in range(64)]).float())


def test_made_up_tasks_share_steps_and_keep_to_their_own() -> None:
    data: Any = open_data("made-up-plans")
    allowed = data.provides["allowed"]
    assert all(len(steps) <= 8 for steps in allowed)
    assert len({step for steps in allowed for step in steps}) < sum(map(len, allowed))
    assert "held-out steps that their task lacks" in data.describe()
    assert data.render(data.split("test")[0]).shape[0] == 3


# ----------------------------------------------------------------------- scores


def test_scores_by_their_closed_forms() -> None:
    allowed = torch.ones(3, 5, dtype=torch.bool)
    allowed[:, 4] = False
    made = torch.tensor([[0, 1, 2], [2, 1, 0], [4, 4, 3]])
    truth = torch.tensor([[0, 1, 2], [0, 1, 2], [0, 1, 3]])
    found = {name: x.tolist() for name, x in scores(made, truth, allowed).items()}
    assert found["success rate"] == [1, 0, 0]
    assert found["mean accuracy"] == pytest.approx([1, 1 / 3, 1 / 3])
    assert found["mIoU"] == pytest.approx([1, 1, 1 / 4])
    assert found["foreign steps"] == pytest.approx([0, 0, 2 / 3])


def test_a_run_is_scored_beside_what_needs_no_diffusion(tmp_path: Path) -> None:
    config = {
        "system": "language/masked-pdpp",
        "preset": "tiny",
        "data": {"name": "made-up-plans", "plans": 200, "test_plans": 50},
    }
    run = Run.create(RunConfig.resolve(config), tmp_path)
    found = {(m.row, m.metric): m.value for m in Planning()(run)}
    assert {row for row, _ in found} == {"pre-trained", TRUE, FILTERED, COMMONEST, "untrained"}
    assert found[TRUE, "foreign steps"] == 0
    table = commonest(run)
    source, train = run.data.splits["train"].source, run.data.splits["train"]  # type: ignore[attr-defined]
    mine = source.steps[train.index][train.labels == 5].tolist()
    assert mine.count(table[5].tolist()) == max(map(mine.count, mine))
    assert isinstance(plans.example_source(tmp_path), str)
