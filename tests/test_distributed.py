"""Systems on images train on two processes as on one: the same samples, masks and result."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch

from polymask import Run
from polymask.training import read_metrics

train = runpy.run_path(str(Path(__file__).with_name("train.py")))
DECODER = {"decoder_dim": 16, "decoder_depth": 2, "decoder_heads": 2}
SYSTEMS = {
    "mae": {"system": "vision/mae", **DECODER},
    "simmim": {"system": "vision/simmim", "masking": {"name": "core/random", "cell": 1}},
}


def config(name: str, **changed: object) -> dict[str, object]:
    return {**train["SMALL"], **SYSTEMS[name], "steps": 8, "log_every": 4, "workers": 0, **changed}


@pytest.fixture(scope="module", params=sorted(SYSTEMS))
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(f"one-{request.param}")
    train["finish"](folder, config(request.param))
    return request.param, folder


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes(one: tuple[str, Path], strategy: str, tmp_path: Path) -> None:
    name, alone = one
    train["finish"](tmp_path, config(name, devices=2, strategy=strategy), processes=2)
    assert seen(alone, 1) == seen(tmp_path, 2)
    for row, other in zip(*(read_metrics(f / "metrics.csv") for f in (alone, tmp_path)), strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    # the checkpoint opens in one process; features are compared, since weights that the loss does
    # not depend on (the bias of keys) go where rounding takes them
    two, expected, begun = (
        Run.open(f, trained=t) for f, t in ((tmp_path, True), (alone, True), (alone, False))
    )
    batch = {"image": torch.stack([two.data.split("test")[i]["image"] for i in range(20)])}
    with torch.no_grad():
        found, wanted, before = (run.system.encode(batch).values for run in (two, expected, begun))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    assert (wanted - before).abs().max() > 0.1
    for rank in range(2):
        after = torch.load(tmp_path / f"after-{rank}.pt", weights_only=True)
        assert [k for k, x in two.system.state_dict().items() if not torch.equal(x, after[k])] == []


def seen(folder: Path, processes: int) -> dict[int, list[object]]:
    """Samples and their masks by step, in the order of the global batch."""
    found: dict[int, list[object]] = {}
    for rank in range(processes):
        for step, sample, mask in json.loads((folder / f"seen-{rank}.json").read_text()):
            found.setdefault(step, []).append((sample, mask))
    return found
