"""Contrast over a batch: closed forms, equality with torch, identities, and exactness on two processes."""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from polymask import Mask
from polymask.objectives.matching import Matching

run = runpy.run_path(str(Path(__file__).with_name("processes.py")))["run"]
ROWS = 6
OWN = (slice(0, 4), slice(4, ROWS))
FORMS = {"infonce": {}, "one way": {"symmetric": False}, "sdm": {"reverse": True, "temperature": 0.02}}


def pair(n: int = ROWS, dim: int = 5) -> tuple[Tensor, Tensor]:
    one, other = torch.randn(2, n, 1, dim, generator=torch.Generator().manual_seed(0)).unbind(0)
    return one, 0.5 * one + other


def cosines() -> Tensor:
    one, other = (F.normalize(x[:, 0], dim=-1) for x in pair())
    return one @ other.T


def test_infonce_is_the_cross_entropy_of_clip() -> None:
    logits, right = cosines() / 0.07, torch.arange(ROWS)
    there, back = F.cross_entropy(logits, right), F.cross_entropy(logits.T, right)
    torch.testing.assert_close(Matching()(*pair()), (there + back) / 2)
    torch.testing.assert_close(Matching(symmetric=False)(*pair()), there)


def test_sdm_is_the_divergence_of_its_formula() -> None:
    names = torch.tensor([0, 1, 0, 2, 3, 1])
    same = (names[:, None] == names).float()
    q = same / same.sum(1, keepdim=True)
    logits = cosines() / 0.02
    expected = sum(
        (p * (p.log() - (q + 1e-8).log())).sum(1).mean() for p in (logits.softmax(1), logits.T.softmax(1))
    )
    found = Matching(reverse=True, temperature=0.02)(*pair(), identity=names[:, None])
    torch.testing.assert_close(found, expected)


def test_sdm_is_nothing_where_matches_are_certain_and_is_not_symmetric() -> None:
    one = torch.eye(ROWS)[:, None]
    sdm = Matching(reverse=True, temperature=0.02)
    assert abs(float(sdm(one, one))) < 1e-4
    torch.testing.assert_close(sdm(one, one.flip(0)), torch.tensor(2 * -math.log(1e-8)), rtol=1e-3, atol=0)
    x, y = pair()
    way = Matching(reverse=True, temperature=0.5, symmetric=False)
    assert abs(float(way(x, y) - way(y, x))) > 1e-3
    assert abs(float(way(x, y) - Matching(temperature=0.5, symmetric=False)(x, y))) > 1e-2


def test_alike_identities_share_a_row_and_alike_similarities_cost_log_n() -> None:
    same = torch.ones(ROWS, 1, 4)
    assert float(Matching()(same, same)) == pytest.approx(math.log(ROWS))
    everyone = torch.zeros(ROWS, 1, dtype=torch.int64)
    assert float(Matching(reverse=True)(same, same, identity=everyone)) == pytest.approx(0, abs=1e-5)


def test_sites_that_take_no_part_are_no_candidates() -> None:
    x, y = (torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(k)) for k in (1, 2))
    hidden = torch.tensor([[1, 0, 0, 1], [0, 0, 1, 0], [1, 1, 1, 0]]).bool()
    for form in FORMS.values():
        kept = Matching(**form)(x[hidden][:, None], y[hidden][:, None])
        torch.testing.assert_close(Matching(**form)(x, y, Mask(hidden)), kept)


def test_a_learned_temperature_starts_as_told_learns_and_has_an_end() -> None:
    loss = Matching(learned=True)
    torch.testing.assert_close(loss(*pair()), Matching()(*pair()))
    loss(*pair()).backward()
    assert loss.log_scale is not None and loss.log_scale.grad is not None and loss.log_scale.grad != 0
    with torch.no_grad():
        loss.log_scale.fill_(9.0)
    torch.testing.assert_close(loss(*pair()), Matching(temperature=0.01)(*pair()))
    assert not list(Matching().parameters())


def test_both_sides_get_gradient() -> None:
    x, y = (side.requires_grad_() for side in pair())
    Matching()(x, y).backward()
    assert x.grad is not None and y.grad is not None and x.grad.any() and y.grad.any()


def shared(own: slice | None = None) -> dict[str, Tensor]:
    """Losses and averaged gradients of one linear map, of a process with its own rows of the batch."""
    processes = 1 if own else dist.get_world_size()
    own = own or OWN[dist.get_rank()]
    x, y = (side[own] for side in pair())
    names = torch.tensor([0, 1, 0, 2, 1, 3])[own, None]
    found = {}
    for form, options in FORMS.items():
        weight = torch.eye(5).requires_grad_()
        loss = Matching(**options)(x @ weight, y @ weight, identity=names)
        loss.backward()
        assert weight.grad is not None
        if processes > 1:
            dist.all_reduce(weight.grad)
        found |= {form: loss.detach(), f"gradient of {form}": weight.grad / processes}
        bare = Matching(**options)(x @ weight, y @ weight)
        found[f"{form} without identities"] = bare.detach()
    with torch.no_grad():
        found["alone"] = Matching()(x, y)
    return found


def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    one = shared(slice(0, ROWS))
    for result, own in zip(run(__file__, "shared", tmp_path), OWN, strict=True):
        for name, value in one.items():
            if name != "alone":
                torch.testing.assert_close(result[name], value, msg=lambda m, n=name: f"{n}: {m}")
        torch.testing.assert_close(result["alone"], Matching()(*(side[own] for side in pair())))
