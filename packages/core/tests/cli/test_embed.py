"""``polymask embed``: features of a data set in a file, those that the probes see."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from polymask import Run, UserError
from polymask.evaluation import tables
from polymask.evaluation.embed import embed
from polymask.evaluation.features import encoder_features, evaluating, extract
from polymask.files import locked

TRAIN = ("toy/mean", "--preset", "small", "--data", "toy/shapes", "--data.size", "[4,6]", "--data.n", "32")


@pytest.fixture
def trained(polymask):
    assert (
        polymask("pretrain", *TRAIN, "--out", "run", "--no-report", "--workers", "0", "--steps", "2").status
        == 0
    )
    return "run"


def test_rows_are_the_features_that_the_probes_see(polymask, trained):
    done = polymask("embed", trained, "-o", "f.npz", "--batch_size", "5", "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out) == {"out": "f.npz", "rows": 64}
    run, found = Run.open(trained), np.load("f.npz")
    with evaluating(run.system):
        for name in ("train", "test"):
            features = extract({"x": encoder_features(run.system)}, run.data.split(name))["x"]
            rows = found["split"] == name
            np.testing.assert_allclose(found["embedding"][rows], features, rtol=0, atol=1e-6)
            assert found["id"][rows].tolist() == list(range(32))
            assert found["label"][rows].tolist() == run.data.labels(name).tolist()
    assert found["class"].tolist() == ["lying", "standing"] * 32
    assert "name" not in found


def test_all_formats_hold_the_same(trained, tmp_path):
    run = Run.open(trained)
    for name in ("f.npz", "new/f.safetensors"):
        assert embed(run, tmp_path / name, split="test", pool="tokens", batch_size=7) == 32 * 24
    one = np.load(tmp_path / "f.npz")
    with safe_open(tmp_path / "new/f.safetensors", "numpy") as other:
        for name in ("id", "label", "token", "embedding"):
            assert np.array_equal(other.get_tensor(name), one[name]), name
        text = json.loads(other.metadata()["text"])
    assert text == {name: one[name].tolist() for name in ("split", "class")}
    assert one["token"][:25].tolist() == [*range(24), 0] and one["embedding"].dtype == np.float32


def test_parquet_is_read_by_pandas(trained, tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    run = Run.open(trained)
    embed(run, tmp_path / "f.parquet", batch_size=9)
    embed(run, tmp_path / "f.npz", batch_size=9)
    frame, one = pandas.read_parquet(tmp_path / "f.parquet"), np.load(tmp_path / "f.npz")
    assert list(frame.columns) == ["id", "split", "label", "class", "embedding"]
    for name in ("id", "split", "label", "class"):
        assert frame[name].tolist() == one[name].tolist()
    assert np.array_equal(np.stack(frame.embedding), one["embedding"])


def test_other_data_is_prepared_as_that_of_the_run(polymask, trained):
    """The data set alone would have 4 x 4 cells; an option that is given counts nevertheless."""
    given = ("embed", trained, "--data", "toy/shapes", "--split", "test", "--pool", "tokens", "-o", "f.npz")
    for argv in ([], ["--data.n", "3"]):
        done = polymask(*given, *argv)
        assert done.status == 0, done.err
        assert np.load("f.npz")["token"].max() + 1 == 24
    refused = polymask(*given, "--data.size", "[3,5]")
    assert refused.status == 2 and "does not take such data (image [32, 1, 3, 5])" in refused.err
    assert polymask("embed", trained, "--data.n", "3", "-o", "f.npz", "--json").out.count('"rows": 6') == 1


def test_an_export_embeds_data_that_is_given(polymask, trained):
    assert polymask("export", trained, "--out", "encoder").status == 0
    given = ("--data", "toy/shapes", "-o")
    assert polymask("embed", "encoder", *given, "a.npz").status == 0
    assert polymask("embed", trained, *given, "b.npz").status == 0
    assert np.array_equal(np.load("a.npz")["embedding"], np.load("b.npz")["embedding"])
    Path("other").mkdir()
    Path("other/config.json").write_text("{}")
    assert "is a model for another library" in polymask("embed", "other", "-o", "c.npz").err
    missing = polymask("embed", "encoder", "-o", "c.npz")
    assert missing.status == 2 and "give the data to embed" in missing.err


def test_a_run_whose_data_is_gone_is_exported_and_embeds_other_data(polymask, trained, toy, monkeypatch):
    def gone(*args, **options):
        raise FileNotFoundError("photos")

    monkeypatch.setattr(toy.Shapes, "__init__", gone)
    assert polymask("export", trained, "--out", "encoder").status == 0
    assert "photos" in polymask("embed", trained, "-o", "f.npz").err

    class Other:
        key, classes, skipped, provides = "image", None, [], {}

        def split(self, name, *, augment=False):
            return [{"image": torch.zeros(1, 4, 6)}] * 3

        def labels(self, name):
            return None

    assert embed(trained, "f.npz", data=Other(), split="train") == 3
    assert sorted(np.load("f.npz")) == ["embedding", "id", "split"]


WRONG = [
    ([], "the first argument should be the folder of a run or of an export"),
    (["run"], "give -o FILE"),
    (["run", "-o", "f.csv"], "f.csv: choose a name that ends in .parquet, .npz, .safetensors"),
    (["run", "-o", "f.npz", "--layer", "1"], "the blocks of Net cannot be read"),
    (["run", "-o", "f.npz", "--pool", "prefix"], "this encoder has no class token"),
    (["run", "-o", "f.npz", "--pools", "mean"], "did you mean --pool?"),
    (["run", "-o", "f.npz", "--data", "nothing"], "no dataset is called 'nothing'"),
    (["nowhere", "-o", "f.npz"], "nowhere is no run folder"),
    (["run", "-o", "run/config.yaml/f.npz"], "cannot be written"),
]


def test_what_is_wrong_is_said(polymask, trained):
    for words, message in WRONG:
        result = polymask("embed", *words)
        assert result.status == 2 and message in result.err, words


def test_what_was_there_stays_where_features_are_not_finite(polymask, trained, tmp_path):
    run = Run.open(trained)
    embed(run, "f.npz")
    before = (tmp_path / "f.npz").read_bytes()
    with torch.no_grad():
        run.system.encoder.proj.bias.fill_(torch.nan)
    with pytest.raises(Exception, match="not finite"):
        embed(run, "f.npz")
    assert (tmp_path / "f.npz").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npz", "run"]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".parquet"])
def test_nothing_that_a_killed_process_computed_is_lost(trained, tmp_path, monkeypatch, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    run, seen = Run.open(trained), []
    whole = embed(run, f"whole{suffix}", batch_size=8)

    def append(log, rows, samples):
        kept(log, rows, samples)
        if log.samples >= 40:
            log.file.write(b"half of a record")
            log.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    kept = tables.Log.append
    if (child := os.fork()) == 0:
        try:
            tables.Log.append = append
            embed(run, f"f{suffix}", batch_size=8)
        finally:  # nothing of this test session goes on in two processes
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not Path(f"f{suffix}").exists() and Path(f".f{suffix}.unfinished").is_dir()

    with pytest.raises(UserError, match=r"was begun with other pool, and .*unfinished has its rows so far"):
        embed(run, f"f{suffix}", pool="tokens")
    monkeypatch.setattr(run.system, "encode", lambda batch: seen.append(len(batch["id"])) or encode(batch))
    encode = type(run.system).encode.__get__(run.system)
    assert embed(run, f"f{suffix}", batch_size=16) == whole == 64
    assert seen == [16, 8]  # 32 of training and 8 of test were there
    if suffix == ".parquet":
        pandas = pytest.importorskip("pandas")
        one, other = (pandas.read_parquet(name) for name in (f"f{suffix}", f"whole{suffix}"))
        assert one.drop(columns="embedding").equals(other.drop(columns="embedding"))
        np.testing.assert_allclose(np.stack(one.embedding), np.stack(other.embedding), rtol=0, atol=1e-6)
    else:
        assert Path(f"f{suffix}").stat().st_size == Path(f"whole{suffix}").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f"f{suffix}", "run", f"whole{suffix}"])


def test_rows_that_were_damaged_are_computed_again(trained, monkeypatch):
    whole = embed(trained, "whole.npz", batch_size=8)
    append, count = tables.Log.append, iter(range(100))

    def stopping(log, rows, samples):
        if next(count) == 4:
            raise OSError("stop")
        append(log, rows, samples)

    for damage in (lambda raw: raw[:-30] + bytes(30), lambda raw: raw[:200] + b"?" + raw[201:]):
        monkeypatch.setattr(tables.Log, "append", stopping)
        with pytest.raises(OSError, match="stop"):
            embed(trained, "f.npz", batch_size=8)
        monkeypatch.setattr(tables.Log, "append", append)
        log = Path(".f.npz.unfinished/rows")
        log.write_bytes(damage(log.read_bytes()))
        assert embed(trained, "f.npz", batch_size=8) == whole
        one, other = np.load("f.npz"), np.load("whole.npz")
        assert all(np.array_equal(one[name], other[name]) for name in other)
        Path("f.npz").unlink()
        count = iter(range(100))


def test_names_that_are_no_text_are_written_with_a_mark(tmp_path):
    pandas, _ = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    rows = {"name": ["a\udcff.png", "b.png"], tables.WIDE: torch.zeros(2, 3)}
    with tables.table(tmp_path / "f.parquet", {}) as log:
        log.append(rows, 2)
    assert list(pandas.read_parquet(tmp_path / "f.parquet").name) == ["a\ufffd.png", "b.png"]


class Marked:
    """Samples of which the fourth cannot be read, so that another stands in for it."""

    def __init__(self, samples):
        self.samples = samples
        self.split = SimpleNamespace(bad=torch.arange(len(samples)) == 3)

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[4 if index == 3 else index]


def test_what_cannot_be_read_has_no_row(trained, monkeypatch):
    run = Run.open(trained)
    whole, split = embed(run, "whole.npz", split="train"), run.data.split
    monkeypatch.setattr(run.data, "split", lambda name: Marked(split(name)))
    assert embed(run, "f.npz", split="train", batch_size=2) == whole - 1
    one, other = np.load("f.npz"), np.load("whole.npz")
    assert 3 not in one["id"] and np.array_equal(one["id"], np.delete(other["id"], 3))
    np.testing.assert_allclose(one["embedding"], np.delete(other["embedding"], 3, axis=0), rtol=0, atol=1e-6)


def test_plain_samples_are_embedded_too(trained):
    run = Run.open(trained)
    samples = [{name: x for name, x in run.data.split("test")[k].items() if name != "id"} for k in range(4)]
    assert embed(run, "f.npz", data=samples) == 4


def test_two_processes_do_not_write_one_file(trained):
    with locked(Path(".f.npz.unfinished")), pytest.raises(UserError, match="is in use by process"):
        embed(trained, "f.npz")
