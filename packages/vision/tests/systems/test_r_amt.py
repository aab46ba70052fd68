"""R-AMT learns which weights of a frozen classifier to switch off, and forgets less by its gate."""

from __future__ import annotations

import copy
import runpy
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from polymask import Batch, Run, RunConfig, Step, UserError, build
from polymask.export import export, load
from polymask.recipes import run_recipe
from polymask.systems.supervised import Supervised
from polymask.training import fit
from polymask.training.optimiser import parameter_groups
from polymask_vision.bases import fit_classifier
from polymask_vision.evaluations.retention import Retention
from polymask_vision.systems.r_amt import gate
from polymask_vision.weights import apply_masks

FACTS = {"size": (8, 8), "channels": 1, "classes": 10}
TINY = {"tokenizer.patch_size": 2, "encoder.dim": 32, "encoder.depth": 2, "encoder.heads": 2}
STEP = Step(6, 10, seed=1)
run_processes = runpy.run_path(str(Path(__file__).parents[3] / "core/tests/processes.py"))["run"]


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    return build("vision/r-amt", facts=FACTS, **{"base": "random", **TINY, **options})


def images(n: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 1, 8, 8, generator=generator)
    return {"image": x, "label": torch.arange(n) % 10, "id": torch.arange(n)}


def moved(system: Any, spread: float = 0.01) -> Any:
    """Numbers on both sides of the threshold."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for real in system.reals:
            real.add_(spread * torch.randn(real.shape, generator=generator))
    return system


def by_hand(system: Any, batch: Batch, hide: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits by functional_call, and the masked weights, which require gradient."""
    weights = {}
    for name, real in zip(system.names, system.reals, strict=True):
        weight = system.encoder.get_parameter(name)
        weights[name] = (weight * (real > 0.005) if hide else weight.clone()).detach().requires_grad_()
    tokens = system.tokenizer(batch)
    embedded = system.encoder.embed(tokens.values)
    out = functional_call(system.encoder, weights, (embedded, tokens.position, None))
    return system.head(out[:, system.encoder.prefix :].mean(1)), weights


# --------------------------------------------------------------------------------- the masked classifier


def test_it_starts_as_its_base_to_the_bit() -> None:
    system, batch = make().eval(), images()
    tokens = system.tokenizer(batch)
    assert torch.equal(system.classify(batch), system.answer(tokens, {}))
    assert system.monitor(batch, STEP)["hidden_weights"] == 0
    assert all(torch.equal(real, torch.full_like(real, 0.01)) for real in system.reals)


def test_weights_whose_number_falls_to_the_threshold_are_0_and_others_as_they_are() -> None:
    system, batch = moved(make()), images()
    torch.testing.assert_close(system.classify(batch), by_hand(system, batch)[0])
    hidden = torch.cat([(real <= 0.005).flatten() for real in system.reals]).float().mean()
    assert 0.2 < hidden < 0.4 and torch.equal(system.monitor(batch, STEP)["hidden_weights"], hidden)
    settled, weights = system.backbone, by_hand(system, batch)[1]
    assert all(torch.equal(settled.get_parameter(n), w) for n, w in weights.items())
    assert not any(torch.equal(system.encoder.get_parameter(n), w) for n, w in weights.items())


def test_the_loss_is_cross_entropy_and_a_small_norm_of_each_matrix() -> None:
    system, batch = moved(make(norm_weight=0.5)), images()
    terms = system(batch, STEP)
    torch.testing.assert_close(terms["task"], F.cross_entropy(by_hand(system, batch)[0], batch["label"]))
    torch.testing.assert_close(terms["norm"], 0.5 * sum(real.square().sum().sqrt() for real in system.reals))
    unknown = {**batch, "label": batch["label"].masked_fill(batch["id"] > 2, -1)}
    few = F.cross_entropy(by_hand(system, batch)[0][:3], batch["label"][:3])
    torch.testing.assert_close(system(unknown, STEP)["task"], few)


def test_gradient_of_a_number_is_that_of_its_masked_weight_times_the_weight() -> None:
    """Hidden weights get gradient too, so that they may come back; frozen ones get none."""
    system, batch = moved(make(drop=0.0, norm_weight=0.0)), images()
    system(batch, STEP)["task"].backward()
    logits, weights = by_hand(system, batch)
    F.cross_entropy(logits, batch["label"]).backward()
    for real, (name, shown) in zip(system.reals, weights.items(), strict=True):
        wanted = shown.grad * system.encoder.get_parameter(name)  # type: ignore[operator]
        torch.testing.assert_close(real.grad, wanted, rtol=1e-4, atol=1e-8)
        assert real.grad[real <= 0.005].any()
    trained = {name for name, p in system.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in system.named_parameters() if p.grad is not None}
    assert trained == {f"reals.{k}" for k in range(4)}


def test_nothing_is_hidden_before_numbers_had_the_steps_to_fall() -> None:
    """Adam moves a number by the learning rate at most in its first steps."""
    system, batch = make(drop=0.0), images()
    optimizer = torch.optim.AdamW(system.parameters(), lr=1e-3, weight_decay=0.0)
    shares = []
    for index in range(8):
        optimizer.zero_grad()
        sum(system(batch, Step(index, 8)).values()).backward()
        optimizer.step()
        shares.append(float(system.monitor(batch, STEP)["hidden_weights"]))
    assert shares[:4] == [0.0] * 4 and shares[5] > 0.1


def test_numbers_are_not_decayed_and_what_is_frozen_stays_in_eval_mode() -> None:
    system = make(**{"encoder.drop_path": 0.5}).train()
    assert all(group["weight_decay"] == 0 for group in parameter_groups(system, 0.05))
    assert not any(module.training for module in system.encoder.modules())
    before = copy.deepcopy(system.encoder.state_dict())
    system(images(), STEP)["task"].backward()
    assert all(torch.equal(before[k], v) for k, v in system.encoder.state_dict().items())


# ------------------------------------------------------------------------------------------- the gate


def test_chances_of_the_gate_are_those_of_the_release() -> None:
    table = [(0.6, 0.2, 1.0), (0.6, -0.2, 0.75), (0.2, -0.6, 0.25), (-0.2, 0.6, 0.25), (0.3, 0.0, 1.0)]
    for a, b, chance in table:
        n = 100_000
        kept = gate(torch.full((n,), a), torch.full((n,), b), STEP, 3).double().mean().item()
        assert abs(kept - chance) < 5 * (chance * (1 - chance) / n) ** 0.5 + 1e-5, (a, b, kept)
    a = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    first = gate(a, -a, STEP, 0)
    assert torch.equal(first, gate(a, -a, STEP, 0)) and not torch.equal(first, gate(a, -a, STEP, 1))
    assert not torch.equal(first, gate(a, -a, Step(7, 10, seed=1), 0))


def gradients(system: Any, batch: Batch, step: Step = STEP) -> list[Tensor]:
    system.zero_grad(set_to_none=True)
    sum(system(batch, step).values()).backward()
    system.after_backward(step)
    return [real.grad.clone() for real in system.reals]


def expected(system: Any, batch: Batch, drop: float) -> list[Tensor]:
    """Gated gradients by hand, with all of the batch at once."""
    logits, weights = by_hand(system, batch)
    base = (by_hand(system, batch, hide=False)[0] / system.temperature).softmax(-1).detach()
    norms = torch.autograd.grad(1e-4 * sum(real.norm() for real in system.reals), list(system.reals))
    found = []
    terms = F.cross_entropy(logits, batch["label"]), F.cross_entropy(logits, base)
    both = [torch.autograd.grad(term, list(weights.values()), retain_graph=True) for term in terms]
    for place, (name, own) in enumerate(zip(weights, norms, strict=True)):
        a, b = (grads[place] * system.encoder.get_parameter(name) for grads in both)
        a = a + own
        chance = torch.where(a * b >= 0, 1.0, a.abs() / (a.abs() + b.abs()))
        keep = STEP.noise(torch.tensor([place]), a.numel()).view_as(a) < chance
        found.append(torch.where(keep, a, (1 - drop) * a))
    return found


@pytest.mark.parametrize(("drop", "temperature"), [(1.0, 1.0), (0.3, 1.0), (1.0, 0.1)])
def test_gradient_that_leads_away_from_the_base_is_dropped_or_shrunk(drop: float, temperature: float) -> None:
    system, batch = moved(make(drop=drop, temperature=temperature)), images()
    for found, wanted in zip(gradients(system, batch), expected(system, batch, drop), strict=True):
        # a chance that differs by rounding may turn a draw that lies at it
        assert torch.isclose(found, wanted, rtol=1e-3, atol=1e-9).float().mean() > 0.999
    assert 0.3 < system.monitor(batch, STEP)["gradient_kept"] < 0.95


def test_without_a_drop_gradient_is_as_it_comes_and_the_base_is_not_asked() -> None:
    system, batch = moved(make(drop=0.0)), images()
    with mock.patch.object(system, "answer", wraps=system.answer) as answer:
        plain = gradients(system, batch)
    assert answer.call_count == 1
    wanted = expected(system, batch, 0.0)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-8) for a, b in zip(plain, wanted, strict=True))


def test_parts_of_a_step_are_gated_as_the_whole_whatever_ran_before() -> None:
    """Training runs the first part twice where it has to count first; only what is trained by counts."""
    system, batch = moved(make()), images()
    whole = gradients(system, batch)
    system.zero_grad(set_to_none=True)
    parts = [{key: value[rows] for key, value in batch.items()} for rows in (slice(0, 2), slice(2, 8))]
    system(parts[0], STEP)
    for part in parts:
        terms = system(part, STEP)
        (terms["task"] * len(part["id"]) / 8 + terms["norm"] / 2).backward()
    system.after_backward(STEP)
    for real, wanted in zip(system.reals, whole, strict=True):
        assert torch.isclose(real.grad, wanted, rtol=1e-3, atol=1e-9).float().mean() > 0.999


def test_what_is_left_of_a_step_that_was_given_up_does_not_count() -> None:
    system, batch = moved(make()), images()
    whole = gradients(system, batch)
    other = {**batch, "image": -batch["image"]}
    sum(system(other, Step(5, 10, seed=1)).values()).backward()
    assert all(torch.equal(a, b) for a, b in zip(gradients(system, batch), whole, strict=True))


def train_shared() -> list[Tensor]:
    """Three steps in this process, of two that share the batch."""
    system, batch = moved(make()), images()
    rank = dist.get_rank()
    own = {key: value[4 * rank : 4 * rank + 4] for key, value in batch.items()}
    model: Any = DistributedDataParallel(system)
    steps(system, model, own)
    return [real.detach() for real in system.reals]


def steps(system: Any, model: Any, batch: Batch) -> None:
    optimizer = torch.optim.SGD(system.reals.parameters(), lr=0.1)
    for index in range(3):
        optimizer.zero_grad()
        sum(model(batch, Step(index, 3)).values()).backward()
        system.after_backward(Step(index, 3))
        optimizer.step()


@pytest.mark.slow
def test_two_processes_gate_alike_and_as_one(tmp_path: Path) -> None:
    one, other = run_processes(__file__, "train_shared", tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    system = moved(make())
    before = [real.detach().clone() for real in system.reals]
    steps(system, system, images())
    for real, shared, start in zip(system.reals, one, before, strict=True):
        assert torch.isclose(real, shared, rtol=0, atol=1e-6).float().mean() > 0.999
        assert not torch.allclose(real, start, rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------ what is refused


def test_what_cannot_be_learned_is_refused() -> None:
    for masking in ("core/random", "core/block", "core/top-score", "core/frequency"):
        with pytest.raises(UserError, match="passes no gradient on to its score: use core/threshold"):
            make(masking=masking)
    with pytest.raises(UserError, match="give --base FOLDER"):
        make(base=None)


def test_masks_may_be_drawn_as_well() -> None:
    gumbel = {"masking": "core/gumbel", "masking.largest": False, "initial": 1.0}
    system, batch = make(**gumbel), images()
    first, other = (system(batch, Step(k, 10))["task"] for k in (0, 1))
    assert first != other and system(batch, Step(0, 10))["task"] == first
    assert 0.02 < system.monitor(batch, STEP)["hidden_weights"] < 0.12  # 1 - 0.934


# --------------------------------------------------------------------------------- bases, files, recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a base and its masks, moved after they were trained."""
    folder = tmp_path_factory.mktemp("recipe")
    data = {"name": "vision/digits", "limit": 60}
    options = {"base_data": data, "preset": "tiny", "steps": 12}
    with mock.patch("polymask.recipes.probe"):
        found = run_recipe(
            "vision/r-amt", data, folder / "a", options=options, shared={"lr": 2e-3}, progress=False
        )
    assert [run.folder.name for run in found.done] == ["base", "masks"]
    return (folder / "a").rename(folder / "moved")


@pytest.mark.slow
def test_the_recipe_masks_the_classifier_that_it_trained(recipe: Path) -> None:
    base: Any = Run.open(recipe / "base").system
    run = Run.open(recipe / "masks")
    system: Any = run.system
    assert isinstance(base, Supervised)
    test = run.data.split("test")
    batch = {"image": torch.stack([test[i]["image"] for i in range(20)])}
    with torch.no_grad():
        torch.testing.assert_close(system.answer(system.tokenizer(batch), {}), base.classify(batch))
        untrained: Any = run.untrained()
        torch.testing.assert_close(untrained.classify(batch), base.classify(batch))
        assert not torch.allclose(system.classify(batch), base.classify(batch))


def test_an_export_has_masked_weights_and_masks_alone_take_a_bit_each(recipe: Path, tmp_path: Path) -> None:
    run = Run.open(recipe / "masks")
    system: Any = run.system
    batch = {"image": torch.stack([run.data.split("test")[i]["image"] for i in range(20)])}
    export(run, "safetensors", tmp_path / "whole")
    export(run, "masks", tmp_path / "masks")
    with torch.no_grad():
        wanted = system.classify(batch)
        assert torch.equal(load(tmp_path / "whole").classify(batch), wanted)  # type: ignore[operator]
        base: Any = Run.open(recipe / "base").system
        apply_masks(base.encoder, tmp_path / "masks")
        assert torch.equal(base.classify(batch), wanted)
        torch.testing.assert_close(load(tmp_path / "whole").encode(batch).values, system.encode(batch).values)
    numbers = sum(real.numel() for real in system.reals)
    header = int.from_bytes((tmp_path / "masks/masks.safetensors").read_bytes()[:8], "little")
    assert (tmp_path / "masks/masks.safetensors").stat().st_size - 8 - header == numbers / 8


def test_retention_is_measured_beside_the_base_and_masks_at_random(recipe: Path) -> None:
    run = Run.open(recipe / "masks")
    found = {(m.row, m.metric): m.value for m in Retention()(run)}
    assert found["untrained", "as the base"] == 1.0 and found["pre-trained", "as the base"] < 1
    # base and masks have the same data here
    for row in ("pre-trained", "untrained", "masked at random"):
        assert found[row, "accuracy"] == found[row, "accuracy on the base's data"]
    system: Any = run.system
    labels = run.data.labels("test")
    batch = {"image": torch.stack([run.data.split("test")[i]["image"] for i in range(len(labels))])}
    with torch.no_grad():
        right = (system.classify(batch).argmax(1) == labels).float().mean()
    assert found["pre-trained", "accuracy"] == pytest.approx(float(right))
    with pytest.raises(UserError, match="give a run of vision/r-amt"):
        list(Retention()(Run.open(recipe / "base")))


def test_bases_of_other_classes_or_sizes_are_refused(recipe: Path, tmp_path: Path) -> None:
    base = str(recipe / "base")
    with pytest.raises(UserError, match="tells 10 classes apart, and this data has 7"):
        build("vision/r-amt", facts={**FACTS, "classes": 7}, preset="tiny", base=base)
    with pytest.raises(UserError, match="--encoder.depth 2"):
        build("vision/r-amt", facts=FACTS, preset="tiny", base=base, **{"encoder.depth": 3})
    plain = RunConfig.resolve({"system": "vision/mae", "preset": "tiny", "data": "vision/digits", "steps": 1})
    run = Run.create(plain, tmp_path / "mae")
    fit(run, progress=False)
    with pytest.raises(UserError, match="has no classifier"):
        build("vision/r-amt", facts=FACTS, preset="tiny", base=str(tmp_path / "mae"))


def test_data_of_another_normalisation_is_read_as_the_base_would(recipe: Path) -> None:
    run = Run.open(recipe / "base")
    base: Any = run.system
    facts = {**FACTS, "mean": (0.1,), "std": (0.2,)}
    system: Any = build("vision/r-amt", facts=facts, preset="tiny", base=str(recipe / "base"))
    pixels = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(run.facts[name]).view(-1, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        wanted = base.classify({"image": (pixels - mean) / std})
        torch.testing.assert_close(system.classify({"image": (pixels - 0.1) / 0.2}), wanted)


def test_a_classifier_is_fitted_to_the_features_of_a_frozen_encoder() -> None:
    torch.manual_seed(0)
    system: Any = build("vision/supervised", facts=FACTS, preset="tiny", **{"tokenizer.patch_size": 2})

    class Data:
        classes = tuple(map(str, range(12)))

        def split(self, name: str) -> Any:
            pixels = torch.tensor(load_digits().images[:300] / 8 - 1, dtype=torch.float32)[:, None]
            return [{"image": x} for x in pixels]

        def labels(self, name: str) -> Tensor:
            found = torch.tensor(load_digits().target[:300])
            found[::50] = -1
            return found

    before = copy.deepcopy(system.encoder.state_dict())
    fit_classifier(system, Data())  # type: ignore[arg-type]
    assert all(torch.equal(before[k], v) for k, v in system.encoder.state_dict().items())
    batch = {"image": torch.stack([s["image"] for s in Data().split("train")])}
    with torch.no_grad():
        logits = system.classify(batch)
    labels = Data().labels("train")
    assert (logits.argmax(1) == labels)[labels >= 0].float().mean() > 0.9
    assert logits.shape == (300, 12) and (logits[:, 10:] < -1000).all()


@pytest.mark.slow
def test_masks_alone_adapt_a_frozen_classifier_to_mirrored_digits() -> None:
    pixels = torch.tensor(load_digits().images / 16, dtype=torch.float32)[:, None] * 2 - 1
    labels = torch.tensor(load_digits().target)
    torch.manual_seed(0)
    base: Any = build("vision/supervised", facts=FACTS, **TINY)
    train(base, pixels, labels, 200, 5e-3)
    system = make(which="all")
    system.encoder.load_state_dict(base.encoder.state_dict())
    system.head.load_state_dict(base.head.state_dict())
    mirrored = pixels.flip(-1)
    test = {"image": mirrored[1200:]}
    with torch.no_grad():
        before = (system.classify(test).argmax(1) == labels[1200:]).float().mean()
        train(system, mirrored[:300], labels[:300], 80, 5e-4)
        after = (system.classify(test).argmax(1) == labels[1200:]).float().mean()
    assert after > before + 0.15, (before, after)


@torch.enable_grad()
def train(system: Any, x: Tensor, labels: Tensor, length: int, lr: float) -> None:
    optimizer = torch.optim.Adam([p for p in system.parameters() if p.requires_grad], lr=lr)
    for index in range(length):
        ids = torch.randint(len(x[:1200]), (32,), generator=torch.Generator().manual_seed(index))
        step = Step(index, length)
        optimizer.zero_grad()
        sum(system({"image": x[ids], "label": labels[ids], "id": ids}, step).values()).backward()
        system.after_backward(step)
        optimizer.step()


@pytest.mark.slow
def test_masks_over_a_model_of_timm_and_over_a_base_of_grey_images(recipe: Path, tmp_path: Path) -> None:
    options = {"preset": "tiny", "steps": 2}
    colour, grey = ({"name": "vision/digits", "limit": 40, "channels": n} for n in (3, 1))
    export(Run.open(recipe / "base"), "timm", tmp_path / "model", head=False)
    size = Run.open(recipe / "base").system.tokenizer.provides["patch_size"]
    model = {"model": f"local-dir:{tmp_path / 'model'}", "patch_size": size}
    with mock.patch("polymask.recipes.probe"):
        for name, how in {"timm": (grey, model), "grey": (colour, {"base_data": grey})}.items():
            data, own = how
            found = run_recipe(
                "vision/r-amt", data, tmp_path / name, options={**options, **own}, progress=False
            )
            system: Any = found.done[-1].system
            assert len(system.reals) and system.head.out_features == 10
    with (
        mock.patch("polymask.recipes.probe"),
        pytest.raises(UserError, match=f"give --patch_size {size}"),
    ):
        run_recipe(
            "vision/r-amt",
            grey,
            tmp_path / "x",
            options={**options, **model, "patch_size": 2},
            progress=False,
        )
