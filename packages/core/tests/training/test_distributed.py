"""Two processes train as one does: the same samples, masks and result; sharded too."""

from __future__ import annotations

import json

import pytest
import torch

from polymask.checkpoints import read_checkpoint, system_weights
from polymask.training import read_metrics

# no dropout, which processes draw each for themselves
PLAIN = {"toy": {"drop": 0.0, "depth": 2}, "steps": 10, "record": True, "log_every": 5, "clip": 1.0}


@pytest.fixture(scope="module")
def one(launch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    assert launch(folder, 1, **PLAIN) == [0]
    return folder


@pytest.fixture(scope="module", params=["ddp", "fsdp"])
def two(request, launch, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    assert launch(folder, 2, strategy=request.param, **PLAIN) == [0, 0]
    return folder


def seen(folder, processes):
    """Samples and their masks by step, in the order of the global batch."""
    found = {}
    for rank in range(processes):
        for step, _, sample, mask in json.loads((folder / f"seen-{rank}.json").read_text()):
            found.setdefault(step, []).append((sample, mask))
    return found


def weights(folder, toy):
    system = toy.Toy(drop=0.0, depth=2)
    checkpoint = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    system.load_state_dict(system_weights(checkpoint, system))
    return system.eval()


@pytest.mark.slow
def test_same_samples_and_masks(one, two):
    assert seen(one, 1) == seen(two, 2)
    assert set(seen(two, 2)) == set(range(10))
    assert seen(two, 1) != seen(two, 2)  # each saw but half


def test_same_losses(one, two):
    for alone, together in zip(*(read_metrics(f / "metrics.csv") for f in (one, two)), strict=True):
        for key in ("step", "loss", "reconstruction", "latent", "grad_norm", "lr"):
            assert alone[key] == pytest.approx(together[key], rel=1e-4, abs=1e-6), key


def test_same_features_from_a_checkpoint_loaded_in_one_process(toy, one, two):
    """Weights may differ where the loss does not depend on them: Adam scales up rounding there."""
    x = toy.Data().x
    with torch.no_grad():
        alone, together = (weights(f, toy).encode({"x": x}).values for f in (one, two))
        untrained = toy.Toy(drop=0.0, depth=2).eval().encode({"x": x}).values
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-4)
    assert (alone - untrained).abs().max() > 0.05


@pytest.mark.slow
def test_two_processes_go_on_with_the_run_of_two(toy, launch, two, tmp_path_factory):
    """Stopped at step 5 by both being killed, resumed: the weights of the run that was not."""
    strategy = "fsdp" if "fsdp" in two.name else "ddp"
    folder = tmp_path_factory.mktemp("again")
    options = {**PLAIN, "record": False, "strategy": strategy, "checkpoint_every": 4}
    assert set(launch(folder, 2, kill={"parts": 6}, **options)) == {-9}
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] == 4
    assert launch(folder, 2, resume=True, **options) == [0, 0]
    expected, found = (read_checkpoint(f / "checkpoints" / "last.ckpt")["state_dict"] for f in (two, folder))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.slow
def test_one_process_goes_on_with_the_run_of_two(toy, launch, two, tmp_path_factory):
    strategy = "fsdp" if "fsdp" in two.name else "ddp"
    folder = tmp_path_factory.mktemp("fewer")
    options = {**PLAIN, "record": False, "checkpoint_every": 4}
    launch(folder, 2, kill={"parts": 6}, strategy=strategy, **options)
    system = toy.train(folder, system=toy.Toy(drop=0.0, depth=2), resume=True, **_trained(options))
    x = toy.Data().x
    with torch.no_grad():
        together = weights(two, toy).encode({"x": x}).values
        torch.testing.assert_close(system.eval().encode({"x": x}).values, together, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("apart", "name"),
    [({"memory": "own"}, "rows"), ({"gate": "own"}, "embed.weight")],
    ids=["memory", "gate"],
)
def test_what_processes_do_not_share_stops_them_at_the_first_step(launch, tmp_path, apart, name):
    options = {**PLAIN, "record": False, "steps": 2, "clip": None}
    assert launch(tmp_path, 2, strategy="ddp", apart=apart, **options) == [2, 2]
    said = (tmp_path / "said-1").read_text()
    assert said.startswith(f"{name} of Apart differs between processes after step 1")
    assert "gather_rows" in said and said == (tmp_path / "said-0").read_text()


def test_what_processes_share_ends_as_on_one(launch, toy, tmp_path):
    apart = {"memory": "all", "gate": "mean"}
    options = {**PLAIN, "steps": 2, "strategy": "ddp"}
    assert launch(tmp_path, 2, apart=apart, **options) == [0, 0]
    checkpoint = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    together = system_weights(checkpoint, toy.Apart(**apart))["rows"]
    alone = toy.train(tmp_path / "one", system=toy.Apart(**apart), steps=2, clip=1.0).rows
    assert torch.equal(alone, together) and alone.count_nonzero() > 16


def _trained(options):
    return {key: value for key, value in options.items() if key not in ("toy", "record")}
