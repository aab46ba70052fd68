"""Hidden tokens become the mask token, another word or themselves, with exact chances."""

from __future__ import annotations

import pytest
import torch

from polymask import Mask, Step, UserError
from polymask.nn.corruption import corrupt

V, MASK, SPECIAL = 20, 7, (0, 1, 7, 19)


def sample(shares: tuple[float, float, float] = (0.8, 0.1, 0.1), step: int = 0) -> tuple[torch.Tensor, ...]:
    ids = torch.full((200, 400), 5)
    hidden = torch.zeros_like(ids, dtype=torch.bool)
    hidden[:, ::2] = True
    out = corrupt(
        *(ids, Mask(hidden), Step(step, 10, 3), torch.arange(200) * 11),
        mask_id=MASK,
        vocabulary=V,
        special_ids=SPECIAL,
        shares=shares,
    )
    return ids, hidden, out


def test_shares_are_those_of_bert_and_replacements_uniform_over_content() -> None:
    ids, hidden, out = sample()
    assert torch.equal(out[~hidden], ids[~hidden])
    found = out[hidden]
    n = len(found)
    content = [i for i in range(V) if i not in SPECIAL]
    expected = {i: 0.1 / len(content) for i in content}
    expected[5] += 0.1
    expected[MASK] = 0.8
    counts = torch.bincount(found, minlength=V)
    for i in range(V):
        p = expected.get(i, 0.0)
        assert abs(int(counts[i]) - n * p) <= 4 * (n * p * (1 - p)) ** 0.5, f"id {i}"


def test_the_ends_of_the_shares_are_exact() -> None:
    assert (sample((1.0, 0.0, 0.0))[2][:, ::2] == MASK).all()
    ids, _, out = sample((0.0, 0.0, 1.0))
    assert torch.equal(ids, out)
    assert not torch.isin(sample((0.0, 1.0, 0.0))[2], torch.tensor(SPECIAL)).any()


def test_chance_comes_from_step_and_sample_alone() -> None:
    state = torch.get_rng_state()
    first, again, later = (sample(step=step)[2] for step in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again) and not torch.equal(first, later)
    assert not torch.equal(first[0], first[1])
    ids, mask = torch.full((1, 8), 5), Mask(torch.ones(1, 8, dtype=torch.bool))
    alone = corrupt(
        ids, mask, Step(0, 10, 3), torch.tensor([11]), mask_id=MASK, vocabulary=V, special_ids=SPECIAL
    )
    beside = torch.where(torch.arange(8) % 2 == 0, first[1, :8], alone[0])
    assert torch.equal(alone[0], beside)


def test_a_replacement_says_nothing_about_the_mask() -> None:
    # which sites a random masking of the same step hides is drawn from another stream
    ids, step, samples = torch.full((500, 100), 5), Step(2, 10, 3), torch.arange(500)
    hidden = step.noise(samples, 100) < 0.5
    out = corrupt(ids, Mask(hidden), step, samples, mask_id=MASK, vocabulary=V, special_ids=SPECIAL)
    assert abs(float((out[hidden] == MASK).float().mean()) - 0.8) < 0.01


def test_shares_that_are_no_chances_are_refused() -> None:
    with pytest.raises(UserError, match="must sum to 1"):
        sample((0.8, 0.1, 0.2))
