"""Checks of systems, each built at its preset ``"tiny"`` on the example of its tokenizers.

Tags: ``moving-target`` (the loss need not fall on one batch: its targets learn too), ``relative``
(samples are scored against each other), ``fixed`` (the loss does not change with the step),
``more-masks`` (it shows masks beside those that its maskings draw).
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from unittest import mock

import torch
from torch import Tensor, nn

from polymask import distributed
from polymask.data import valid_of
from polymask.nn.teachers import EMATeacher
from polymask.step import Step
from polymask.testing.encoders import confirm_gradients
from polymask.testing.loop import FIRST, STEPS, built, loss, optimiser, restored, same, total, train
from polymask.testing.processes import PROCESSES, buffers_after, buffers_of_processes
from polymask.testing.subject import Subject, rows, seeded
from polymask.testing.suite import Skip, check, require


@check("systems")
def check_system_is_tiny(subject: Subject) -> None:
    """At its preset ``"tiny"`` it has fewer than a million parameters, so that it can be tried."""
    count = sum(p.numel() for p in subject.make().parameters())
    require(count < 1_000_000, f"has {count:,} parameters: give it a preset 'tiny' of width 32 and depth 2")


@check("systems")
def check_system_terms(subject: Subject) -> None:
    """``forward`` gives finite float32 scalars by name, the sum of which trains; ids may be absent."""
    system, batch = built(subject)
    terms = system(batch, FIRST)
    require(isinstance(terms, dict) and terms, f"forward returned {terms!r}, not losses by name")
    for name, term in terms.items():
        require(isinstance(term, Tensor) and term.shape == (), f"term {name!r} is not a scalar tensor")
        require(term.dtype == torch.float32, f"term {name!r} is {term.dtype}, not float32")
        require(term.isfinite(), f"term {name!r} is {term.item()}")
    require(any(term.requires_grad for term in terms.values()), "no term carries gradient")
    system({key: value for key, value in batch.items() if key != "id"}, FIRST)


@check("systems")
def check_system_forward_without_grad(subject: Subject) -> None:
    """``forward`` runs where gradients are disabled, in evaluation mode, and gives finite terms."""
    system, batch = built(subject)
    system.eval()
    try:
        with torch.no_grad():
            terms = system(batch, FIRST)
    except RuntimeError as error:
        require(False, f"forward fails without gradients, differentiate under torch.enable_grad(): {error}")
    require(all(term.isfinite() for term in terms.values()), "a term is not finite without gradients")


@check("systems")
def check_system_trains_every_parameter(subject: Subject) -> None:
    """Every trainable parameter gets gradient, except exactly those named in ``unused``."""
    system, batch = built(subject)
    torch.autograd.backward(total(system, batch))
    system.after_backward(FIRST)
    confirm_gradients(system)


@check("systems", unless=("moving-target",))
def check_system_learns_a_batch(subject: Subject) -> None:
    """The loss on one batch falls within 30 steps."""
    system, batch = built(subject, 8)
    steps = [Step(index, STEPS, 0) for index in (0, 10, 20)]
    before = sum(float(loss(system, batch, step)) for step in steps)
    train(system, batch, optimiser(system), 0, STEPS)
    after = sum(float(loss(system, batch, step)) for step in steps)
    require(
        after < before,
        f"the loss went from {before / 3:.4f} to {after / 3:.4f} in {STEPS} steps on one batch",
    )


@check("systems")
def check_system_leaves_frozen_parts(subject: Subject) -> None:
    """A step moves what trains; frozen modules stay bit-equal, EMA teachers follow their rule once."""
    system, batch = built(subject)
    before = {id(x): x.detach().clone() for x in (*system.parameters(), *system.buffers())}
    optimizer = optimiser(system)
    torch.autograd.backward(total(system, batch))
    system.after_backward(FIRST)
    optimizer.step()
    ruled: dict[int, Tensor] = {}
    calls: list[EMATeacher] = []
    follow = EMATeacher.follow

    def spied(teacher: EMATeacher, student: nn.Module, step: Step) -> None:
        calls.append(teacher)
        rate = 1 - teacher.momentum(FIRST)
        for mine, theirs in zip(teacher.module.parameters(), student.parameters(), strict=True):
            ruled[id(mine)] = torch.lerp(before[id(mine)], theirs.detach(), rate)
        follow(teacher, student, step)

    with mock.patch.object(EMATeacher, "follow", spied):
        system.after_step(FIRST)
    for name, module in system.named_modules():
        if isinstance(module, EMATeacher):
            times = sum(call is module for call in calls)
            require(times == 1, f"after_step moves the teacher {name} {times} times, not once per step")
            moved = [n for n, p in module.module.named_parameters() if not torch.allclose(p, ruled[id(p)])]
            require(not moved, f"{name}.{moved and moved[0]} moved otherwise than by the rule of the teacher")
    for name, x in _frozen(system):
        still = torch.equal(x, before[id(x)])
        require(still, f"{name} is frozen and moved; teachers that move are an EMATeacher")
    moves = any(not torch.equal(p, before[id(p)]) for p in system.parameters() if p.requires_grad)
    require(moves, "an optimiser step moves nothing")


def _frozen(system: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters that do not train and buffers of modules that do not, outside EMA teachers."""
    teachers = [module for module in system.modules() if isinstance(module, EMATeacher)]
    moving = {id(x) for teacher in teachers for x in (*teacher.parameters(), *teacher.buffers())}
    for name, module in system.named_modules():
        trains = [p.requires_grad for p in module.parameters()]
        still = [(n, p) for n, p in module.named_parameters(name, recurse=False) if not p.requires_grad]
        if trains and not any(trains):
            still += module.named_buffers(name, recurse=False)
        yield from ((n, x) for n, x in still if id(x) not in moving)


@check("systems")
def check_system_shares_its_buffers(subject: Subject) -> None:
    """Buffers that a step changes end alike in one process and in two that share the batch."""
    samples = PROCESSES * max(2, built(subject)[0].least_batch)
    system, batch = built(subject, samples)
    before = {name: buffer.clone() for name, buffer in system.named_buffers()}
    after = buffers_after(system, batch)
    own = {name for name, _ in distributed.shared_tensors(system)}  # batch norms go by rank 0, as DDP does
    changed = [name for name in after if name in own and not torch.equal(after[name], before[name])]
    if not changed:
        return
    try:
        found = buffers_of_processes(built(subject)[0], batch)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise Skip(f"cannot be sent to another process: {error}") from error
    for name in changed:
        require(
            all(torch.allclose(each[name], after[name], rtol=1e-3, atol=1e-4) for each in found),
            f"{name} ends otherwise on {PROCESSES} processes than on one: each has a part of the batch. "
            f"{distributed.REMEDY}",
        )


@check("systems")
def check_system_is_a_function_of_the_step(subject: Subject) -> None:
    """The same step gives the same loss bit for bit; drawing one changes nothing that is kept."""
    system, batch = built(subject)
    first = loss(system, batch)
    loss(system, batch, Step(5, STEPS, 0))
    require(torch.equal(first, loss(system, batch)), "a second forward at the same step gives another loss")


@check("systems", unless=("fixed",))
def check_system_varies_with_the_step(subject: Subject) -> None:
    """Another step and another seed give another loss: masks are drawn afresh."""
    system, batch = built(subject)
    first = loss(system, batch)
    for what, step in {"step": Step(1, STEPS, 0), "seed": Step(0, STEPS, 1)}.items():
        require(not torch.equal(first, loss(system, batch, step)), f"another {what} gives the same loss")


@check("systems")
def check_system_saves_all_it_needs(subject: Subject) -> None:
    """The state dict, loaded into a system of other weights, reproduces the loss bit for bit."""
    system, batch = built(subject)
    train(system, batch, optimiser(system), 0, 2)
    fresh, _ = built(subject, seed=1)
    restored(fresh, system.state_dict())
    step = Step(2, STEPS, 0)
    one, other = loss(system, batch, step), loss(fresh, batch, step)
    require(
        torch.equal(one, other),
        f"the loss is {one:.6f}, after loading {other:.6f}: register buffers",
    )


@check("systems")
def check_system_resumes(subject: Subject) -> None:
    """Four steps, and two steps, a save, a load and two more, end in the same weights bit for bit."""
    whole, batch = built(subject)
    train(whole, batch, optimiser(whole), 0, 4)
    half, _ = built(subject)
    halfway = optimiser(half)
    train(half, batch, halfway, 0, 2)
    fresh, _ = built(subject, seed=1)
    optimizer = optimiser(fresh)
    restored(fresh, half.state_dict())
    restored(optimizer, halfway.state_dict())
    train(fresh, batch, optimizer, 2, 4)
    differs = same(whole, fresh)
    require(
        not differs,
        f"{differs} differs from that of the uninterrupted run: something is not in the state dict",
    )


@check("systems", unless=("relative",))
def check_system_loss_is_a_mean(subject: Subject) -> None:
    """A batch and the batch twice have one loss, and it lies between those of its halves."""
    system, batch = built(subject)
    system.eval()
    whole = loss(system, batch)
    twice = loss(system, {key: torch.cat([value, value]) for key, value in batch.items()})
    require(
        torch.allclose(whole, twice, rtol=1e-4),
        f"the loss is {whole:.6f}, of the batch twice {twice:.6f}",
    )
    halves = [loss(system, rows(batch, part)) for part in (slice(0, 2), slice(2, 4))]
    low, high = min(halves), max(halves)
    slack = 1e-4 * float(high.abs()) + 1e-6
    require(
        low - slack <= whole <= high + slack,
        f"the loss is {whole:.6f}, of its halves {halves[0]:.6f} and {halves[1]:.6f}",
    )
    padded = any(valid_of(batch, key) is not None for key in batch)  # longer samples count more
    if not padded and all(view.mask.count is not None for view in system.masks(batch, FIRST).values()):
        mean = (halves[0] + halves[1]) / 2
        require(
            torch.allclose(whole, mean, rtol=1e-3, atol=1e-6),
            f"the loss is {whole:.6f}, the mean of its halves {mean:.6f}: samples do not count alike",
        )


@check("systems")
def check_system_survives_autocast(subject: Subject) -> None:
    """Under bfloat16 autocast every term is float32, finite, and near the one in float32."""
    system, batch = built(subject)
    full = loss(system, batch)
    with seeded(0), torch.autocast("cpu", dtype=torch.bfloat16):
        terms = system(batch, FIRST)
    for name, term in terms.items():
        require(
            term.dtype == torch.float32 and term.isfinite(), f"term {name!r} is {term.dtype}, {term.item()}"
        )
    low = torch.stack([*terms.values()]).sum().detach()
    require(
        torch.allclose(full, low, rtol=0.1, atol=1e-2),
        f"the loss is {full:.4f}, in bfloat16 {low:.4f}",
    )
