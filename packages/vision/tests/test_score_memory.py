"""Scores are remembered from the next step on, of known samples alone, and outlast a checkpoint."""

from __future__ import annotations

import torch

from polymask import Step
from polymask_vision.score_memory import ScoreMemory


def given(*ids: int) -> dict[str, torch.Tensor]:
    return {"id": torch.tensor(ids)}


def test_scores_are_remembered_when_the_step_is_done() -> None:
    memory = ScoreMemory(5, 4, 0.85)
    memory.note(given(3, 1), torch.tensor([[0.1, 0.2], [0.3, 0.4]]), Step(0, 9))
    assert (memory.recall(given(3, 1), 4) == 0.85).all()
    memory.note(given(0), torch.tensor([[0.9, 0.8, 0.7, 0.6]]), Step(0, 9))  # the second part of the step
    memory.write()
    first = torch.tensor(0.85)
    torch.testing.assert_close(memory.recall(given(1, 3), 2), torch.tensor([[0.3, 0.4], [0.1, 0.2]]))
    torch.testing.assert_close(memory.recall(given(1), 4)[0, 2:], first.expand(2))
    torch.testing.assert_close(memory.recall(given(0), 3), torch.tensor([[0.9, 0.8, 0.7]]))
    assert (memory.recall(given(2, 4), 4) == first).all()
    again = ScoreMemory(5, 4, 0.0)
    again.load_state_dict(memory.state_dict())
    assert torch.equal(again.scores, memory.scores)


def test_a_step_that_was_given_up_leaves_nothing() -> None:
    memory = ScoreMemory(5, 2, 0.5)
    memory.note(given(1), torch.zeros(1, 2), Step(0, 9))
    memory.note(given(2), torch.ones(1, 2), Step(1, 9))
    memory.write()
    assert memory.recall(given(1, 2), 2).tolist() == [[0.5, 0.5], [1.0, 1.0]]
    memory.scores.fill_(0.5)
    memory.write()  # nothing is written twice
    assert (memory.scores == 0.5).all()


def test_samples_that_are_none_of_training_have_the_first_score() -> None:
    memory = ScoreMemory(3, 2, 0.5)
    memory.note(given(2, 3, 10**9), torch.zeros(3, 2), Step(0, 9))
    memory.write()
    assert memory.recall(given(2, 3, 70), 2).tolist() == [[0.0, 0.0], [0.5, 0.5], [0.5, 0.5]]
    memory.note({"text": torch.zeros(2, 1)}, torch.zeros(2, 2), Step(1, 9))
    memory.write()
    assert memory.recall({"text": torch.zeros(2, 1)}, 2).tolist() == [[0.5, 0.5]] * 2
    assert memory.recall(given(0, 1), 2).tolist() == [[0.5, 0.5]] * 2
