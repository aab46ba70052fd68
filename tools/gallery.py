"""Draw what every masking, and every system, hides of a few real samples, for docs/gallery.md.

    uv run tools/gallery.py

Writes ``docs/assets/gallery/<kind>-<plugin>-<name>.webp``: samples, and below them what the masks of one step
hide. Images are crops of scikit-learn's photographs. ``tools/tables.py`` names the pictures.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images
from tables import ROOT, own_registry, picture_of

from polymask import Run, RunConfig, UserError, build, default_registry
from polymask.data import Dataset, open_data
from polymask.parts import Part
from polymask.report.drawing import frames, scale, sheet
from polymask.report.look import MaskSheet, mask_sheet, usual_tokenizer

SAMPLES, VIEWS, WIDTH = 4, 3, 560

FEWER: Mapping[str, int] = {"text": 2, "vision/ga-dms": 2, "vision/previps": 2, "vision/pose-tokenizer": 2}
"""Samples of a modality, or of a part, of which so many as of others could not be read on a phone."""

DATA: Mapping[str, Any] = {
    "audio": {"name": "audio/words"},
    "text": {"name": "language/glosses", "vocab_size": 2048, "length": 32},
    "points": {"name": "pointcloud/shapes"},
    "plan": {"name": "language/made-up-plans", "plans": 200, "test_plans": 20},
    "video": "vision/moving-digits",
    "pose": {"name": "vision/camera-poses", "windows": 40, "test_windows": 20},
    "motion": {"name": "pointcloud/mocap", "test_windows": 5},
}
SPECIAL: Mapping[str, Any] = {
    "pointcloud/msm": {"name": "pointcloud/scenes"},
    "pointcloud/geomae": {"name": "pointcloud/scenes"},
    "language/sparsepo": {"name": "language/sentiment"},
    "vision/ga-dms": {"name": "vision/persons", "count": 40, "pixels": 128},
    "vision/mom": {"name": "vision/placed-objects", "count": 40, "pixels": 128},
    "vision/masked-feature": "vision/drawn-domains",
    "vision/phg-mae": {"name": "vision/earth-layers", "labelled": 1.0},
}
OPTIONS: Mapping[str, Any] = {
    "vision/salt": {"teacher": "untrained"},
    "vision/tgm": {"guide": "random", "score.guide": "random"},
    "vision/comet": {"tokenizer.patch_size": 4, "detector": "untrained"},
    "vision/layer-masking": {"host.tokenizer.patch_size": 4},
    "vision/maskalign": {"target.model": "test_vit", "target.pretrained": False, "fusion": "sum"},
    "vision/hybrid-distillation": {
        "target.model": "test_vit",
        "target.pretrained": False,
        "relation_target.model": "test_vit",
        "relation_target.pretrained": False,
        "relation_target.layers": (-2,),
        "relation_weights": (1.0,),
        "relation_heads": "mean",
    },
    "vision/previps": {"tokenizer.run": "random:64x8", "target.run": "random:64x8"},
}
"""Of systems that cannot do without them."""


def photographs(folder: Path) -> dict[str, Any]:
    """Square halves of two photographs, each a class, as a data set."""
    for split in ("train", "test"):
        for number, photo in enumerate(load_sample_images().images):
            side = photo.shape[0]
            (folder / split / str(number)).mkdir(parents=True)
            for left in (0, photo.shape[1] - side):
                file = folder / split / str(number) / f"{left}.png"
                matplotlib.image.imsave(file, photo[:, left : left + side])
    return {"name": "vision/folder", "source": str(folder), "size": 112}


def of_system(part: Part, data: Mapping[str, Any], folder: Path, **options: Any) -> MaskSheet:
    """What the masks of an untrained system hide."""
    preset = "small" if "small" in part.presets else "tiny"
    own: dict[str, Any] = {}
    if "image" in part.modality.split("+"):
        own["host.tokenizer.patch_size" if "host" in part.defaults else "tokenizer.patch_size"] = 8
    own |= {**OPTIONS.get(part.full_name, {}), **options}
    config = RunConfig.resolve({"system": part.full_name, "preset": preset, "data": data, **own})
    run = Run.create(config, folder)
    samples = FEWER.get(part.full_name, FEWER.get(part.modality, SAMPLES))
    return mask_sheet(run.system.eval(), run.data, samples=samples, draws=1, masks=samples)


def of_masking(part: Part, data: Mapping[str, Any], folder: Path) -> MaskSheet:
    """What a masking hides of tokens such as most systems of its modality have."""
    if part.full_name == "language/words":  # systems of language tell which tokens make one
        mlm = default_registry().find("systems", "language/mlm")
        return of_system(mlm, data, folder, masking=part.full_name)
    options = dict(data)
    opened: Dataset = open_data(options.pop("name"), **options)
    tokenizer = usual_tokenizer(opened, default_registry()).build(opened.provides)
    facts = {**opened.provides, **tokenizer.provides}
    score = build("vision/entropy", "targets", facts=facts) if "score" in part.tags else None
    masking = build(part.full_name, "maskings", facts=facts)
    samples = FEWER.get(part.modality, SAMPLES)
    return mask_sheet(
        masking, opened, tokenizer=tokenizer, score=score, samples=samples, draws=1, masks=samples
    )


def strip(found: MaskSheet) -> np.ndarray:
    """The samples and what is hidden of them, in rows of one width."""
    rows = [found.originals, *list(found.rows.values())[:VIEWS]]
    side = WIDTH // max(sum(map(frames, row)) for row in rows)
    return sheet([[scale(picture, side) for picture in row] for row in rows])


def main() -> None:
    """Draw all, or those that are named."""
    wanted = sys.argv[1:]
    with tempfile.TemporaryDirectory() as temporary:
        images = photographs(Path(temporary))
        data = {"image": images, "any": images, **DATA}
        for kind in ("systems", "maskings"):
            for part in own_registry().parts(kind):
                if wanted and part.full_name not in wanted:
                    continue
                over = SPECIAL.get(part.full_name, data[part.modality.partition("+")[0]])
                try:
                    found = (
                        of_system(part, over, Path(temporary, "run"))
                        if kind == "systems"
                        else of_masking(part, over, Path(temporary, "run"))
                    )
                except UserError as error:
                    print(f"{part.full_name}: {error}")
                    continue
                path = ROOT / picture_of(part)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((strip(found) * 255).astype(np.uint8)).save(path, quality=80)
                print(f"wrote {picture_of(part)}")


if __name__ == "__main__":
    main()
