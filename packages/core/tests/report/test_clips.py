"""Clips are shown frame by frame: in a report of a real run and in what ``look`` draws."""

from __future__ import annotations

import base64
import html
import importlib.util
import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from polymask import Request, Run, RunConfig, Step, UserError, build
from polymask.maskings import Random
from polymask.plugins.registry import default_registry
from polymask.report import write_report
from polymask.report.look import look, mask_sheet
from polymask.training import fit

CONFIG = {
    "data": "clips/squares",
    "steps": 2,
    "batch_size": 8,
    "warmup_steps": 1,
    "workers": 0,
    "accelerator": "cpu",
    "precision": "32",
}


@pytest.fixture(scope="module")
def clips():
    """The module ``clips.py``, registered as the plugin "clips"."""
    spec = importlib.util.spec_from_file_location("polymask_clips", Path(__file__).with_name("clips.py"))
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    registry = default_registry()
    record = registry.add("clips", module)
    assert record.status == "ok", record.error
    yield module
    registry._drop("clips")
    registry.plugins.remove(record)


def train(folder, system):
    run = Run.create(RunConfig.resolve({"system": system, **CONFIG}), folder)
    fit(run, progress=False)
    return run


def pictures(page):
    """Pixels of the pictures of a page, by what they show."""
    images = re.findall(r'<img src="data:image/png;base64,([^"]*)" alt="([^"]*)"', page)
    return {html.unescape(alt): imread(io.BytesIO(base64.b64decode(data))) for data, alt in images}


def test_a_report_shows_clips_as_film_strips(clips, tmp_path):
    page = write_report(train(tmp_path / "run", "clips/mae")).read_text()
    shown = pictures(page)
    nearest = shown.pop(next(alt for alt in shown if "nearest" in alt))
    assert nearest.shape[1] == 7 * (80 + 8) - 8  # one frame of each
    assert len(shown) == 4  # original, visible, predicted, masks
    assert "could not be drawn" not in page
    frame = 160  # 16 pixels, ten times as large
    for picture in shown.values():
        assert picture.shape == (4 * (frame + 16) - 16, 8 * (frame + 2) - 2, 4)
    original = next(iter(shown.values()))
    for t in range(8):  # the square of sample 0 is at the top and moves
        row = original[5, t * (frame + 2) : t * (frame + 2) + frame, 0]
        assert np.flatnonzero(row > 0.9).tolist() == list(range(10 * t, 10 * t + 60))
    assert "Coverage by position, in slices" in page


def test_a_picture_that_cannot_be_drawn_is_named_and_the_rest_stands(clips, tmp_path):
    run = train(tmp_path / "run", "clips/faulty")
    with pytest.warns(UserWarning, match="could not be drawn") as warned:
        page = write_report(run).read_text()
    text = " ".join(html.unescape(page).split())
    for message in (
        "'channels first' of clips/faulty could not be drawn: UserError: cannot draw a tensor of shape "
        "[3, 8, 16, 16]: give a picture [H, W] or [C, H, W], or a clip [T, C, H, W], time first",
        "Masks of clips/faulty could not be drawn: KeyError: 'no masks here'",
    ):
        assert message in text
        assert any(message in str(warning.message) for warning in warned)
    first, *others = pictures(page)
    assert first == "samples" and len(others) == 1  # nearest neighbours
    assert "What the encoder learned" in page and "Configuration" in page


@pytest.mark.slow
def test_a_part_that_ends_the_program_ends_no_report(clips, tmp_path, monkeypatch):
    run = train(tmp_path / "run", "clips/mae")
    monkeypatch.setattr(type(run.system), "preview", lambda *args: sys.exit(3))
    with pytest.warns(UserWarning, match="Pictures of clips/mae could not be drawn: SystemExit: 3"):
        page = write_report(run).read_text()
    assert "What the encoder learned" in page


def test_each_frame_is_under_the_sites_of_its_time(clips):
    masking = Random(ratio=0.5)
    sight = mask_sheet(masking, clips.Squares(), tokenizer=clips.Tubelets(), draws=1, masks=40, seed=3)
    (original,), (drawn,) = sight.originals, next(iter(sight.rows.values()))
    assert original.shape == drawn.shape == (8, 160, 160, 3)
    request = Request(torch.tensor([0]), 64, Step(0, 1000, 3), grid=clips.GRID)
    hidden = masking(request).hidden.view(clips.GRID)
    changed = np.abs(drawn - original).max(axis=-1)[:, 20::40, 20::40] > 1e-6
    assert np.array_equal(changed, hidden.repeat_interleave(2, dim=0).numpy())
    assert sight.statistics["mask"].coverage.shape == clips.GRID


@pytest.mark.parametrize("what", ["core/random", "clips/mae"])
def test_look_draws_clips(clips, tmp_path, what):
    data, tokenizer = clips.Squares(), clips.Tubelets() if what == "core/random" else None
    drawn = build(what, "maskings" if tokenizer else "systems", facts=data.provides)
    path = look(drawn, data, tmp_path / "m.png", tokenizer=tokenizer, masks=40, samples=16)
    assert imread(path).shape[2] == 4


def test_samples_are_columns_and_a_frame_takes_one(clips):
    for samples, count in ((4, 1), (8, 1), (16, 2), (20, 2)):
        sight = mask_sheet(
            Random(), clips.Squares(), tokenizer=clips.Tubelets(), draws=1, masks=40, samples=samples
        )
        assert len(sight.originals) == count


def test_look_says_what_shape_it_wants(clips):
    class Turned(clips.Squares):
        def to_image(self, x):
            return x.transpose(0, 1)

    with pytest.raises(UserError, match=r"shape \[3, 8, 16, 16\].*\[T, C, H, W\], time first"):
        mask_sheet(Random(), Turned(), tokenizer=clips.Tubelets(), masks=40)
