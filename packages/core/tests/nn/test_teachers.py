"""Teachers move by their rule and otherwise stand still."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from polymask import Step, UserError
from polymask.nn.teachers import EMATeacher, Frozen, normalise, record, recorded


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def nudge(module: nn.Module, by: float) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by)


def test_a_frozen_module_neither_learns_nor_leaves_eval_mode() -> None:
    frozen = Frozen(net())
    frozen.train()
    nn.Sequential(frozen).train()
    assert not any(module.training for module in frozen.modules())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    x = torch.randn(8, 3, requires_grad=True)
    before = copy.deepcopy(frozen.state_dict())
    answer = frozen(x)
    assert not answer.requires_grad
    assert torch.equal(answer, frozen(x))  # no dropout
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())


def test_an_ema_teacher_starts_as_a_copy_and_shares_nothing() -> None:
    student = net()
    teacher = EMATeacher(student)
    for mine, theirs in zip(teacher.module.state_dict().values(), student.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs) and mine.data_ptr() != theirs.data_ptr()
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert student.training and not teacher.module.training


def test_an_ema_teacher_follows_the_explicit_recursion() -> None:
    student = net().double()
    teacher = EMATeacher(student, momentum=0.9, final=1.0, curve="linear")
    want = [parameter.detach().clone() for parameter in teacher.parameters()]
    for index in range(5):
        nudge(student, 0.5 + index)
        teacher.follow(student, Step(index, 10))
        m = 0.9 + 0.1 * index / 10
        want = [m * mine + (1 - m) * theirs for mine, theirs in zip(want, student.parameters(), strict=True)]
    for got, expected in zip(teacher.parameters(), want, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-14, atol=1e-14)


def test_momentum_follows_its_curve() -> None:
    linear = EMATeacher(net(), momentum=0.5, final=1.0, curve="linear")
    cosine = EMATeacher(net(), momentum=0.5, final=1.0)
    at = [Step(index, 4) for index in range(5)]
    assert [linear.momentum(step) for step in at] == pytest.approx([0.5, 0.625, 0.75, 0.875, 1.0])
    halves = [(1 - math.cos(math.pi * p / 4)) / 4 for p in range(5)]
    assert [cosine.momentum(step) for step in at] == pytest.approx([0.5 + half for half in halves])
    assert EMATeacher(net(), momentum=0.9).momentum(Step(3, 4)) == 0.9
    # HPM: linear over a part of the run, then constant
    early = EMATeacher(net(), momentum=0.5, final=1.0, curve="linear", rise=0.5)
    assert [early.momentum(step) for step in at] == pytest.approx([0.5, 0.75, 1.0, 1.0, 1.0])


def test_a_warm_teacher_is_the_mean_of_all_students_until_momentum_is_final() -> None:
    """DACS (Tranheden et al. 2021): m = min(1 - 1 / (t + 1), final) makes a plain running mean at first."""
    student = net().double()
    teacher = EMATeacher(student, momentum=0.75, curve="warm")
    assert [teacher.momentum(Step(t, 10)) for t in (0, 1, 3, 4, 9)] == pytest.approx(
        [0, 0.5, 0.75, 0.75, 0.75]
    )
    seen = []
    for index in range(4):
        nudge(student, 0.5 + index)
        teacher.follow(student, Step(index, 10))
        seen.append([parameter.detach().clone() for parameter in student.parameters()])
    for got, *students in zip(teacher.parameters(), *seen, strict=True):
        torch.testing.assert_close(got, torch.stack(students).mean(0), rtol=1e-13, atol=1e-13)


def test_a_teacher_is_a_copy_at_first_and_moves_every_so_many_steps() -> None:
    """Updates after steps 0, 2, 4, 6: copies up to step 3, then averages of momentum 0.5."""
    student = net().double()
    teacher = EMATeacher(student, momentum=0.5, copy_until=3, every=2)
    assert [teacher.momentum(Step(t, 8)) for t in range(7)] == [0, 1, 0, 1, 0.5, 1, 0.5]
    want = [parameter.detach().clone() for parameter in student.parameters()]
    for index in range(7):
        nudge(student, 1.0)
        teacher.follow(student, Step(index, 8))
        theirs = [parameter.detach().clone() for parameter in student.parameters()]
        if index in (0, 2):
            want = theirs
        elif index in (4, 6):
            want = [(mine + other) / 2 for mine, other in zip(want, theirs, strict=True)]
        for got, expected in zip(teacher.parameters(), want, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("rule", "share"), [("copy", 1.0), ("average", 0.25), ("keep", 0.0)])
def test_buffers_follow_their_rule(rule: Any, share: float) -> None:
    student = net()
    teacher = EMATeacher(student, momentum=0.75, buffers=rule)
    before = teacher.module[1].running_mean.clone()  # type: ignore[index]
    student(torch.randn(16, 3) + 5)
    teacher.follow(student, Step())
    mine, theirs = teacher.module[1], student[1]  # type: ignore[index]
    torch.testing.assert_close(mine.running_mean, torch.lerp(before, theirs.running_mean, share))
    assert mine.num_batches_tracked == (0 if rule == "keep" else 1)


@pytest.mark.parametrize(("momentum", "moves"), [(1.0, False), (0.0, True)])
def test_the_ends_of_momentum_are_exact(momentum: float, moves: bool) -> None:
    student = net()
    teacher = EMATeacher(student, momentum=momentum)
    before = [parameter.clone() for parameter in teacher.parameters()]
    nudge(student, 1.0)
    teacher.follow(student, Step())
    want = list(student.parameters()) if moves else before
    assert all(torch.equal(got, w) for got, w in zip(teacher.parameters(), want, strict=True))


def test_buffers_are_copied() -> None:
    student = net()
    teacher = EMATeacher(student, momentum=0.5)
    student(torch.randn(16, 3) + 5)  # moves the running statistics
    teacher.follow(student, Step())
    mine, theirs = dict(teacher.module.named_buffers()), dict(student.named_buffers())
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert mine["1.running_mean"].data_ptr() != theirs["1.running_mean"].data_ptr()


def test_the_student_is_no_part_of_the_teacher_and_the_teacher_travels_in_checkpoints() -> None:
    student = net()
    teacher = EMATeacher(student)
    assert {name.removeprefix("module.") for name in teacher.state_dict()} == set(student.state_dict())
    nudge(student, 1.0)
    assert not torch.equal(next(teacher.parameters()), next(student.parameters()))


def test_another_network_cannot_be_followed() -> None:
    with pytest.raises(ValueError, match="teacher has 6 parameters, the student 2"):
        EMATeacher(net()).follow(nn.Linear(3, 4), Step())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.1}, r"\[0, 1\]"),
        ({"final": -0.1}, r"\[0, 1\]"),
        ({"curve": "square"}, "curve='square'"),
        ({"rise": 0.0}, r"\(0, 1\], got 0.0"),
        ({"every": 0}, "every 1 or more, got 0 and 0"),
        ({"copy_until": -1}, "copy_until must be 0 or more"),
        ({"buffers": "move"}, "buffers='move'"),
    ],
)
def test_impossible_options_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        EMATeacher(net(), **options)


# ---------------------------------------------------------------------- what is to be learned


def test_instance_norm_is_over_real_tokens_alone() -> None:
    x, valid = torch.randn(3, 9, 4), torch.arange(9) < torch.tensor([[9], [5], [1]])
    dirty = torch.where(valid[..., None], x, torch.nan)
    found = normalise(dirty, "instance", valid)
    for row, n in enumerate((9, 5)):
        one = x[row, :n]
        expected = (one - one.mean(0)) / (one.var(0, unbiased=False) + 1e-5).sqrt()
        torch.testing.assert_close(found[row, :n], expected)
    assert not found[~valid].any() and not found[2].any()
    library = nn.functional.instance_norm(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(normalise(x, "instance"), library)


def test_other_norms_are_over_features_or_none_in_float32() -> None:
    x = torch.randn(2, 5, 8).bfloat16()
    found = normalise(x, "layer")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.mean(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.var(-1, unbiased=False), torch.ones(2, 5), atol=1e-3, rtol=0)
    assert torch.equal(normalise(x, "none"), x.float())


def test_modules_keep_what_they_return_until_it_is_asked_for_and_copies_keep_their_own() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    record((network[0], network[2]))
    other = copy.deepcopy(network)
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    network(x), other(y)
    first, last = recorded((network[0], network[2]))
    assert torch.equal(first, network[0](x)) and torch.equal(last, network(x))
    assert torch.equal(recorded((other[2],))[0], other(y))
    recorded((network[0], network[2]))
    with pytest.raises(KeyError):
        recorded((network[0],))
    assert network.state_dict().keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}
