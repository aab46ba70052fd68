"""The dense probe of images: interpolation as torch's, what it asks of data, and a run from end to end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from polymask import Batch, System, Tokens, UserError
from polymask.cli import main
from polymask_vision.evaluations.dense import Dense, at_pixels, on_grid, truth


@pytest.mark.parametrize(
    ("grid", "size"), [((4, 5), (16, 40)), ((3, 3), (7, 8)), ((1, 6), (9, 6)), ((8, 8), (4, 4))]
)
def test_pixels_get_what_interpolation_gives_them(grid: tuple[int, int], size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, *grid, 2, generator=generator)
    expected = F.interpolate(values.permute(0, 3, 1, 2), size, mode="bilinear", align_corners=False)
    chosen = torch.rand(3, *size, generator=generator) < 0.4
    torch.testing.assert_close(at_pixels(values, chosen), expected.permute(0, 2, 3, 1)[chosen])


class Halves:
    """Images of two halves, whose border lies anywhere, within a patch too: which half a pixel is in."""

    key, map_classes = "image", ("left", "right")

    def __init__(self, entry: str = "label_map") -> None:
        self.entry = entry

    def split(self, name: str, *, augment: bool = False) -> list[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(len(name))
        found = []
        for _ in range(12):
            border = int(torch.randint(4, 13, (1,), generator=generator))
            side = (torch.arange(16) >= border).long().expand(16, 16).clone()
            image = torch.randn(1, 16, 16, generator=generator)
            if self.entry == "label_map":
                found.append({"image": image, "label_map": side, "border": torch.tensor(border)})
            else:
                found.append({"image": image, "value_map": side.float(), "border": torch.tensor(border)})
        return found


class Answer(System):
    """An encoder whose 4 x 4 tokens know on which side they are, or nothing."""

    def __init__(self, knows: bool) -> None:
        super().__init__()
        self.knows, self.weight, self.saw = knows, nn.Parameter(torch.ones(1)), set[str]()

    def encode(self, batch: Batch) -> Tokens:
        self.saw |= set(batch)
        middle = (torch.arange(4) * 4 + 2 - batch["border"][:, None]).clamp(-2, 2).float()
        value = middle[:, None].expand(-1, 4, -1).flatten(1)[..., None] * self.knows
        return Tokens(value, torch.zeros(len(value), 16, 2), (4, 4))


def measured(data: Halves, **options: Any) -> tuple[dict[tuple[str, str], float], Answer]:
    run: Any = SimpleNamespace(system=Answer(True), data=data, untrained=lambda: Answer(False))
    return {(one.row, one.metric): one.value for one in Dense(**options)(run)}, run.system


def test_an_encoder_that_knows_tells_halves_to_the_pixel() -> None:
    scores, system = measured(Halves())
    assert scores["pre-trained", "mIoU"] > 0.97
    assert scores["untrained", "mIoU"] == scores["most frequent class", "mIoU"] < 0.5
    assert 0.4 < scores["untrained", "accuracy"] < 0.7
    assert {metric for _, metric in scores} == {"accuracy", "mIoU", "IoU of left", "IoU of right"}
    assert "label_map" not in system.saw
    scores, _ = measured(Halves(), by_class=False)
    assert {metric for _, metric in scores} == {"accuracy", "mIoU"}


def test_values_of_pixels_are_regressed() -> None:
    scores, system = measured(Halves("value_map"))
    assert scores["pre-trained", "R2"] > 0.5 > 0.1 > scores["untrained", "R2"]
    assert scores["pre-trained", "RMSE"] < scores["mean", "RMSE"]
    assert "value_map" not in system.saw


def test_data_and_tokens_that_have_no_pixels_are_refused() -> None:
    with pytest.raises(UserError, match="samples of this data have image alone"):
        truth({"image": torch.zeros(1, 1, 4, 4), "id": torch.zeros(1)})
    flat = Tokens(torch.zeros(1, 4, 2), torch.zeros(1, 4, 1), (4,))
    with pytest.raises(UserError, match="grid of rows and columns"):
        on_grid(lambda batch: flat)({})


def test_from_a_folder_to_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for i in range(24):
        mask = np.kron(generator.integers(0, 2, (4, 4)), np.ones((4, 4))).astype(np.uint8)
        Image.fromarray(mask * 150 + 40).save(tmp_path / "data" / "images" / f"{i}.png")
        Image.fromarray(mask).save(tmp_path / "data" / "masks" / f"{i}.png")
    run = tmp_path / "run"
    data = f"segmentation:{tmp_path / 'data'}"
    given = {"data": data, "data.test": "0.3", "steps": "2", "tokenizer.patch_size": "4", "out": str(run)}
    options = [word for name, value in given.items() for word in (f"--{name}", value)]
    assert not main(["pretrain", "vision/mae", "--preset", "tiny", *options])
    assert not main(["evaluate", str(run), "vision/dense"])
    told = capsys.readouterr().out
    assert all(word in told for word in ("mIoU", "accuracy", "raw input", "untrained"))
    from polymask.evaluation.measurements import read_scores

    scores = read_scores(run)[0]
    # brightness tells the class of a pixel, in the middle of its patch
    assert scores.row("raw input")["mIoU"] > 0.6 > scores.row("most frequent class")["mIoU"]
