"""Which modules of a system are its blocks."""

from __future__ import annotations

import pytest
from torch import nn

from polymask.blocks import Block, CrossBlock
from polymask.decoders import LightDecoder
from polymask.training.units import blocks_of


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
    made = LightDecoder(in_dim=8, out_dim=4, prefix=1, grid=(4,), dim=8, depth=2, heads=2)
    assert list(blocks_of(made)) == ["blocks.0", "blocks.1"]
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
        several(block, 1),
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
