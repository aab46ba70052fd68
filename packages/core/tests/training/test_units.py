"""Which modules of a system are its blocks, and that a run is the same however they are run."""

from __future__ import annotations

import copy
import functools

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from polymask.checkpoints import read_checkpoint
from polymask.nn.blocks import Block, CrossBlock
from polymask.nn.decoders import LightDecoder
from polymask.training.units import blocks_of, compiling, recomputing


def names(**parts):
    module = nn.Module()
    for name, part in parts.items():
        module.add_module(name, part)
    return list(blocks_of(module))


def several(make, n=2, of=nn.ModuleList):
    made = [make() for _ in range(n)]
    return of(made) if of is nn.ModuleList else of(*made)


def block():
    return Block(8, 2)


def conv():
    return nn.Sequential(nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4), nn.ReLU())


def test_entries_of_lists_and_sequences():
    found = names(encoder=several(block), decoder=several(lambda: CrossBlock(8, 2, 8), 3, nn.Sequential))
    assert found == ["encoder.0", "encoder.1", "decoder.0", "decoder.1", "decoder.2"]
    for depth, blocks in {1: ["blocks.0"], 2: ["blocks.0", "blocks.1"]}.items():
        made = LightDecoder(in_dim=8, out_dim=4, prefix=1, grid=(4,), dim=8, depth=depth, heads=2)
        assert list(blocks_of(made)) == blocks
    torch_ = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), 2, enable_nested_tensor=False)
    assert list(blocks_of(torch_)) == ["layers.0", "layers.1"]


def test_of_stages_the_layers_and_stages_that_have_none():
    stages = nn.ModuleList([several(block), several(block), several(block, 1, nn.Sequential)])
    assert names(stages=stages) == ["stages.0.0", "stages.0.1", "stages.1.0", "stages.1.1"]
    stages = several(lambda: several(conv, 1, nn.Sequential))
    assert names(stages=stages) == ["stages.0", "stages.1"]


@pytest.mark.parametrize(
    "part",
    [
        several(lambda: nn.Linear(4, 4)),
        several(lambda: nn.Sequential(nn.GELU(), nn.Flatten())),
        several(block, 1, nn.Sequential),
        nn.Sequential(block(), nn.LayerNorm(8)),
        several(lambda: nn.ModuleDict({"a": nn.Linear(4, 4)})),
        conv(),
    ],
    ids=["layers without parts", "no weights", "one", "two classes", "cannot be called", "one convolution"],
)
def test_what_is_none(part):
    assert names(part=part) == []


def test_one_that_is_in_two_places_counts_once():
    shared = several(block)
    assert names(one=shared, other=shared) == ["one.0", "one.1"]


# ----------------------------------------------------------------------------- computed again


class Convolution(nn.Module):
    """Counts its calls."""

    def __init__(self):
        super().__init__()
        self.layers, self.calls = conv(), 0

    def forward(self, x):
        self.calls += 1
        return self.layers(x)


def learn(net, x):
    out = net(x)
    out.square().sum().backward()
    return out.detach()


def test_blocks_that_train_run_twice_and_batch_norms_count_once():
    net = several(Convolution, of=nn.Sequential)
    x = torch.randn(2, 4, 5)
    plain = copy.deepcopy(net)
    with recomputing(net):
        assert torch.equal(learn(net, x), learn(plain, x))
        assert [block.calls for block in net] == [2, 2]
        with torch.no_grad():
            net(x)
        net.eval()
        learn(net, x)
        assert [block.calls for block in net] == [4, 4]
    plain(x), plain.eval()
    learn(plain, x)
    assert all("forward" not in vars(block) for block in net)
    for (name, ours), theirs in zip(net.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_a_copy_runs_its_own_weights():
    net, x = several(Convolution, of=nn.Sequential), torch.randn(2, 4, 5)
    with recomputing(net):
        other = copy.deepcopy(net)
    for parameter in other.parameters():
        parameter.data.zero_()
    assert other(x).count_nonzero() == 0


@pytest.mark.parametrize("options", [{"precision": "bf16-mixed"}, {"accumulate": 2}], ids=["bf16", "parts"])
def test_a_run_ends_in_the_same_weights(toy, tmp_path, options):
    one, other = (
        toy.train(tmp_path / str(again), system=toy.Toy(depth=2), recompute=again, **options)
        for again in (False, True)
    )
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(x, other.state_dict()[name]) for name, x in one.state_dict().items())


def test_a_run_goes_on_with_or_without(toy, tmp_path):
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = trainer.global_step == 5

    whole = toy.train(tmp_path / "whole", system=toy.Toy(depth=2))
    toy.train(tmp_path / "half", system=toy.Toy(depth=2), callbacks=[Stop()])
    assert read_checkpoint(tmp_path / "half" / "checkpoints" / "last.ckpt")["global_step"] == 5
    half = toy.train(tmp_path / "half", system=toy.Toy(depth=2), recompute=True, resume=True)
    assert all(torch.equal(x, half.state_dict()[name]) for name, x in whole.state_dict().items())


# ----------------------------------------------------------------------------- compiled


@pytest.fixture
def graphs(monkeypatch):
    """Graphs that were made, which run as they are."""
    made = []

    def backend(graph, inputs):
        made.append(graph)
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    return made


@pytest.mark.compile
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_of_compiled_blocks_is_the_same(toy, tmp_path, graphs, recompute, accumulate):
    options = {"steps": 3, "accumulate": accumulate, "recompute": recompute}
    plain = toy.train(tmp_path / "plain", system=toy.Toy(depth=3), **options)
    assert not graphs
    system = toy.train(tmp_path / "compiled", system=toy.Toy(depth=3), compile=True, **options)
    assert 1 <= len(graphs) <= 4  # by training or not, with gradient or not: never by block
    assert all("forward" not in vars(module) for module in system.modules())
    assert system.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(x, system.state_dict()[name]) for name, x in plain.state_dict().items())


class Shifted(nn.Module):
    """A block with a whole number of its own, for which code is compiled anew."""

    def __init__(self, shift):
        super().__init__()
        self.shift, self.layer = shift, nn.Sequential(nn.Linear(4, 4))

    def forward(self, x):
        return self.layer(x).roll(self.shift, 1)


@pytest.mark.compile
def test_blocks_that_all_differ_are_all_compiled(graphs):
    net = nn.Sequential(*(Shifted(i) for i in range(12)))
    x = torch.randn(2, 4)
    expected = net(x)
    with compiling(net):
        assert torch.equal(net(x), expected)
    assert len(graphs) == 12


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_end_in_the_same_weights(launch, tmp_path, strategy):
    found = []
    for again in (False, True):
        options = {"toy": {"depth": 2}, "steps": 4, "strategy": strategy, "recompute": again}
        assert launch(tmp_path / str(again), 2, **options) == [0, 0]
        found.append(read_checkpoint(tmp_path / str(again) / "checkpoints" / "last.ckpt")["state_dict"])
    assert all(torch.equal(x, found[1][name]) for name, x in found[0].items())
