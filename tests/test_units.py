"""Blocks of encoders and decoders, whichever project wrote them: found, shared out, and computed again."""

from __future__ import annotations

import collections
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
from timm.layers import DropPath
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from polymask import Step, UserError
from polymask.plugins.registry import default_registry
from polymask.testing.loop import optimiser, total
from polymask.testing.subject import Subject, seeded
from polymask.training.sharding import reached_into, shard
from polymask.training.units import blocks_of, compiling, recomputing


def subject(name: str) -> Subject:
    registry = default_registry()
    return Subject(registry.find("systems", name), registry)


def counts(module: nn.Module) -> dict[str, int]:
    """How many blocks each list has."""
    return dict(collections.Counter(name.rpartition(".")[0] for name in blocks_of(module)))


FOUND = {
    "audio/hubert": {"encoder.extractor.conv_layers": 4, "encoder.encoder.transformer.layers": 2},
    "language/mae": {"encoder.model.encoder.layer": 2, "decoder.blocks": 2},
    "language/meap": {"encoder.model.layers": 2},
    "pointcloud/mae": {"encoder.blocks": 2, "decoder.blocks": 2},
    "vision/ga-dms": {"encoder.vit.blocks": 2, "text_encoder.model.h": 2, "reader.blocks": 1},
    "vision/ijepa": {"encoder.vit.blocks": 2, "predictor.blocks": 2, "teacher.module.vit.blocks": 2},
    "vision/mae": {"encoder.vit.blocks": 2, "decoder.blocks": 2},
}


@pytest.mark.parametrize("name", sorted(FOUND))
def test_systems(name: str) -> None:
    assert counts(subject(name).make()) == FOUND[name]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("resnet18", {f"layer{i}": 2 for i in (1, 2, 3, 4)}),
        ("convnext_atto", {f"stages.{i}.blocks": n for i, n in enumerate((2, 2, 6, 2))}),
        ("swin_tiny_patch4_window7_224", {f"layers.{i}.blocks": n for i, n in enumerate((2, 2, 6, 2))}),
        ("vit_tiny_patch16_224", {"blocks": 12}),
    ],
)
def test_backbones_of_timm(name: str, found: dict[str, int]) -> None:
    assert counts(timm.create_model(name)) == found


@pytest.mark.parametrize("name", [part.full_name for part in default_registry().parts("systems")])
def test_all_weights_have_an_axis_to_shard_along(name: str) -> None:
    assert [key for key, x in subject(name).make().named_parameters() if not x.dim()] == []


@pytest.fixture(scope="module")
def one_process() -> Iterator[DeviceMesh]:
    """A process group of this process alone: weights are gathered and gradients scattered all the same."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,), mesh_dim_names=("data_parallel",))
    dist.destroy_process_group()


# what their blocks are asked for beside their output: keys and queries, attention, one layer alone
REACHED_INTO = {
    "vision/dmt-jepa": {"summary.blocks.0", "summary.blocks.1"},
    "vision/hybrid-distillation": {
        "encoder.vit.blocks.0",
        "relation_target.network.module.model.blocks.4",
        "target.network.module.model.blocks.5",
    },
    "vision/maskalign": {"target.network.module.model.blocks.5"},
    "vision/mixedae": {"encoder.vit.blocks.1"},
    "vision/r-amt": {"encoder.vit.blocks.0", "encoder.vit.blocks.1"},
}


@pytest.mark.parametrize("name", [part.full_name for part in default_registry().parts("systems")])
def test_shared_out_by_blocks_gradients_are_the_same(name: str, one_process: DeviceMesh) -> None:
    made = subject(name)
    whole, parts = made.make().train(), made.make().train()
    batch, first = made.batch_for(whole, 4), Step(0, 30, 0)

    def run() -> None:
        total(parts, batch)
        parts.encode(batch)

    found = reached_into(parts, run)
    assert found == REACHED_INTO.get(name, set())
    for system in (whole, parts):
        for key in system.unused:
            system.get_parameter(key).requires_grad_(False)
    blocks = set(blocks_of(parts))
    shard(parts, one_process, whole=found)
    units = {key for key, module in parts.named_modules() if isinstance(module, FSDPModule)}
    assert units == {"", *blocks} - found
    for system in (whole, parts):
        torch.autograd.backward(total(system, batch))
    if name == "vision/r-amt":
        with pytest.raises(UserError, match="--strategy ddp"):
            parts.after_backward(first)
        return
    for system in (whole, parts):
        with seeded(0):
            system.after_backward(first)
            system.after_step(first)
    grads = {key: p.grad for key, p in parts.named_parameters() if p.grad is not None}
    for key, p in whole.named_parameters():
        assert (p.grad is None) == (key not in grads), key
        if p.grad is not None:  # summed in another order where a block runs twice
            error = grads[key].full_tensor() - p.grad
            assert error.norm() <= 1e-4 * (1 + p.grad.norm()), key
    expected = whole.state_dict()
    for key, x in parts.state_dict().items():
        x = x.full_tensor() if isinstance(x, DTensor) else x
        torch.testing.assert_close(x, expected[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["audio/hubert", "language/mae", "pointcloud/mae", "vision/mae"])
def test_computed_again_all_is_the_same_but_memory(name: str) -> None:
    plain, again = (three_steps(subject(name), within) for within in (contextlib.nullcontext, recomputing))
    for one, other in zip(plain[:-1], again[:-1], strict=True):
        assert one.keys() == other.keys()
        assert [key for key, value in one.items() if not torch.equal(value, other[key])] == []
    assert again[-1] < 0.6 * plain[-1]


def three_steps(made: Subject, within: Callable[[nn.Module], Any]) -> tuple[Any, ...]:
    """Losses and gradients of each step, weights after them, and bytes kept for the last backward."""
    system = made.make().train()
    for part in system.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.1
        if isinstance(part, DropPath):
            part.drop_prob = 0.2
    batch, optimizer = made.batch_for(system, 4), optimiser(system)
    found: list[dict[str, Tensor]] = []
    with within(system):
        for index in range(3):
            kept: dict[int, int] = {}

            def keep(x: Tensor, kept: dict[int, int] = kept) -> Tensor:
                kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
                return x

            optimizer.zero_grad()
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
                loss = total(system, batch, Step(index, 30, 0), seed=index)
            torch.autograd.backward(loss)
            grads = {n: p.grad.clone() for n, p in system.named_parameters() if p.grad is not None}
            found.append({"loss": loss.detach(), **grads})
            optimizer.step()
            system.after_step(Step(index, 30, 0))
    return *found, system.state_dict(), sum(kept.values())


@pytest.mark.compile
@pytest.mark.parametrize("name", ["audio/hubert", "language/mae", "pointcloud/mae", "vision/mae"])
def test_compiled_all_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = three_steps(subject(name), contextlib.nullcontext)
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    torch.compiler.reset()
    compiled = three_steps(subject(name), compiling)
    assert graphs
    for one, other in zip(plain[:-1], compiled[:-1], strict=True):
        assert [key for key, value in one.items() if not torch.equal(value, other[key])] == []
