"""Segmentation networks: decoders by hand, sizes of maps, and what is written of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F

from polymask import UserError
from polymask_vision.segmenter import CONFIG, Segmenter, enlarge, load_segmenter, save_segmenter

SIZE: dict[str, Any] = {"size": (32, 32), "channels": 3, "classes": 4}
MODEL: dict[str, Any] = {
    "model": "resnet18",
    "arguments": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8},
}


def make(**options: Any) -> Any:
    torch.manual_seed(0)
    return Segmenter(**(SIZE | MODEL | options))


def test_deeplab_reads_the_last_map_and_sums_what_its_dilations_say() -> None:
    deep = make(decoder="deeplab", levels=(2, 3)).eval()
    assert deep.sizes == ((2, 2),) and len(deep.maps(torch.zeros(1, 3, 32, 32))) == 1
    maps = deep.maps(torch.randn(2, 3, 32, 32))
    by_hand = sum(
        F.conv2d(maps[-1], w.weight, w.bias, padding=d, dilation=d)
        for w, d in zip(deep.decoder.branches, (6, 12, 18, 24), strict=True)
    )
    torch.testing.assert_close(deep.decode(maps), by_hand)
    assert all(0.008 < branch.weight.std() < 0.012 for branch in deep.decoder.branches)
    last = make(decoder="deeplab")
    assert last.sizes == ((1, 1),) and len(last.encoder.channels) == 1


def test_daformer_reads_all_maps_by_separable_convolutions_of_several_dilations() -> None:
    former = make(levels=(1, 3), dim=8).eval()
    assert former.options["dilations"] == [1, 6, 12, 18]
    decoder, (fine, coarse) = former.decoder, former.maps(torch.randn(2, 3, 32, 32))

    def normed(layer: Any, x: torch.Tensor, **dilated: int) -> torch.Tensor:
        return layer[1](F.conv2d(x, layer[0].weight, **dilated)).relu()

    wide = F.interpolate(decoder.embed[1](coarse), (8, 8), mode="bilinear")
    x = torch.cat([decoder.embed[0](fine), wide], dim=1)
    found = [normed(decoder.context[0], x)]
    for (across, within), d in zip(list(decoder.context)[1:], (6, 12, 18), strict=True):
        found.append(normed(within, normed(across, x, padding=d, dilation=d, groups=16)))
    logits = decoder.classify(normed(decoder.fuse, torch.cat(found, dim=1), padding=1))
    torch.testing.assert_close(former.decode([fine, coarse]), logits)
    assert decoder.classify.weight.std() < 0.02
    blind = make(dim=8, dropout=1.0).train()
    expected = blind.decoder.classify.bias[:, None, None].expand(2, 4, 32, 32)
    torch.testing.assert_close(blind(torch.randn(2, 3, 32, 32)), expected)


def test_sizes_are_those_of_the_maps_and_pixels_lie_between_places() -> None:
    network = make(size=(40, 72), dim=8).eval()
    image = torch.randn(1, 3, 40, 72)
    maps = network.maps(image)
    assert tuple(tuple(x.shape[2:]) for x in maps) == network.sizes and network.sizes[-1] == (2, 3)
    torch.testing.assert_close(network(image), enlarge(network.decode(maps), (40, 72)))
    found = enlarge(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2), (1, 4))
    assert found.flatten().tolist() == [0.0, 0.25, 0.75, 1.0]


def test_a_network_that_was_written_is_read_as_it_was(tmp_path: Path) -> None:
    network = make(size=(32, 48), decoder="deeplab", levels=(2,), dilations=(1, 2)).eval()
    about = {"mean": [0.5], "std": [0.2], "range": [0, 1], "classes": 9}
    save_segmenter(network, tmp_path, about)
    loaded, image = load_segmenter(tmp_path), torch.randn(2, 3, 32, 48)
    assert loaded.options["dilations"] == [1, 2]
    assert loaded.options == network.options and loaded.sizes == network.sizes and not loaded.training
    assert torch.equal(loaded(image), network(image))
    written = json.loads((tmp_path / CONFIG).read_text())
    assert written.keys() == {"network", "mean", "std", "range"}


def test_what_cannot_be_built_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="decoder='unet'"):
        make(decoder="unet")

    def offline(*args: Any, **options: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match="'pretrained': True"):
        make(pretrained=True)
