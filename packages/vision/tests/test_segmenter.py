"""Segmentation networks: decoders by hand."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from polymask_vision.segmenter import Segmenter


def test_decoders() -> None:
    size = {"size": (32, 32), "channels": 3, "classes": 4}
    arguments = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}
    model: dict[str, Any] = {"model": "resnet18", "arguments": arguments}
    torch.manual_seed(0)
    deep = Segmenter(**size, **model, decoder="deeplab", levels=(2, 3)).eval()
    assert deep.sizes == ((2, 2),) and len(deep.maps(torch.zeros(1, 3, 32, 32))) == 1
    maps = deep.maps(torch.randn(2, 3, 32, 32))
    weights: Any = deep.decoder.branches
    by_hand = sum(
        F.conv2d(maps[-1], w.weight, w.bias, padding=d, dilation=d)
        for w, d in zip(weights, (6, 12, 18, 24), strict=True)
    )
    torch.testing.assert_close(deep.decode(maps), by_hand)
    former: Any = Segmenter(**size, **model, levels=(1, 3), dim=8).eval()
    assert former.sizes == ((8, 8), (2, 2)) and former(torch.randn(2, 3, 32, 32)).shape == (2, 4, 32, 32)
    assert [type(x[0]).__name__ for x in former.decoder.context] == ["Conv2d"] + ["Sequential"] * 3
    last = Segmenter(**size, **model, decoder="deeplab")
    assert last.sizes == ((1, 1),)
