"""Clouds to turn: what a page holds, that it loads nothing and that no text of a user's becomes markup."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import polymask
from polymask import Mask, Step, functional
from polymask_pointcloud.display import MOST, Cloud, compare
from polymask_pointcloud.targets import Coordinates, Occupancy
from polymask_pointcloud.tokenizers import Groups, Pillars, Voxels


class Reader(HTMLParser):
    """Elements of a page with their attributes, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script" and data.strip():
            self.scripts.append(data)


def page_of(cloud: Cloud) -> Reader:
    ((tag, attributes),) = Reader(cloud._repr_html_()).elements
    assert tag == "iframe" and attributes["sandbox"] == "allow-scripts"
    return Reader(attributes["srcdoc"] or "")


def layers_of(cloud: Cloud) -> dict[str, Any]:
    data = json.loads(page_of(cloud).scripts[0])
    found = {}
    for layer in data["layers"]:
        place = np.frombuffer(base64.b64decode(layer["points"]), "<i2").reshape(-1, 3)
        found[layer["name"]] = place / data["unit"]
        if "colours" in layer:
            rgb = np.frombuffer(base64.b64decode(layer["colours"]), "u1").reshape(-1, 3)
            found[f"colours of {layer['name']}"] = rgb / 255
    return found


def sorted_rows(x: np.ndarray) -> np.ndarray:
    return x[np.lexsort(x.T)]


def test_points_are_centred_and_scaled_together_and_keep_their_colours() -> None:
    generator = torch.Generator().manual_seed(0)
    points = 5 + 2 * torch.rand(300, 3, generator=generator)
    colours = torch.rand(300, 3, generator=generator)
    trees = torch.cat([points[250:260], points[200:]])  # what comes twice is kept once
    shades = torch.cat([colours[250:260], colours[200:]])
    found = layers_of(Cloud({"visible": points[:200], "trees": trees}, {"trees": shades}))
    middle = (points.amax(0) + points.amin(0)) / 2
    radius = (points - middle).norm(dim=1).max()
    expected = ((points - middle) / radius).numpy()
    assert np.abs(found["visible"] - expected[:200]).max() < 1e-4
    once = [*range(250, 260), *range(200, 250), *range(260, 300)]
    assert np.abs(found["trees"] - expected[once]).max() < 1e-4
    assert np.abs(found["colours of trees"] - colours[once].numpy()).max() < 1 / 255


def test_what_is_no_place_or_too_much_is_left_out_and_thinned() -> None:
    line = torch.linspace(-1, 1, 3 * MOST)[:, None] * torch.tensor([1.0, 0, 0])
    wild = torch.tensor([[0.5, 0, 0], [0.5, 0, 0], [float("nan"), 0, 0], [100.0, 0, 0]])
    found = layers_of(Cloud({"visible": line, "predicted": wild}))
    assert found["visible"].shape == (MOST, 3)
    x = found["visible"][:, 0]
    assert (np.diff(x) > 0).all() and abs(x.mean()) < 0.03 and x.std() == pytest.approx(3**-0.5, abs=0.02)
    assert found["predicted"][:, 0].tolist() == pytest.approx([0.5, 2], abs=1e-3)
    assert layers_of(Cloud({"visible": torch.empty(0, 3)}))["visible"].shape == (0, 3)


def test_text_stays_text_and_nothing_is_loaded() -> None:
    evil = '</script><img src="https://example.org/x" onerror="alert(1)">'
    page = page_of(Cloud({evil: torch.rand(4, 3)}, note=evil))
    assert [tag for tag, _ in page.elements] == ["meta", "meta", "style", "canvas", "div", "script", "script"]
    assert not any({"src", "href"} & attributes.keys() for _, attributes in page.elements)
    data = json.loads(page.scripts[0])
    assert data["note"] == data["layers"][0]["name"] == evil
    assert "http" not in page.scripts[1] and "innerHTML" not in page.scripts[1]


def test_layers_are_visible_hidden_and_predicted_tokens_without_padding() -> None:
    points = torch.arange(24.0).view(1, 4, 2, 3)
    mask = Mask(torch.tensor([[False, True, False, False]]))
    valid = torch.tensor([[True, True, True, False]])
    (cloud,) = compare(points, mask, -points, valid)
    assert {name: x.tolist() for name, x in cloud.layers.items()} == {
        "visible": points[0, [0, 2]].flatten(0, 1).tolist(),
        "hidden": points[0, 1].tolist(),
        "predicted": (-points[0, 1]).tolist(),
    }


@pytest.mark.parametrize(
    "tokenizer", [Groups(groups=16, neighbours=8), Voxels(voxel=0.5), Pillars(features=2)]
)
def test_a_perfect_prediction_lies_on_what_is_hidden(tokenizer: Any) -> None:
    """And all of it lies where the cloud does."""
    batch = tokenizer.example(2)
    tokens = tokenizer(batch)
    hidden = torch.zeros(tokens.shape, dtype=torch.bool)
    hidden[:, ::2] = True
    if tokens.valid is not None:
        hidden &= tokens.valid
    facts = tokenizer.provides
    target = Coordinates(in_dim=facts["in_dim"], channels=facts["channels"])
    columns = functional.reconstruction(tokenizer, target, tokens, Mask(hidden), target(batch, tokens))
    ((caption, shown),) = columns.items()
    assert caption.startswith("visible, hidden and predicted") and len(shown) == 2
    for row, cloud in enumerate(shown):
        assert np.abs(cloud.layers["hidden"] - cloud.layers["predicted"]).max() < 1e-3
        real = batch["points"][row, : batch["points_length"][row], :3].double()
        drawn = torch.from_numpy(np.concatenate([cloud.layers["hidden"], cloud.layers["visible"]]))
        assert torch.cdist(drawn, real).amin(1).max() < 1e-5
        covered = torch.cdist(real, drawn).amin(1) < 1e-5
        assert covered.float().mean() > 0.5


def test_predictions_that_are_no_points_leave_two_layers() -> None:
    tokenizer = Groups(groups=16, neighbours=8)
    tokens = tokenizer(tokenizer.example(2))
    mask = Mask(torch.arange(16).expand(2, 16) < 5)
    columns = functional.reconstruction(tokenizer, Occupancy(), tokens, mask, torch.zeros(2, 16, 8))
    assert list(columns) == ["visible and hidden"]
    assert list(columns["visible and hidden"][0].layers) == ["visible", "hidden"]


def test_mae_shows_its_own_prediction() -> None:
    system = polymask.build("pointcloud/mae", preset="tiny").eval()
    batch = {**system.tokenizer.example(2), "id": torch.arange(2)}
    step = Step(3, 10)
    tokens = system.tokenizer(batch)
    mask = system.draw(tokens, batch, step)
    with torch.no_grad():
        predicted: Tensor = system.predict(tokens, mask)
    ((_, (first, _)),) = system.preview(batch, step).media.items()
    centre = mask.invert().keep(tokens).position[0] * 0.1
    around = torch.from_numpy(first.layers["predicted"]).view(len(centre), -1, 3).float() - centre[:, None]
    assert torch.allclose(around.flatten(1), 0.1 * predicted[0, : len(centre)], atol=1e-5)
