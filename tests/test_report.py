"""The report of real runs: finished, stopped early, without labels, with files that cannot be read."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.image import imread, imsave

from polymask import Run, RunConfig, UserError
from polymask.evaluation import probe
from polymask.report import write_report
from polymask.training import fit

CONFIG = {
    "system": "vision/mae",
    "preset": "tiny",
    "tokenizer": {"patch_size": 2},
    "batch_size": 32,
    "steps": 6,
    "warmup_steps": 1,
    "log_every": 1,
    "workers": 0,
    "accelerator": "cpu",
    "precision": "32",
}


def train(folder, **changes):
    fit(Run.create(RunConfig.resolve({**CONFIG, **changes}), folder), progress=False)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished and probed run on digits."""
    folder = train(tmp_path_factory.mktemp("runs") / "digits", data={"name": "vision/digits", "limit": 120})
    probe(folder)
    return folder


@pytest.fixture(scope="module")
def html(run):
    return write_report(run).read_text()


class Reader(HTMLParser):
    """Collects text and addresses, and checks that every element is closed."""

    void = frozenset({"meta", "img", "br", "path", "use"})

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.pictures, self.text, self.elements = [], [], [], "", []
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "data")]
        if tag == "img":
            self.pictures.append(dict(attrs)["src"].partition(",")[2])
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.void:
            assert self.open and self.open.pop() == tag, f"closed too early: {tag}"

    def handle_data(self, data):
        self.text += data + " "

    @property
    def words(self):
        return " ".join(self.text.split())


def test_it_is_one_file_that_loads_nothing(run, html):
    reader = Reader(html)
    assert "http" not in re.sub(r"base64,[^\"]*", "", html)
    assert not {"script", "link", "iframe", "object", "embed"} & set(reader.elements)
    assert "@import" not in html and not re.search(r"url\((?!#)", html)
    assert reader.addresses and all(a.startswith(("data:image/png;base64,", "#")) for a in reader.addresses)
    assert not list(run.glob("*.partial"))


def test_pictures_are_images_of_equal_width(html):
    pictures = [imread(io.BytesIO(base64.b64decode(picture))) for picture in Reader(html).pictures]
    assert len(pictures) == 5
    *others, neighbours, masks = pictures
    assert len({picture.shape for picture in (*others, masks)}) == 1  # original, visible, predicted, masks
    height, width = neighbours.shape[:2]
    assert height / width == pytest.approx(6 / 7, abs=0.01)


def test_it_says_what_a_reader_needs(html):
    words = Reader(html).words
    for part in (
        "vision/mae",
        "vision/digits",
        "6 of 6, finished",
        "hidden predicted (each patch scaled by its own true mean and variance)",
        "12 of 16 sites in every mask",
        "pre-trained",
        "untrained",
        "raw input",
        "never stand for those of a paper",
        "masking.name core/random",
        "precision 32",
        "Spread of features",
        "Waiting for data",
    ):
        assert part in words, part


def test_the_probe_table_is_the_probe(run, html):
    rows = json.loads((run / "probe.json").read_text())["rows"]
    words = Reader(html).words
    for row in rows:
        a = row["accuracy"]
        assert f"{a['mean']:.3f} {a['low']:.3f} to {a['high']:.3f}" in words


def test_it_is_the_same_each_time(run, html):
    assert write_report(run).read_text() == html


def test_it_leaves_the_run_as_it_is(run, html):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "report.html"}
    write_report(run)
    assert before == {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "report.html"}


def test_a_run_that_was_stopped_at_once(run, tmp_path):
    """Nothing but a configuration: what is missing is said in words, the rest is shown."""
    shutil.copy(run / "config.yaml", tmp_path)
    words = Reader(write_report(tmp_path).read_text()).words
    for part in (
        "Not probed yet",
        "No step has been logged yet",
        "could not be opened",
        "What follows shows it untrained",
        "0 of 6, not finished",
        "No environment was recorded",
        "12 of 16 sites in every mask",
    ):
        assert part in words, part


def test_a_run_whose_data_is_gone(run, tmp_path):
    text = (run / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("vision/digits", "vision/gone"))
    words = Reader(write_report(tmp_path).read_text()).words
    assert "could not be opened again" in words and "vision/gone" in words
    assert "Nothing can be drawn" in words


def test_photographs_without_labels_and_files_that_cannot_be_read(tmp_path):
    photos = tmp_path / "photos & <b>others"
    photos.mkdir()
    generator = np.random.default_rng(0)
    for k in range(40):
        imsave(photos / f"{k}.png", generator.random((8, 8, 3)))
    (photos / "<script>alert(1)<.png").write_bytes(b"not an image")
    data = {"name": "folder", "source": str(photos), "size": 8}
    run = train(tmp_path / "run", data=data, steps=2)
    html = write_report(run).read_text()
    reader = Reader(html)
    assert "script" not in reader.elements and "b" not in reader.elements
    assert "<script>alert(1)<.png" in reader.words and "Files left out" in reader.words
    assert "Not probed yet" in reader.words and "labelled" in reader.words
    with pytest.raises(UserError, match="needs labels"):
        probe(run)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())
