"""Stops a run whose loss or gradient is no longer a number, and says where that came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from polymask.checkpoints import write_tensors
from polymask.errors import UserError
from polymask.files import write_json
from polymask.protocols import Batch
from polymask.step import Step
from polymask.training.module import NEVER, Training


class Diverged(UserError):
    """A loss, gradient or weight was not finite at a step."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class FiniteCheck(pl.Callback):
    """Looks whether everything is finite: at every step on a CPU, else whenever a row is written.

    The weights are those before the failing step, as the optimiser has left out all steps since,
    and batches can be read again by their step; so the failure is computed once more, slowly.

    Args:
        folder: where to put what is found.
        every: steps between looks where a look would make the host wait for the device.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: Training, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if module.stepped and (module.device.type == "cpu" or trainer.global_step % self.every == 0):
            self.check(trainer, module)

    def check(self, trainer: pl.Trainer, module: Training, weights: bool = False) -> None:
        """Raise :class:`Diverged` if anything was not finite, with ``weights`` each weight too."""
        failed = module.failed_at
        if weights:
            broken = [p for p in module.system.parameters() if not p.isfinite().all()]
            if broken:
                failed = torch.clamp(failed, max=module.step.index)
        step = int(trainer.strategy.reduce(failed, reduce_op="min"))
        if step == NEVER:
            return
        findings = [self._examine(trainer, module, step, part) for part in _parts(module)]
        where = self.folder / f"step-{step}"
        worst = next((f for f in findings if f["cause"] != NOTHING), findings[0])
        write_json(where / f"report-{module.global_rank}.json", findings)
        terms = ", ".join(f"{name} = {value}" for name, value in worst["terms"].items())
        raise Diverged(
            f"stopped at step {step}, where numbers are no longer finite: {terms}; {worst['cause']}. "
            f"The last good checkpoint is kept; the batch and a report are in {where}. "
            "A new run with a lower --base_lr, with --clip 1 or with --precision 32 may help",
            step,
        )

    def _examine(self, trainer: pl.Trainer, module: Training, index: int, part: int) -> dict[str, Any]:
        """Compute one part of a failed step again and look at everything on the way."""
        assert module.loader is not None
        batch = module.loader.again(index, part)
        where = self.folder / f"step-{index}"
        write_tensors(where / f"batch-{module.global_rank}-{part}.pt", batch)
        step = Step(index, module.plan.total, module.plan.options.seed)
        system = module.system
        system.zero_grad()
        moved = trainer.strategy.batch_to_device(batch)
        found = _Trace(system)
        eager = torch.compiler.set_stance("force_eager")  # hooks do not run within what is compiled
        with found, eager, trainer.precision_plugin.forward_context():
            terms = module.losses(moved, step, part)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        return {
            "step": index,
            "part": part,
            "terms": {name: str(float(term.detach())) for name, term in terms.items()},
            "cause": _cause(system, batch, found.first, terms),
            "samples": batch["id"].tolist(),
            "batch": {name: _statistics(value) for name, value in batch.items()},
        }


NOTHING = "computed again, everything is finite"


def _cause(system: nn.Module, batch: Batch, module: str, terms: Mapping[str, Tensor]) -> str:
    """What first went wrong, in the order of the computation."""
    weights = [name for name, p in system.named_parameters() if not _finite([p])]
    if weights:
        return f"the weights themselves are not finite, first {weights[0]}"
    for name, value in batch.items():
        if not _finite([value]):
            samples = batch["id"][~value.flatten(1).isfinite().all(1)].tolist()
            return f"the data is not: {name!r} of samples {samples[:8]}"
    if module:
        return f"the first output that is not finite is that of {module}"
    if not _finite(terms.values()):
        return "every module's output is finite, so the loss itself is at fault"
    gradients = [
        name for name, p in system.named_parameters() if p.grad is not None and not _finite([p.grad])
    ]
    if gradients:
        # backward runs from the last to the first, so the failure began at the last
        return f"the loss is finite, the gradient is not, from {gradients[-1]} backwards"
    return NOTHING


class _Trace:
    """Notes the first module, by time, with an output that is not finite; ``first`` is its name."""

    def __init__(self, system: nn.Module) -> None:
        self.system, self.first = system, ""
        self._handles: list[Any] = []

    def __enter__(self) -> _Trace:
        for name, module in self.system.named_modules():
            self._handles.append(module.register_forward_hook(self._hook(name)))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str) -> Any:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            if name and not self.first and not _finite(_tensors(output)):
                given = "" if _finite(_tensors(inputs)) else ", whose input was not finite either"
                self.first = f"{name} ({type(module).__name__}){given}"

        return look


def _parts(module: Training) -> range:
    return range(module.plan.options.accumulate)


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "__dataclass_fields__"):
        yield from _tensors(list(vars(value).values()))


def _finite(values: Iterable[Tensor]) -> bool:
    return all(bool(value.isfinite().all()) for value in values)


def _statistics(value: Tensor) -> dict[str, Any]:
    x = value.float()
    return {
        "shape": list(value.shape),
        "dtype": str(value.dtype).removeprefix("torch."),
        "finite": _finite([value]),
        "min": str(float(x.min())),
        "max": str(float(x.max())),
    }
