"""Which blocks FSDP may not share out by themselves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from polymask import Run
from polymask.nn.blocks import Block
from polymask.training.sharding import copied, reached_into


class Net(nn.Module):
    """Two blocks and a norm, run in one of several ways."""

    def __init__(self, way="called"):
        super().__init__()
        self.blocks, self.way = nn.ModuleList([Block(8, 2), Block(8, 2)]), way
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        first, second = self.blocks
        x = first(x)
        if self.way == "a part of it":
            x = second.mlp(x)
        elif self.way == "a weight":
            x = nn.functional.linear(x, next(p for p in second.mlp.parameters() if p.shape == (8, 32)).T)
            x = x[..., :8]
        elif self.way == "after it ran":
            x = second(x) + second.norm1.weight
        else:
            x = second(x).to(second.norm1.weight.dtype)
        return self.norm(x.flatten(0, 1)) * torch.rand(())


@pytest.mark.parametrize("way", ["a part of it", "a weight", "after it ran"])
def test_blocks_that_are_reached_into(way):
    net = Net(way)
    assert reached_into(net, lambda: net(torch.randn(2, 3, 8))) == {"blocks.1"}


def test_blocks_that_share_a_weight():
    net = Net()
    net.blocks.append(Block(8, 2))
    net.blocks[2].mlp = net.blocks[0].mlp
    assert reached_into(net, lambda: None) == {"blocks.0", "blocks.2"}


def test_what_is_called_is_not_reached_into_and_a_try_leaves_nothing():
    net = Net()
    assert net.training
    buffers, state = [b.clone() for b in net.buffers()], torch.get_rng_state()
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    assert reached_into(net, lambda: net(x)) == set()
    assert all(torch.equal(b, before) for b, before in zip(net.buffers(), buffers, strict=True))
    assert torch.equal(torch.get_rng_state(), state) and net.training and net.blocks[1].training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_failed_try_leaves_nothing_either():
    net = Net()
    with pytest.raises(RuntimeError):
        reached_into(net, lambda: net(torch.randn(2, 3, 9)))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize("saved", [True, False])
def test_behind_a_copy_a_run_is_at_its_last_checkpoint_or_lost(toy, tmp_path, saved):
    expected = toy.train(tmp_path, steps=2).state_dict() if saved else {}
    run = Run(tmp_path, toy.Toy(), toy.Data(), toy.options(steps=2))
    before = {name: x.clone() for name, x in run.system.named_parameters()}
    with copied(run) as copy:
        assert all(torch.equal(x, before[name]) for name, x in copy.named_parameters())
        assert {x.untyped_storage().nbytes() for x in run.system.parameters()} == {0}
    if saved:
        assert all(torch.equal(x, expected[name]) for name, x in run.system.state_dict().items())
    else:
        assert all(x.isnan().all() for x in run.system.parameters())
