"""A system as Lightning wants it: one adapter, whatever the system."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from polymask import distributed
from polymask.data import collate
from polymask.errors import UserError
from polymask.loss_reduction import Mean, counting
from polymask.protocols import Batch
from polymask.step import Step
from polymask.systems.base import System
from polymask.training.late_mean import LateMean, alone
from polymask.training.loader import Keyed, Loader, workers_for
from polymask.training.losses import wrong_losses
from polymask.training.optimiser import make_optimiser
from polymask.training.order import Batches, mix
from polymask.training.plan import Plan
from polymask.training.sanity_check import few
from polymask.training.stop_iteration import ends_nothing

NEVER = torch.iinfo(torch.int64).max
"""``failed_at`` while nothing has failed."""


class Training(pl.LightningModule):
    """Trains a system by a plan.

    Everything random is seeded anew for each part of each step, so the whole state of a run is
    its weights, its optimiser and the number of steps done.

    Args:
        system: to be trained, in place.
        dataset: samples to train on.
        plan: of the run.

    Attributes:
        terms: weighted losses of the last part, by name, detached.
        loss: their sum.
        grad_norm: norm of the gradient of the last step, before clipping.
        stepped: whether the last part completed an optimiser step.
        failed_at: int64 scalar on the device, the first step with a loss or gradient that is not
            finite. From a gradient that is not finite on, the optimiser leaves the weights alone.
    """

    def __init__(self, system: System, dataset: Keyed, plan: Plan) -> None:
        super().__init__()
        self.system, self.dataset, self.plan = system, dataset, plan
        self.terms: dict[str, Tensor] = {}
        self.loss = torch.zeros(())
        self.grad_norm = torch.zeros(())
        self.failed_at = torch.tensor(NEVER)
        self.stepped = False
        self.step = Step()
        for name in system.unused:  # processes would wait for their gradients, and none come
            system.get_parameter(name).requires_grad_(False)
        self.loader: Loader | None = None
        self._scored = torch.zeros(0)
        self._late: LateMean | None = None

    # ------------------------------------------------------------------ what Lightning asks for

    def configure_model(self) -> None:
        if self.device_mesh is not None:
            from polymask.training.sharding import reached_into, shard

            shard(self.system, self.device_mesh, whole=reached_into(self.system, self._try))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        self.optimiser, self.scales = make_optimiser(self.system, self.plan.options, self.plan.lr(0))
        return self.optimiser

    def train_dataloader(self) -> Loader:
        workers = self.plan.options.workers
        if workers is None:
            workers = workers_for(self.dataset, self.trainer.num_devices)
        weights = self.system.sample_weights
        batches = Batches(
            self.plan, self.global_rank, self.trainer.global_step, weights, self.dataset.lengths
        )
        self.loader = Loader(self.dataset, batches, workers, pin=self.device.type == "cuda")
        return self.loader

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Lightning's own progress through its epochs is not wanted: the step says it all
        checkpoint.pop("loops", None)
        epoch = self.trainer.fit_loop.epoch_loop
        epoch.automatic_optimization.optim_progress.optimizer.step.total.completed = checkpoint["global_step"]
        epoch._batches_that_stepped = checkpoint["global_step"]

    def on_fit_start(self) -> None:
        self.failed_at = self.failed_at.to(self.device)

    @ends_nothing
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        options = self.plan.options
        self.stepped = False
        self.step = self._now()
        assert self.loader is not None
        # the pieces' losses are averaged, so one of more samples weighs more
        weight = len(batch["id"]) * self.plan.pieces / self.loader.batches.rows(self.step.index)
        part = batch_idx % options.accumulate
        terms = self._counted(batch, part, weight)
        if self._late is None and weight != 1:
            terms = {name: weight * term for name, term in terms.items()}
        loss = torch.stack(list(terms.values())).sum()
        self.terms = {name: term.detach() for name, term in terms.items()}
        self.loss = loss.detach()
        if self._late is not None:
            total = self._total(self._late.count) if part == options.accumulate - 1 else None
            self.loss = self._late.logged(self.loss, total)
            self.terms = dict.fromkeys(terms, self.loss)
        self._watch(self.loss)
        return loss

    @ends_nothing
    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self._late is not None:
            self._late.correct(self.system.parameters())
        self.system.after_backward(self.step)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        options = self.plan.options
        parameters = [p for p in self.system.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if hasattr(norm, "full_tensor"):  # of sharded gradients
            norm = norm.full_tensor()
        if options.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, options.clip, norm)
        self.grad_norm = norm
        if options.precision == "16-mixed":
            return
        self._watch(norm)
        # where a gradient scaler puts it: the fused kernel then leaves the weights alone
        failed = (self.failed_at != NEVER).float()
        self.optimiser.found_inf = failed  # type: ignore[attr-defined]

    @ends_nothing
    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        step = self._now()
        for group, scale in zip(self.optimiser.param_groups, self.scales, strict=True):
            group["lr"] = self.plan.lr(step.index) * (scale(step) if callable(scale) else scale)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.system.after_step(self.step)
        self.stepped = True
        self._require_alike(step.index + 1)

    # ------------------------------------------------------------------ ours

    def _try(self) -> None:
        """Run the system on a few samples, as the first and the last step and the monitors do."""
        count = few(self.system, self.dataset.samples)
        batch = collate([self.dataset[0, sample] for sample in range(count)])
        for index in (0, self.plan.total - 1):
            self.losses(batch, Step(index, self.plan.total, self.plan.options.seed), 0)
        with torch.no_grad():
            self.system.encode(batch)

    def _counted(self, batch: Batch, part: int, weight: float) -> dict[str, Tensor]:
        """Losses of one part, in which means over masks divide by what the whole step scores.

        Where parts follow one another, what the later ones score has to be known before the first, unless the
        loss is one such mean and nothing else: the rest runs ahead without gradient, and the first again.
        """
        pieces, accumulate = self.plan.pieces, self.plan.options.accumulate
        share = weight / pieces
        if pieces == 1:
            return self.losses(batch, self.step, part)
        if accumulate == 1:
            with counting(lambda number, count: self._total(count) * share):
                return self.losses(batch, self.step, part)
        if part == 0:
            buffers = [buffer.clone() for buffer in self.system.buffers()]
            with counting() as means:
                terms = self.losses(batch, self.step, part)
            self._scored, self._late = torch.zeros(0), None
            if not means:
                return terms
            if alone(terms, means):
                unit = self._total(means[0].count) * accumulate / pieces
                self._late = LateMean(unit, pieces)
                return self._late.add(terms, means)
            self._scored = self._total(self._ahead(means, buffers))
        if self._late is not None:
            with counting() as means:
                terms = self.losses(batch, self.step, part)
            return self._late.add(terms, means)
        scored = self._scored.unbind()
        with counting(lambda number, count: scored[number] * share if scored else count):
            return self.losses(batch, self.step, part)

    @torch.no_grad()
    def _ahead(self, first: list[Mean], buffers: list[Tensor]) -> Tensor:
        """What this process's parts of the step score, by mean; buffers are left as they were."""
        assert self.loader is not None
        found = torch.stack([mean.count for mean in first])
        for part, batch in enumerate(self.loader.parts[1:], start=1):
            with counting() as means:
                self.losses(self.trainer.strategy.batch_to_device(batch), self.step, part)
            found += torch.stack([mean.count for mean in means])
        for buffer, before in zip(self.system.buffers(), buffers, strict=True):
            buffer.copy_(before)
        return found

    def _total(self, count: Tensor) -> Tensor:
        """A count summed over processes."""
        total: Tensor = self.trainer.strategy.reduce(count.clone(), reduce_op="sum")
        return total

    def losses(self, batch: Batch, step: Step, part: int) -> dict[str, Tensor]:
        """Losses of one part of a step, with dropout and the like seeded for it.

        Raises:
            UserError: the system returned something else.
        """
        seed = mix(self.plan.options.seed, step.index, part, self.global_rank)
        # torch.manual_seed would visit every kind of device, at a hundred times the cost
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            getattr(torch, self.device.type).manual_seed(seed)
        terms: dict[str, Tensor] = self.system(batch, step)
        if wrong := wrong_losses(terms):  # the sanity check has seen those of the first step alone
            raise UserError(f"step {step.index}: {wrong}; mend {type(self.system).__name__}, or a part of it")
        return terms

    def _require_alike(self, done: int) -> None:
        """Stop where processes drift apart: DDP would go on with what rank 0 has, and lose the rest."""
        if done & (done - 1) == 0:  # steps 1, 2, 4, 8, ...: it costs a pass
            name = distributed.differing(self.system)
            if name:
                raise UserError(
                    f"{name} of {type(self.system).__name__} differs between processes after step {done}: "
                    f"each has a part of the batch. {distributed.REMEDY}; or train on one device"
                )

    def _now(self) -> Step:
        return Step(self.trainer.global_step, self.plan.total, self.plan.options.seed)

    def _watch(self, value: Tensor) -> None:
        """Note the step if a value is not finite, without waiting for the device."""
        bad = torch.where(value.isfinite(), NEVER, self.step.index)
        self.failed_at = torch.minimum(self.failed_at, bad)
