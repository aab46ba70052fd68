"""One page over all runs of a folder."""

from __future__ import annotations

import json
import re

import pytest

from polymask import UserError
from polymask.evaluation.probe import evaluate
from polymask.files import write_json, write_yaml
from polymask.report import write_index


def keep(
    folder, *, system="vision/mae", masking="core/random", data="vision/digits", steps=(10, 20), probe=True
):
    """A run as its files tell it, without any weights."""
    import torch

    folder.mkdir(parents=True)
    config = {"system": system, "preset": "small", "data": {"name": data}, "masking": {"name": masking}}
    write_yaml(folder / "config.yaml", {**config, "encoder": {"name": "vision/vit"}, "steps": steps[-1]})
    lines = [f"{step},{1 / step},30,{step / 100 if step != 10 else ''}" for step in steps]
    (folder / "metrics.csv").write_text("\n".join(["step,loss,seconds,kNN", *lines, ""]))
    if probe:
        none = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(steps[-1]))
        labels = torch.arange(40) % 2
        good = none + 3 * labels[:, None]
        found = evaluate({"pre-trained": tuple(good), "untrained": tuple(none)}, labels, labels)
        write_json(folder / "probe.json", found.to_json())


@pytest.fixture
def page(tmp_path):
    def write():
        path = write_index(tmp_path)
        assert path == tmp_path / "index.html"
        return path.read_text()

    return write


def cells(html):
    """Rows of the table as text."""
    body = html[html.index("<tbody>") : html.index("</tbody>")]
    return [
        [
            re.sub(r"<[^>]+>", " ", cell).split()
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)
        ]
        for row in re.findall(r"<tr>(.*?)</tr>", body, re.S)
    ]


def test_a_row_is_what_the_files_of_a_run_say(tmp_path, page):
    keep(tmp_path / "a")
    keep(tmp_path / "stages/b", masking="vision/block", steps=(10, 20, 30), probe=False)
    (tmp_path / "a/report.html").write_text("a report")
    scores = [{"row": "pre-trained", "metric": "nDCG@10", "value": 0.25, "low": None, "high": None}]
    kept = {"evaluation": "language/retrieval", "scores": scores, "settings": {}}
    (tmp_path / "a/evaluation-language-retrieval.json").write_text(json.dumps(kept))
    html = page()
    first, second = cells(html)
    found = json.loads((tmp_path / "a/probe.json").read_text())
    assert first[0] == ["a"] and 'href="a/report.html"' in html
    assert first[1][0] == f"{found['rows'][0]['accuracy']['mean']:.3f}"
    gain = found["rows"][0]["accuracy"]["mean"] - found["rows"][2]["accuracy"]["mean"]
    assert gain > 0 and first[2][0] == f"{gain:+.3f}"
    assert first[5:] == [
        ["0.25"],
        ["vision/mae"],
        ["vision/digits"],
        ["core/random"],
        ["small"],
        ["20"],
        ["1.0"],
        ["0.05"],
    ]
    assert second[0] == ["stages/b"] and 'href="stages/b"' in html
    assert second[1:6] == [[]] * 5 and second[8] == ["vision/block"] and second[10:12] == [["30"], ["1.5"]]


def test_parts_that_all_runs_share_have_no_column(tmp_path, page):
    keep(tmp_path / "a")
    keep(tmp_path / "b")
    assert "core/random" not in page()


def test_lines_that_can_be_compared_share_a_chart(tmp_path, page):
    keep(tmp_path / "a")
    keep(tmp_path / "b", system="vision/hpm", steps=(5, 15))
    keep(tmp_path / "c", data="vision/fashion")
    html = page()
    titles = re.findall(r"<h3>(.*?)</h3>", html)
    assert titles == [
        "vision/digits",
        "vision/fashion",
        "vision/mae on vision/digits",
        "vision/hpm on vision/digits",
        "vision/mae on vision/fashion",
    ]


def test_a_run_that_cannot_be_read_is_named_and_left_out(tmp_path, page):
    keep(tmp_path / "a")
    keep(tmp_path / "b")
    (tmp_path / "b/probe.json").write_text("{")
    with pytest.warns(UserWarning, match="b is left out: .*probe.json is damaged"):
        html = page()
    assert [row[0] for row in cells(html)] == [["a"]]


def test_names_are_escaped_and_comparisons_linked(tmp_path, page):
    keep(tmp_path / "<b>&")
    (tmp_path / "cmp").mkdir()
    (tmp_path / "cmp/comparison.html").write_text("")
    html = page()
    assert "&lt;b&gt;&amp;" in html and "<b>&" not in html and 'href="cmp/comparison.html"' in html


def test_a_page_of_somebody_else_stays(tmp_path, page):
    keep(tmp_path / "a")
    page()
    page()  # ours is written again
    (tmp_path / "index.html").write_text("<title>my site</title>")
    with pytest.raises(UserError, match="is a page of something else: move it"):
        page()
    assert (tmp_path / "index.html").read_text() == "<title>my site</title>"


def test_a_folder_without_runs_is_refused(tmp_path, page):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match="is no run folder, and holds none"):
        page()
