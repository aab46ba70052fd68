"""``polymask generate``: samples of a run in files, and on its page."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from polymask import Generation, Run, System, UserError
from polymask.data import evenly
from polymask.files import locked
from polymask.report.generation import generate, generator_of
from polymask.report.page import write_report
from polymask.types import Share

TRAIN = ("toy/mean", "--preset", "small", "--data", "toy/shapes", "--data.size", "[4,6]", "--data.n", "32")


def make(self, batch, step, mask=None, *, level: Share = 0.5):
    """Noise, brighter with every state.

    Args:
        level: the brightest.
    """
    image = batch["image"]
    noise = step.noise(batch["id"], image[0].numel()).view_as(image)
    states = [level * share * noise for share in (0.0, 0.5, 1.0)]
    if mask is not None:
        hidden = type(mask)(mask.hidden.view_as(image))
        states = [hidden.fill(image, state) for state in states]
    return Generation({"image": states[-1]}, [{"image": state} for state in states])


@pytest.fixture
def trained(polymask):
    done = polymask("pretrain", *TRAIN, "--out", "run", "--no-report", "--workers", "0", "--steps", "2")
    assert done.status == 0, done.err
    return "run"


@pytest.fixture
def generates(toy, monkeypatch):
    monkeypatch.setattr(toy.Mean, "generate", make, raising=False)


def test_files_hold_what_the_system_made(polymask, trained, generates):
    done = polymask("generate", trained, "-n", "5", "--level", "0.25", "--seed", "3")
    assert done.status == 0 and done.out == "run/generated\n", done.err
    assert polymask("generate", trained, "-n", "5", "--level", "0.25", "--seed", "3").status == 0
    names = {path.name for path in Path("run/generated").iterdir()}
    assert names == {
        "grid.png",
        "states.png",
        "samples.safetensors",
        *(f"sample-0000{k}.png" for k in range(5)),
    }
    found = load_file("run/generated/samples.safetensors")
    assert found["image"].shape == (5, 1, 4, 6) and found["id"].tolist() == [0, 1, 2, 3, 4]
    assert 0.2 < found["image"].max() <= 0.25
    from matplotlib.image import imread

    picture = torch.from_numpy(imread("run/generated/sample-00002.png"))
    torch.testing.assert_close(picture[..., 0], found["image"][2, 0], rtol=0, atol=1 / 250)
    assert polymask("generate", trained, "-o", "elsewhere", "-n", "2", "--json").out.startswith("{")
    assert load_file("elsewhere/samples.safetensors")["image"].max() > 0.25


def test_a_folder_of_samples_has_one_writer(polymask, trained, generates):
    with locked(Path("run/generated")):
        done = polymask("generate", trained, "-n", "2")
    assert done.status == 2 and "run/generated is in use by process" in done.err


def test_samples_depend_on_the_seed_and_not_on_the_batch(trained, generates):
    run = Run.open(trained)
    whole = generate(run, 70)
    parts = generate(run, 70, batch_size=9)
    assert torch.equal(whole.samples["image"], parts.samples["image"])  # more than there are held-out samples
    assert len(whole.frames) == len(parts.frames) == 3
    assert torch.equal(whole.frames[1]["image"], parts.frames[1]["image"])
    assert torch.equal(whole.samples["image"][:4], generate(run, 4).samples["image"])
    assert not torch.equal(whole.samples["image"], generate(run, 70, seed=1).samples["image"])


def test_what_a_masking_leaves_visible_is_completed(polymask, trained, generates):
    done = polymask(
        "generate", trained, "-n", "4", "--masking", "core/random", "--masking.ratio", "0.25", "--json"
    )
    assert done.status == 0, done.err
    assert "known.png" in json.loads(done.out)["files"]
    made = load_file("run/generated/samples.safetensors")["image"]
    test = Run.open(trained).data.split("test")
    known = torch.stack([test[i]["image"] for i in evenly(32, 4)])
    assert ((made == known).flatten(1).sum(1) == 18).all()  # 6 of 24 hidden


def test_what_cannot_be_is_said(polymask, trained, toy, monkeypatch):
    other = ("pretrain", "toy/other", "--data", "toy/shapes", "--steps", "2", "--out", "other", "--no-report")
    assert polymask(*other, "--workers", "0", "--batch_size", "8").status == 0
    done = polymask("generate", "other")
    assert done.status == 2 and "Other generates nothing; of the installed systems these do:" in done.err
    assert "Generated samples" not in write_report("other").read_text()
    monkeypatch.setattr(toy.Mean, "generate", make, raising=False)
    with pytest.raises(UserError, match="System generates nothing; .* toy/mean"):
        generator_of(System())
    for words, message in {
        ("--levle", "1"): "level",
        ("--level", "2"): "0 to 1",
        ("-n", "0"): "1 or more",
        ("--masking", "nothing"): "nothing",
    }.items():
        done = polymask("generate", trained, *words)
        assert done.status == 2 and message in done.err, done.err
    assert polymask("generate").status == 2
    help_ = polymask("generate", trained, "--help")
    assert help_.status == 0 and "the brightest" in help_.out and "--masking" in help_.out


@pytest.mark.parametrize(
    ("verb", "place"), [("generate", "there/made"), ("look", "there/masks.png"), ("report", "run")]
)
def test_a_place_that_cannot_be_written_is_told_before_the_work(
    polymask, trained, toy, monkeypatch, verb, place
):
    def refuse(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    def work(*_, **__):
        pytest.fail("worked for nothing")

    monkeypatch.setattr(toy.Mean, "generate", work, raising=False)
    for name in ("look.mask_sheet", "page.gather"):
        monkeypatch.setattr(f"polymask.report.{name}", work)
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    done = polymask(verb, trained, *(() if verb == "report" else ("--out", place)))
    assert done.status == 2 and "cannot be written: Read-only file system" in done.err, done.err


@pytest.mark.parametrize("name", ["grid.png", "samples.safetensors", "states.png", "sample-00000.png"])
def test_files_of_something_else_stay(polymask, trained, generates, name):
    Path("mine").mkdir()
    Path("mine", name).write_text("mine")
    done = polymask("generate", trained, "--out", "mine")
    assert done.status == 2 and f"mine holds a {name} of something else" in done.err
    assert Path("mine", name).read_text() == "mine"


def test_samples_give_way_to_others_of_ours(polymask, trained, generates):
    assert polymask("generate", trained, "-n", "4", "--masking", "core/random", "--out", "ours").status == 0
    Path("ours", "sample-notes.txt").write_text("mine")
    assert polymask("generate", trained, "-n", "2", "--out", "ours").status == 0
    names = {path.name for path in Path("ours").iterdir() if path.suffix in (".png", ".txt")}
    samples = {"sample-00000.png", "sample-00001.png"}
    assert names == {"grid.png", "states.png", *samples, "sample-notes.txt"}


def test_the_page_of_a_run_shows_a_film(trained, generates):
    page = write_report(trained).read_text()
    assert "Generated samples" in page
    style = re.search(
        r'class="film" style="aspect-ratio: (\d+) / (\d+); --steps: 2; --last: (-[\d.]+)%"', page
    )
    assert style and float(style[3]) == pytest.approx(-200 / 3, abs=1e-3)
