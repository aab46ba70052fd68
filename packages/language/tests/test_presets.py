"""What presets ``small`` build: models that learn within minutes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from polymask import build

FACTS = {"vocabulary": 400, "length": 48, "mask_id": 4, "special_ids": (0, 1, 2, 3, 4)}


@pytest.mark.parametrize("name", ["mlm", "mae", "prop", "climb", "meap", "sparsepo"])
def test_no_small_preset_norms_behind_its_blocks_or_drops_anything(name: str) -> None:
    torch.manual_seed(0)
    options = {"order": None} if name == "climb" else {}
    system: Any = build(f"language/{name}", preset="small", facts=FACTS, **options)
    encoder = system.encoder
    ids = torch.randint(5, 400, (2, 48, 1))
    position = torch.arange(48.0)[None, :, None].expand(2, -1, -1)
    first = encoder.layers(encoder.embed(ids), position)[0]
    # a norm behind the block would make it 1
    assert ((first.var(-1, unbiased=False) - 1).abs() > 1e-3).float().mean() > 0.5
    assert not any(m.p for m in encoder.modules() if isinstance(m, nn.Dropout))
