"""Two processes that share what they have compute what one process does that has all."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from polymask.distributed import differing, gather, gather_rows, mean, processes

run = runpy.run_path(str(Path(__file__).with_name("processes.py")))["run"]
ROWS, DIM = 5, 4
OWN = (slice(0, 3), slice(3, ROWS))
"""Rows of each of two processes; their numbers differ."""


def shared(own: slice | None = None) -> dict[str, Tensor]:
    """What a process with its own rows of the data computes; the functions under test know the rest."""
    own = own or OWN[dist.get_rank()]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, DIM, generator=generator)[own]
    weight = torch.randn(DIM, 3, generator=generator, requires_grad=True)
    leaf = (x @ weight).detach().requires_grad_()
    ids = torch.tensor([7, 3, 1, 9, 4])[own]
    memory = torch.zeros(10, 2)
    rows, values = gather_rows(ids, torch.stack([ids * 1.0, ids * 2.0], 1).requires_grad_())
    memory[rows] = values
    contrast(gather(x @ weight)).backward()
    contrast(gather(leaf)).backward()
    return {
        "gathered": gather(x),
        "transposed": gather(x.T.contiguous().T),
        "ids": gather(ids),
        "flags": gather(ids > 3),
        "none of rank 0": gather(x[:0] if own.start == 0 else x),
        "memory": memory,
        "gradient": mean(weight.grad),
        "leaf": leaf.grad,
    }


def contrast(embedding: Tensor) -> Tensor:
    """A loss in which every row meets every other."""
    return (embedding @ embedding.T).logsumexp(1).mean()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    results: list[dict[str, Tensor]] = run(__file__, "shared", tmp_path_factory.mktemp("two"))
    return results


@pytest.fixture(scope="module")
def one() -> dict[str, Tensor]:
    return shared(slice(0, ROWS))


@pytest.mark.parametrize("name", ["gathered", "transposed", "ids", "flags", "memory"])
def test_every_process_has_the_rows_of_all(one: Any, two: Any, name: str) -> None:
    for result in two:
        assert torch.equal(result[name], one[name]) and result[name].dtype == one[name].dtype


def test_a_process_may_have_no_rows(one: Any, two: Any) -> None:
    assert all(torch.equal(result["none of rank 0"], one["gathered"][OWN[1]]) for result in two)


def test_a_loss_over_all_rows_has_the_gradient_of_one_process(one: Any, two: Any) -> None:
    assert torch.equal(two[0]["gradient"], two[1]["gradient"])
    torch.testing.assert_close(two[0]["gradient"], one["gradient"])


def test_own_rows_get_what_the_losses_of_all_processes_send(one: Any, two: Any) -> None:
    for result, own in zip(two, OWN, strict=True):
        torch.testing.assert_close(result["leaf"], 2 * one["leaf"][own])


def test_a_mean_is_the_same_everywhere_and_leaves_its_input(tmp_path: Path) -> None:
    results = run(__file__, "averaged", tmp_path)
    for _, average in results:
        assert torch.equal(average, torch.tensor([[0.5, 2.0], [1.5, 3.0]]))
        assert not average.requires_grad
    assert not torch.equal(results[0][0], results[1][0])


def averaged() -> tuple[Tensor, Tensor]:
    # not contiguous, as gradients may be
    x = (torch.tensor([[0.0, 1.0], [2.0, 3.0]]) + dist.get_rank() * torch.tensor([[1.0, 1.0], [0.0, 0.0]])).T
    x.requires_grad_()
    average = mean(x)
    return x.detach(), average


def unlike() -> list[str]:
    rank = dist.get_rank()
    found = []
    for change in ("nothing", "weight", "order", "norm"):
        module = nn.Sequential(nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2))
        module.register_buffer("memory", torch.tensor([1, 2, 3]))
        nn.init.ones_(module[0].weight)
        if change == "weight":
            module[0].weight.data[0, 0] += rank * 1e-6
        if change == "order":
            module.get_buffer("memory").copy_(torch.tensor([1 + rank, 2 - rank, 3]))
        if change == "norm":
            module[1].running_mean.fill_(rank)
        found.append(differing(module))
    return found


def test_what_differs_between_processes_is_named(tmp_path: Path) -> None:
    assert run(__file__, "unlike", tmp_path) == [["", "0.weight", "memory", ""]] * 2


def test_in_one_process_nothing_is_done() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert processes() == 1
    assert gather(x) is x
    assert mean(x).data_ptr() == x.data_ptr() and not mean(x).requires_grad
    ids, values = gather_rows(torch.arange(3), x)
    assert differing(nn.Linear(2, 2)) == ""
    assert torch.equal(values, x) and not values.requires_grad and torch.equal(ids, torch.arange(3))


def test_a_system_that_imports_it_does_not_import_lightning() -> None:
    script = "import sys, polymask.distributed; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"lightning", "polymask.training"}.intersection(done.stdout.split())
