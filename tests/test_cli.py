"""The command line over all installed packages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
import yaml

from polymask import RunConfig
from polymask.cli import main
from polymask.parts import KINDS
from polymask.plugins.registry import default_registry
from polymask_vision.datasets.layers import example_source

HEAVY = {"torch", "lightning", "timm", "transformers", "matplotlib", "sklearn", "torchvision", "PIL"}
TINY = ("--preset", "tiny", "--data", "digits", "--data.limit", "40", "--workers", "0")
PATCH = ("--tokenizer.patch_size", "2")
HOSTED = ("--host.tokenizer.patch_size", "2")
DATA = {"image": "digits", "audio": "words", "text": "glosses", "points": "shapes", "motion": "skeletons"}
DATA |= {"plan": "made-up-plans", "video": "moving-digits", "pose": "camera-poses"}
DATA |= {"language/sparsepo": "sentiment", "vision/ga-dms": "persons", "vision/phg-mae": "layers:layered"}
DATA |= {"vision/mom": "placed-objects", "vision/mayor": "curved-text", "vision/ola-vlm": "scenes"}
DATA |= {"vision/masked-feature": "drawn-domains"}
"""Data of each modality, and of systems that need others: built in, but for layers."""
MORE = {
    "placed-objects": ("--data.count", "40"),
    "camera-poses": ("--data.windows", "40", "--data.test_windows", "20"),
    "persons": ("--data.count", "60", "--data.pixels", "16"),
    "curved-text": ("--data.count", "60", "--data.pixels", "48", "--data.height", "[6,8]"),
    "scenes": ("--data.count", "60", "--data.pixels", "8"),
    "drawn-domains": ("--levels", "[0]"),  # as fine as patches of 2 pixels
    "layers:layered": ("--data.tasks", "object", "--data.classes.object", "2"),
}
"""Options of data that would take long to make, or need to be told."""
UNLABELLED = (
    *("language/sparsepo", "vision/ga-dms", "vision/phg-mae"),
    *("vision/mom", "vision/masked-feature", "vision/mayor"),
)
"""Systems whose data have no classes to probe."""
HELPERS = ("openbeats-tokenizer", "pose-tokenizer", "masked-pdpp", "masked-feature", "mayor")
"""Systems that make labels for others, plans, segmentations or masks, and have no encoder to export."""
UNMASKED = (*HELPERS, "supervised", "r-amt", "maskunet", "dual", "ola-vlm")
"""Systems that hide nothing to look at, or weights or terms of the loss, of no sample."""
SYSTEMS = [part.full_name for part in default_registry().parts("systems")]
PARTS = [(kind, part.full_name) for kind in KINDS for part in default_registry().parts(kind)]


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Calls the command line in an empty folder; it must succeed; returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> str:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        capsys.readouterr()
        status = main(argv)
        torch.set_num_threads(threads)
        out, err = capsys.readouterr()
        assert status == 0, err
        return out

    return run


def weights(folder):
    state = torch.load(Path(folder, "checkpoints/last.ckpt"), weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (["--help"], 0),
        (["list"], 0),
        (["plugins"], 0),
        (["pretrain", "--help"], 0),
        (["pretrain", "vision/mae", "--data", "nothing"], 2),
        (["pretrain", "vision/mae", "--masking", "nothing"], 2),
        (["show", "nothing"], 2),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_names_are_resolved_without_anything_heavy(argv, status):
    code = (
        "import sys; from polymask.cli import main; status = main(sys.argv[1:]);"
        f"print('imported', sorted({HEAVY} & set(sys.modules))); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert done.stdout.splitlines()[-1] == "imported []"


def test_the_installed_command_is_this_one():
    (script,) = entry_points(group="console_scripts", name="polymask")
    assert script.load() is main
    command = Path(sys.executable).with_name("polymask")
    done = subprocess.run([command, "list", "--json"], capture_output=True, text=True)
    assert done.returncode == 0 and {p["name"] for p in json.loads(done.stdout)} >= set(SYSTEMS)


@pytest.mark.parametrize(("kind", "name"), PARTS, ids=lambda x: x)
def test_every_part_can_be_shown(call, kind, name):
    found = json.loads(call("show", name, "--kind", kind, "--json"))
    assert found["name"] == name and found["mechanism"]
    assert all(option["help"] for option in [*found["options"], *found["slots"]])
    assert name in call("show", name, "--kind", kind)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_example_of_a_system_is_of_that_system(call, system):
    """Several may share a class, whose text has one example."""
    shown = json.loads(call("show", system, "--kind", "systems", "--json"))
    assert set(re.findall(r"polymask pretrain (\S+)", shown["mechanism"])) == {system}


@pytest.mark.parametrize("system", SYSTEMS)
def test_help_of_every_system_explains_every_option(call, system):
    modality = default_registry().find("systems", system).modality
    out = call("pretrain", system, "--data", DATA[modality.partition("+")[0]], "--help")
    blocks = out.split("\n  --")[1:]
    for block in blocks:
        words = " ".join(block.split("\n\n")[0].split())
        assert len(words.replace("(default:", "").split()) > 3, f"no help: --{words}"


@pytest.mark.parametrize("words", ["pretrain audio/hubert", "look language/mlm", "recipe audio/spear"])
def test_help_lists_the_data_that_goes_with_a_system(call, words):
    verb, name = words.split()
    modality = name.partition("/")[0]
    (listed,) = re.findall(
        r"--data NAME\[:SOURCE\]\s+which data: (.*?) \(default", call(verb, name, "--help"), re.S
    )
    data = default_registry().parts("datasets")
    own = {"audio": "audio", "language": "text"}[modality]
    declared = [part.full_name for part in data if part.modality in (own, "any")]
    assert listed.replace(",", " ").split() == declared


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_run_from_end_to_end(call, system):
    part = default_registry().find("systems", system)
    modality = part.modality.partition("+")[0]
    cut = HOSTED if "host" in part.defaults else PATCH if "tokenizer" in part.defaults else ()
    patch = cut if modality == "image" else ()
    data = DATA.get(system, DATA[modality])
    tiny = [*(data if word == "digits" else word for word in TINY), *MORE.get(data, ())]
    if data.startswith("layers:"):
        Path("layered").mkdir()
        example_source(Path("layered"))
    out = call("pretrain", system, *tiny, *patch, "--steps", "3", "--warmup_steps", "1", "--out", "run")
    assert "run/report.html" in out
    saved = yaml.safe_load(Path("run/config.yaml").read_text())
    assert RunConfig.resolve(saved).plain() == saved
    if part.name == "mae":
        call("pretrain", "--config", "run/config.yaml", "--out", "again", "--no-report")
        one, other = weights("run"), weights("again")
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        assert yaml.safe_load(Path("again/config.yaml").read_text()) == saved
    if system not in UNLABELLED:
        assert "pre-trained" in out  # pretrain has probed it
    if part.name == "mae":
        found = json.loads(call("probe", "run", "--json", "--neighbours", "3"))
        assert found["settings"]["neighbours"] == 3
    if part.name not in HELPERS:
        call("export", "run", "--out", "encoder")
        assert Path("encoder/model.safetensors").exists()
        card = Path("encoder/README.md").read_text()
        assert system in card[:200] and f"system: {system}" in card
        assert ("most frequent class" in card) == (system not in UNLABELLED)
        assert ("masks.png" in card) == Path("encoder/masks.png").exists() == (part.name not in UNMASKED)


def test_a_system_can_be_looked_at(call):
    call("look", "vision/dmjd", *TINY[:-2], *PATCH, "--samples", "2", "--masks", "16", "-o", "a.png")
    assert Path("a.png").stat().st_size > 1000


def test_a_masking_can_be_looked_at(call):
    call("look", "core/random", "--data", "digits", "--masking.ratio", "0.25", "--masks", "16")
    assert Path("masks.png").read_bytes().startswith(b"\x89PNG")


def test_systems_can_be_compared(call):
    budget = ("--steps", "2", "--warmup_steps", "1", "--seeds", "1", "--masking.cell", "1")
    found = json.loads(call("compare", "vision/mae,vision/simmim", *TINY, *PATCH, *budget, "--json"))
    assert list(found["results"]) == ["vision/mae", "vision/simmim"]
    assert os.listdir("runs") == ["compare-mae-digits-system"]


def test_data_with_a_source(call):
    from PIL import Image

    for name in ("cats", "dogs"):
        Path("photos", name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (16, 16), (60 * i, 80, 120)).save(f"photos/{name}/{i}.png")
    argv = ("--preset", "tiny", "--data", "folder:photos", "--data.size", "16", "--workers", "0")
    call("pretrain", "vision/mae", *argv, "--steps", "1", "--no-report", "--out", "run")
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["data"]["name"] == "vision/folder" and config["data"]["source"] == "photos"
