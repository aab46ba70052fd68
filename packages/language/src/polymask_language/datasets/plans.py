"""The data set of plans: what was to be done, in which steps, and what was seen before and after."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from polymask import Tokens, UserError
from polymask.data import FileDataset, Skipped, Split, Splits, class_names, class_numbers, divide, whole
from polymask.types import Count, NotNegative, Share
from polymask_language.datasets.lines import read_lines
from polymask_language.drawing import draw_text

Array = npt.NDArray[Any]


class Plans:
    """Plans in memory.

    Args:
        names: of the plans, by which they are divided.
        actions: names of the steps that there are.
        steps: int64 ``[n, T]``, numbers of the steps of each.
        seen: float32 ``[n, 2, O]``, what was seen before and after.
    """

    def __init__(self, names: Sequence[str], actions: Sequence[str], steps: Array, seen: Array) -> None:
        self.names, self.actions = list(names), list(actions)
        self.steps, self.seen = torch.from_numpy(steps), torch.from_numpy(seen)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]


class PlanDataset(FileDataset[Plans]):
    """Plans as samples ``{"plan": int64 [T], "observation": float32 [2, O]}``; the class is the task.

    The fact ``allowed`` holds, for each task, the steps that occur in its training plans.

    Args:
        found: what the reader found.
        limit: maximum number of plans per split.
    """

    key, what = "plan", "plans"

    def __init__(self, found: Splits[Plans], /, *, limit: Count | None = None) -> None:
        super().__init__(found, limit=limit)
        train = self.splits["train"]
        source, labels = train.source, train.labels
        assert labels is not None and found.classes is not None
        self.actions = source.actions
        steps = source.steps[train.index]
        self.provides: dict[str, Any] = {
            "horizon": source.steps.shape[1],
            "actions": len(source.actions),
            "observation": source.seen.shape[2],
            "allowed": tuple(
                tuple(sorted(set(steps[labels == task].flatten().tolist())))
                for task in range(len(found.classes))
            ),
            "samples": len(train),
        }

    def read(self, source: Plans, number: int, augment: bool) -> dict[str, Tensor]:
        return {"plan": source.steps[number], "observation": source.seen[number]}

    def describe(self) -> dict[str, str]:
        """Steps and tasks, and how much a task tells of its steps."""
        allowed, count = self.provides["allowed"], len(self.actions)
        test = self.splits["test"]
        labels = [] if test.labels is None else test.labels.tolist()
        rows = test.source.steps[test.index].tolist()
        kept = [set(steps) for steps in allowed]
        foreign = [s not in kept[task] for task, row in zip(labels, rows, strict=True) for s in row]
        share = np.mean([len(steps) for steps in allowed]) / count
        lines = {
            "steps": f"{self.provides['horizon']} of {count:,}",
            "tasks": f"{len(allowed)}, each with {share:.1%} of the steps",
        }
        if foreign:
            lines["held-out steps that their task lacks"] = f"{np.mean(foreign):.1%}"
        return lines

    def render(
        self, sample: Mapping[str, Tensor], tokens: Tokens | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        """The steps as a picture of text ``[3, H, W]``, hidden ones in colour, a line for each."""
        steps = sample["plan"].tolist()
        names = [f"{k + 1} {self.actions[step]}" for k, step in enumerate(steps)]
        return draw_text(names, torch.arange(len(names)), hidden)

    def descriptor(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What is seen before and after, ``[B, 2 O]``."""
        return batch["observation"].float().flatten(1)


def splits_of(
    tasks: Sequence[str],
    plans: Sequence[Sequence[str]],
    seen: Array,
    names: Sequence[str],
    test: float,
    skipped: Skipped,
) -> Splits[Plans]:
    """Plans divided by their names, each task on its own."""
    classes = class_names(tasks)
    actions = sorted({step for plan in plans for step in plan})
    number = {step: k for k, step in enumerate(actions)}
    steps = np.array([[number[step] for step in plan] for plan in plans])
    found = Plans(names, actions, steps, seen.astype(np.float32))
    train, held = divide(whole(found, class_numbers(tasks, classes)), test)
    return Splits(train=train, test=held, classes=classes, skipped=skipped)


def json_plans(*, source: str, test: Share = 0.3) -> Splits[Plans]:
    """Plans of a jsonl file, an object to a line, UTF-8.

    Each has ``task``, a text, ``actions``, a list of texts, and ``start`` and ``goal``, lists of numbers:
    what was seen before and after. All plans have as many steps, and see as many numbers, as the first; lines
    that do not are skipped and listed.

    Args:
        source: the file (``json-plans:PATH``).
        test: share of the plans of each task to hold out.

    Raises:
        UserError: there is no such file, or no plan in it.
    """
    skipped: Skipped = []
    rows = list[tuple[str, list[str], list[list[float]]]]()
    for number, line in read_lines(source, "json-plans", skipped):
        if not line.strip():
            continue
        try:
            rows.append(_plan(json.loads(line), rows[0] if rows else None))
        except (ValueError, TypeError, RecursionError) as error:
            skipped.append((f"line {number}", str(error)))
    if not rows:
        first = f"; {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise UserError(f"json-plans: there is no plan in {source}{first}")
    tasks, plans, seen = zip(*rows, strict=True)
    names = [f"plan {k}: {task}" for k, task in enumerate(tasks)]
    return splits_of(tasks, plans, np.array(seen), names, test, skipped)


def _plan(found: Any, first: Any) -> tuple[str, list[str], list[list[float]]]:
    if not isinstance(found, dict) or (missing := [f for f in _FIELDS if f not in found]):
        raise ValueError(f"no field {missing[0]!r}" if isinstance(found, dict) else "no object")
    task, actions, start, goal = (found[field] for field in _FIELDS)
    if not isinstance(task, str) or not isinstance(actions, list) or not all(map(_is_text, actions)):
        raise ValueError("'task' must be a text and 'actions' a list of texts")
    seen = np.array([start, goal], dtype=np.float64)
    if len(actions) < 2 or seen.ndim != 2 or not seen.size or not np.isfinite(seen).all():
        raise ValueError("needs 2 actions or more, and 'start' and 'goal' of as many finite numbers")
    if first is not None and (len(actions), seen.shape[1]) != (len(first[1]), len(first[2][0])):
        raise ValueError(
            f"{len(actions)} actions and {seen.shape[1]} numbers, the first plan has {len(first[1])} and "
            f"{len(first[2][0])}"
        )
    return task, actions, seen.tolist()


_FIELDS = ("task", "actions", "start", "goal")


def _is_text(x: Any) -> bool:
    return isinstance(x, str) and bool(x)


def example_source(folder: Path) -> str:
    """Twenty plans of two tasks."""
    path = folder / "plans.jsonl"
    rows = [
        {
            "task": ("tea", "coffee")[i % 2],
            "actions": ["boil", ("steep", "press")[i % 2], ("pour", "stir")[i // 2 % 2]],
            "start": [i % 2, 0.5],
            "goal": [i % 2, i // 2 % 2],
        }
        for i in range(20)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def made_up_plans(
    *,
    tasks: Count = 12,
    actions: Count = 60,
    each: Count = 8,
    horizon: Count = 3,
    observation: Count = 16,
    noise: NotNegative = 0.5,
    plans: Count = 2400,
    test_plans: Count = 600,
) -> Splits[Plans]:
    """Plans that are made up: synthetic, for trials and tests without a network.

    Each task has steps of its own, some of them shared with others, and chances of what follows what. What is
    seen before and after are random features of the first and of the last step and of the task, with noise.

    Args:
        tasks: how many.
        actions: steps that there are.
        each: steps of a task.
        horizon: steps of a plan.
        observation: numbers that are seen.
        noise: standard deviation of what is added to them.
        plans: to train on.
        test_plans: to hold out.

    Raises:
        UserError: a task has more steps than there are, or a plan fewer than two.
    """
    if each > actions or horizon < 2:
        raise UserError(f"made-up plans: {each} steps of {actions} for a task, and plans of {horizon}")
    random = np.random.default_rng(0)
    own = np.stack([random.choice(actions, each, replace=False) for _ in range(tasks)])
    follows = random.dirichlet(np.full(each, 0.3), (tasks, each)).cumsum(-1)
    looks, scene = (
        random.standard_normal((actions, observation)),
        random.standard_normal((tasks, observation)),
    )
    count = plans + test_plans
    task, place = random.integers(tasks, size=count), random.integers(each, size=count)
    steps = [own[task, place]]
    for _ in range(horizon - 1):
        place = (random.random((count, 1)) > follows[task, place]).sum(1).clip(max=each - 1)
        steps.append(own[task, place])
    row = np.stack(steps, axis=1)
    seen = looks[row[:, [0, -1]]] + scene[task][:, None]
    seen = seen + noise * random.standard_normal(seen.shape)
    names = [f"plan {k}" for k in range(count)]
    found = Plans(names, [f"step {a}" for a in range(actions)], row, seen.astype(np.float32))
    index, labels = torch.arange(count), torch.from_numpy(task)
    train = index < plans
    return Splits(
        train=Split(found, index[train], labels[train]),
        test=Split(found, index[~train], labels[~train]),
        classes=[f"task {k}" for k in range(tasks)],
    )
