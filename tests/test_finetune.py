"""Fine-tuning in every modality: from the encoder of a run, to a classifier that leaves by export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from polymask import Run, RunConfig, UserError
from polymask.data import collate
from polymask.evaluation.finetuning import Finetuned, finetune
from polymask.export import Classifier, export, load
from polymask.training import fit

pytestmark = pytest.mark.filterwarnings("ignore:no training sample is labelled")

QUICK = {"steps": 2, "batch_size": 8, "workers": 0, "accelerator": "cpu", "precision": "32"}
DATA = {"audio": "audio/words", "language": "language/glosses", "pointcloud": "pointcloud/shapes"}
SYSTEMS = ("audio/mae", "audio/hubert", "language/mlm", "language/meap", "pointcloud/mae")


def tuned(name: str, folder: Path, **options: Any) -> Finetuned:
    """A run of a system, if there is none yet, and its encoder fine-tuned with half of the labels."""
    if not folder.exists():
        given = {"preset": "tiny", "data": DATA[name.partition("/")[0]], "data.limit": 40, **QUICK}
        fit(Run.create(RunConfig.resolve({"system": name, **given}), folder), progress=False)
    out, recipe = folder.parent / "tuned", {**QUICK, "warmup_steps": 1, **options}
    return finetune(folder, out, labels=(0.5,), seeds=1, options=recipe, progress=False)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_encoder_of_a_run_is_tuned_and_its_classifier_leaves(name: str, tmp_path: Path) -> None:
    found = tuned(name, tmp_path / "run")
    assert list(found.right) == ["from scratch", "pre-trained"]
    run, theirs = Run.open(tmp_path / "tuned" / "pre-trained-0.5-seed0"), Run.open(tmp_path / "run").system
    began: Any = run.untrained()
    assert all(torch.equal(began.encoder.state_dict()[n], x) for n, x in theirs.backbone.state_dict().items())
    samples = run.data.split("test")
    batch = collate([samples[i] for i in range(3)])
    classifier = load(export(run, "safetensors", tmp_path / "out"))
    system: Any = run.system
    with torch.no_grad():
        logits = system.eval().classify(batch)
        assert isinstance(classifier, Classifier) and torch.equal(classifier.classify(batch), logits)
    assert list(classifier.names) == list(map(str, run.data.classes or ()))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("audio/mae", {"mixup": 0.8, "cutmix": 1.0}),
        ("language/mlm", {"mixup": 0.8}),
        ("pointcloud/mae", {"cutmix": 1.0}),
    ],
)
@torch.no_grad()
def test_what_has_no_grid_is_not_mixed(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mixup and cutmix need numbers on a grid"):
        tuned(name, tmp_path / "run", **options)
    assert not (tmp_path / "tuned").exists()


@torch.no_grad()
def test_spectrograms_of_one_length_can_be_mixed(tmp_path: Path) -> None:
    one_length = {"data.pad": True, "data.seconds": 1.0}
    found = tuned("audio/mae", tmp_path / "run", mixup=0.8, cutmix=1.0, **one_length)
    assert len(found.right["pre-trained"][0][0]) > 0


def test_levels_have_one_rate(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="UNet does not: give --layer_decay 1"):
        tuned("pointcloud/msm", tmp_path / "levels")


def test_classifiers_of_transformers_which_compute_otherwise_are_refused(tmp_path: Path) -> None:
    tuned("language/mlm", tmp_path / "run")
    run = tmp_path / "tuned" / "pre-trained-0.5-seed0"
    with pytest.raises(
        UserError, match="transformers has no classifier on Transformer that computes the same"
    ):
        export(run, "transformers", tmp_path / "out")
    export(run, "transformers", tmp_path / "encoder", head=False)
    assert (tmp_path / "encoder" / "config.json").is_file()
