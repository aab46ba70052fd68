from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch

from polymask import UserError
from polymask.run import Run
from polymask.training import fit


def weights(system):
    return torch.cat([p.detach().flatten() for p in system.parameters()])


def test_parts_add_up_to_one_large_batch(toy, tmp_path):
    """Gradients of the parts are averaged: after one step, weights as from the whole batch."""
    whole = toy.train(tmp_path / "1", system=toy.Toy(drop=0.0), steps=1, clip=0.1, warmup_steps=0)
    parts = toy.train(
        tmp_path / "4", system=toy.Toy(drop=0.0), steps=1, clip=0.1, warmup_steps=0, accumulate=4
    )
    torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=1e-6)
    assert not torch.equal(weights(parts), weights(toy.Toy(drop=0.0)))


def spy(toy):
    class Spy(toy.Toy):
        def __init__(self):
            super().__init__(drop=0.0)
            self.calls = []

        def forward(self, batch, step):
            self.calls.append(("forward", step.index, step.total, step.seed))
            return super().forward(batch, step)

        def after_backward(self, step):
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None])
            self.calls.append(("after_backward", step.index, float(norm)))

        def after_step(self, step):
            self.calls.append(("after_step", step.index, weights(self)))
            super().after_step(step)

    return Spy()


def test_hooks_come_once_per_step_and_in_order(toy, tmp_path):
    system = spy(toy)
    toy.train(tmp_path, system=system, steps=3, accumulate=2, seed=7, clip=1e-3)
    expected = [
        (name, step) for step in range(3) for name in ("forward", "forward", "after_backward", "after_step")
    ]
    assert [call[:2] for call in system.calls] == expected
    assert system.calls[0][2:] == (3, 7)
    # gradients are whole there, and not yet clipped
    assert all(call[2] > 0.1 for call in system.calls if call[0] == "after_backward")
    moved = [call[2] for call in system.calls if call[0] == "after_step"]
    assert not torch.equal(moved[0], moved[1])


def test_after_step_sees_moved_weights(toy, tmp_path):
    system = spy(toy)
    before = weights(system)
    toy.train(tmp_path, system=system, steps=1, warmup_steps=0)
    after = next(call[2] for call in system.calls if call[0] == "after_step")
    assert not torch.equal(before[: after.numel()], after)
    # and nothing moved student weights afterwards: the teacher alone follows
    student = {name: p for name, p in system.named_parameters() if "teacher" not in name}
    assert student
    rule = torch.lerp(toy.Toy(drop=0.0).embed.weight, system.embed.weight, 1 - 0.9)
    torch.testing.assert_close(system.teacher.module.weight, rule)


def test_clipping_bounds_the_gradient(toy, tmp_path):
    class Norms(pl.Callback):
        def __init__(self):
            self.before, self.after = [], []

        def on_before_zero_grad(self, trainer, module, optimizer):
            grads = [p.grad for p in module.system.parameters() if p.grad is not None]
            if grads:
                self.before.append(float(module.grad_norm))
                self.after.append(float(torch.nn.utils.get_total_norm(grads)))

    for clip in (0.05, None):
        norms = Norms()
        toy.train(tmp_path / str(clip), steps=3, clip=clip, callbacks=[norms])
        for before, after in zip(norms.before, norms.after, strict=True):
            assert before > 0.05
            assert after == pytest.approx(clip or before, rel=1e-4)


def test_learning_rate_of_every_step(toy, tmp_path):
    class Rates(pl.Callback):
        def __init__(self):
            self.rates = []

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if module.stepped:
                self.rates.append({group["lr"] for group in module.optimiser.param_groups})
                self.plan = module.plan

    rates = Rates()
    toy.train(tmp_path, steps=6, accumulate=2, warmup_steps=2, callbacks=[rates])
    assert rates.rates == [{rates.plan.lr(step)} for step in range(6)]


def test_a_system_scales_rates_and_weighs_samples_over_the_run(toy, tmp_path):
    class Curriculum(toy.Toy):
        def parameter_groups(self):
            return [{"params": self.head.parameters(), "lr_scale": lambda step: 0.1 * step.index}]

        def sample_weights(self, step):
            return (torch.arange(50) < (20 if step.index < 3 else 50)).float()

    class Watch(pl.Callback):
        ratios, ids = [], []

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            rates = [group["lr"] for group in module.optimiser.param_groups]
            self.ratios.append(rates[-1] / rates[0])
            self.ids.append(batch["id"])

    system, watch = Curriculum(), Watch()
    head = system.head.weight.detach().clone()
    toy.train(tmp_path, system=system, steps=6, warmup_steps=0, schedule="constant", callbacks=[watch])
    assert watch.ratios == pytest.approx([0.1 * i for i in range(6)])
    assert [int(ids.max()) < 20 for ids in watch.ids] == [True] * 3 + [False] * 3
    assert not torch.equal(system.head.weight, head)


def test_dropout_depends_on_seed_and_step_alone(toy, tmp_path):
    torch.manual_seed(1)
    one = toy.train(tmp_path / "1", data=toy.Data(augment=False))
    torch.manual_seed(2)
    two = toy.train(tmp_path / "2", data=toy.Data(augment=False))
    other = toy.train(tmp_path / "3", data=toy.Data(augment=False), seed=1)
    assert torch.equal(weights(one), weights(two))
    assert not torch.equal(weights(one), weights(other))


WRONG = {
    "none": (lambda losses: {}, "forward returned dict, not losses by name"),
    "vectors": (
        lambda losses: {name: loss.expand(3) for name, loss in losses.items()},
        r"the loss 'reconstruction' is of shape \[3\], not a scalar tensor",
    ),
    "one": (lambda losses: {"a": losses["latent"].expand(1)}, r"the loss 'a' is of shape \[1\], not"),
    "complex": (lambda losses: {"a": losses["latent"] * 1j}, r"the loss 'a' is complex of shape \[\], not"),
    "constant": (lambda losses: {n: x.detach() for n, x in losses.items()}, "no loss has a gradient"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("step", [0, 2])
def test_what_is_no_loss_is_refused_at_any_step(toy, tmp_path, case, step):
    change, said = WRONG[case]

    class Changed(toy.Toy):
        def forward(self, batch, now):
            losses = super().forward(batch, now)
            return change(losses) if now.index == step else losses

    with pytest.raises(UserError, match=f"^step {step}: {said}.*; mend Changed") as caught:
        toy.train(tmp_path, system=Changed(), steps=4, checkpoint_every=1)
    assert caught.value.__notes__[0].startswith(f"step {step} of 4 is saved")
    assert "lost" not in caught.value.__notes__[0]


@pytest.mark.parametrize("where", ["forward", "after_backward", "after_step", "data", "callback"])
def test_a_part_that_raises_stop_iteration_does_not_end_training_as_done(toy, tmp_path, where):
    def late(step):
        return next(iter([])) if step == 2 else None

    class System(toy.Toy):
        def forward(self, batch, step):
            late(step.index if where == "forward" else 0)
            return super().forward(batch, step)

        def after_backward(self, step):
            late(step.index if where == "after_backward" else 0)

        def after_step(self, step):
            super().after_step(step)
            late(step.index if where == "after_step" else 0)

    class Split(toy.Split):
        read = 0

        def __getitem__(self, index):
            self.read += 1
            late(self.read / 16 if where == "data" else 0)
            return super().__getitem__(index)

    class Data(toy.Data):
        def split(self, name, *, augment=False):
            return Split(self.x, augment) if augment else super().split(name)

    class Callback(pl.Callback):
        def on_train_batch_start(self, trainer, *args):
            late(trainer.global_step if where == "callback" else 0)

    said = (
        "training ended at step 2 of 6, saved"
        if where == "callback"
        else r"test_module.py, line \d+, in late"
    )
    with pytest.raises(UserError, match=said):
        toy.train(tmp_path, system=System(), data=Data(), steps=6, checkpoint_every=1, callbacks=[Callback()])


@pytest.mark.parametrize(
    "wrong", [{"strategy": "nope"}, {"accelerator": "abacus"}, {"devices": "many"}, {"devices": 0}]
)
def test_impossible_combination_for_lightning(toy, tmp_path, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(UserError, match=f"Lightning cannot train with .*--{name} {value}"):
        fit(Run(tmp_path, toy.Toy(), toy.Data(), toy.options(**wrong)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("strategy", ["auto", "ddp"])
def test_several_machines_need_a_launcher(toy, tmp_path, strategy):
    with pytest.raises(UserError, match="^--nodes 2: no launcher started this process"):
        fit(Run(tmp_path, toy.Toy(), toy.Data(), toy.options(nodes=2, strategy=strategy)))
    assert not list(tmp_path.iterdir())


def test_a_run_folder_holds_what_it_should(toy, tmp_path):
    toy.train(tmp_path, steps=2)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["checkpoints/last.ckpt", "config.yaml", "environment.json", "metrics.csv"]
