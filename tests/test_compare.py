"""Comparisons of real runs: fair, resumable, never mixed up."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
import yaml

from polymask import UserError
from polymask.files import locked
from polymask.report import compare as module
from polymask.report.compare import compare
from polymask.training import loader

CONFIG = {
    "system": "vision/mae",
    "preset": "tiny",
    "tokenizer": {"patch_size": 2},
    "data": {"name": "vision/digits", "limit": 64},
    "batch_size": 16,
    "steps": 4,
    "warmup_steps": 1,
    "log_every": 1,
    "checkpoint_every": 1,
    "workers": 0,
    "accelerator": "cpu",
    "precision": "32",
}
VARIANTS = {
    "core/random": {"masking": "core/random"},
    "block": {"masking": {"name": "core/block", "ratio": 0.5}},
}
run = partial(compare, CONFIG, VARIANTS, seeds=2, probe={"limit": 40}, progress=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A comparison that nothing interrupted, and the order in which its runs read their samples."""
    out, order = tmp_path_factory.mktemp("compare") / "whole", []
    read = loader.Keyed.__getitems__

    def recorded(self, keys):
        if len(keys) > 1:  # a batch
            order.append(list(keys))
        return read(self, keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader.Keyed, "__getitems__", recorded)
        result = run(out)
    return out, result, order


def numbers(result):
    """What a comparison found, but for what depends on the clock."""
    return {
        label: [{k: v for k, v in value.items() if not k.startswith("ms")} for value in values]
        for label, values in result.values.items()
    }


def weights(folder):
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    return checkpoint["state_dict"]


def test_it_leaves_a_run_per_variant_and_seed_and_the_result(whole):
    out, result, _ = whole
    runs = ["block-seed0", "block-seed1", "core-random-seed0", "core-random-seed1"]
    files = ["comparison.html", "comparison.json", "comparison.md", "comparison.png"]
    assert sorted(p.name for p in out.iterdir()) == sorted(runs + files)
    found = json.loads((out / "comparison.json").read_text())
    assert found["results"]["block"]["values"] == result.values["block"]
    assert found["results"]["block"]["difference"]["linear"]["verdict"] in (
        "higher",
        "lower",
        "no difference seen",
    )
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert set(result.reference) == {"kNN", "linear"}


def test_variants_of_a_seed_read_the_same_samples_in_the_same_order(whole):
    _, _, order = whole
    random_0, block_0, random_1, block_1 = (order[i : i + 4] for i in range(0, 16, 4))
    assert random_0 == block_0 and random_1 == block_1
    assert random_0 != random_1


def test_variants_of_a_seed_start_from_the_same_encoder(whole):
    """So the untrained encoder is one and the same, and differences between variants are paired."""
    _, result, _ = whole
    for k in range(2):
        one, two = (result.values[label][k] for label in VARIANTS)
        assert one["untrained linear"] == two["untrained linear"]
    assert result.values["block"][0]["loss"] != result.values["core/random"][0]["loss"]


def test_finished_runs_are_used_as_they_are(whole, monkeypatch):
    out, result, _ = whole
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.glob("*/**/*") if p.is_file()}
    pages = [(out / f"comparison.{kind}").read_bytes() for kind in ("json", "md", "html", "png")]
    monkeypatch.setattr(module, "fit", None)
    assert run(out) == result
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.glob("*/**/*") if p.is_file()}
    assert pages == [(out / f"comparison.{kind}").read_bytes() for kind in ("json", "md", "html", "png")]


class StopAt(pl.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize("when", ["within a run", "before its first checkpoint", "before the probe"])
def test_a_killed_comparison_goes_on_where_it_was(whole, tmp_path, monkeypatch, when):
    expected_out, expected, _ = whole
    out, fits = tmp_path / "out", []

    def stopping(one, **kwargs):
        fits.append(one.folder.name)
        if len(fits) == 2 and when == "within a run":
            kwargs["callbacks"] = [StopAt()]
        if len(fits) == 2 and when == "before its first checkpoint":
            one.folder.mkdir()
            raise KeyboardInterrupt
        result = fit(one, **kwargs)
        if len(fits) == 2 and when == "before the probe":
            raise KeyboardInterrupt
        return result

    fit = module.fit
    monkeypatch.setattr(module, "fit", stopping)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(out)
    assert not (out / "comparison.md").exists()
    again = run(out)
    assert fits == [
        "core-random-seed0",
        "block-seed0",
        "block-seed0",
        "core-random-seed1",
        "block-seed1",
    ]
    assert numbers(again) == numbers(expected)
    for folder in ("block-seed0", "block-seed1"):
        one, two = weights(out / folder), weights(expected_out / folder)
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_comparison_killed_before_its_first_file_begins_anew(tmp_path, monkeypatch):
    (tmp_path / ".comparison.json.123.partial").write_text("{")
    monkeypatch.setattr(module, "fit", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["comparison.json"]


def test_a_comparison_has_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "fit", lambda *args, **kwargs: run(tmp_path))
    with pytest.raises(UserError, match=f"in use by process {os.getpid()} "):
        run(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "1")  # of the processes that train a run together, the first has it
    monkeypatch.setattr(module, "fit", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
    with locked(tmp_path), pytest.raises(KeyboardInterrupt):
        run(tmp_path)


def test_other_comparisons_and_other_folders_are_refused(whole, tmp_path):
    out, _, _ = whole
    before = sorted(p.name for p in out.iterdir())
    for config, variants in (
        ({**CONFIG, "steps": 5}, VARIANTS),
        (CONFIG, {"span": {"masking": "core/span"}, **VARIANTS}),
        (CONFIG, {"core/random": VARIANTS["core/random"], "span": {"masking": "core/span"}}),
        (CONFIG, dict(reversed(VARIANTS.items()))),
    ):
        with pytest.raises(UserError, match="holds another comparison"):
            compare(config, variants, out, seeds=2, progress=False)
    assert sorted(p.name for p in out.iterdir()) == before
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="something else than a comparison"):
        run(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_variants_are_added_to_what_is_there(whole, tmp_path, monkeypatch):
    out, _, _ = whole
    shutil.copytree(out, tmp_path / "out")
    fits, fit = [], module.fit

    def counted(one, **more):
        fits.append(one.folder.name)
        return fit(one, **more)

    monkeypatch.setattr(module, "fit", counted)
    more = {**VARIANTS, "span": {"masking": "core/span"}}
    found = compare(CONFIG, more, tmp_path / "out", **run.keywords)
    assert fits == ["span-seed0", "span-seed1"]
    assert list(found.values) == [*VARIANTS, "span"]
    with pytest.raises(UserError, match="go behind those it has"):
        compare(CONFIG, VARIANTS, tmp_path / "out", **run.keywords)


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"a": {"masking": "core/random"}}, "two variants"),
        ({"a": {"steps": 4}, "b": {"steps": 5}}, "same data and budget.*steps: 4 and 5"),
        ({"a": {}, "b": {"data": {"name": "vision/fashion"}}}, "data.name: vision/.* and vision/fashion"),
        (
            {"a": {}, "b": {"data.augment": "flip"}},
            r"\(data.augment: none and flip\): give --data.augment",
        ),
        ({"a": {}, "b": {"masking": {"name": "core/random", "ratio": 0.001}}}, "hides nothing"),
        ({"a": {}, "b": {"masking": "core/nope"}}, "no masking is called 'core/nope'"),
        ({"a/b": {}, "a-b": {}}, "differ in letters"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_written(tmp_path, variants, message):
    with pytest.raises(UserError, match=message):
        compare(CONFIG, variants, tmp_path / "out", seeds=1, progress=False)
    assert not (tmp_path / "out").exists()


def test_a_budget_differs_where_that_is_asked_for(tmp_path):
    variants = {"whole": {}, "half": {"batch_size": 4}}
    with pytest.raises(UserError, match="batch_size: 8 and 4"):
        compare({**CONFIG, "batch_size": 8}, variants, tmp_path / "out", seeds=1, progress=False)
    config = {**CONFIG, "batch_size": 8, "steps": 1}
    compare(config, variants, tmp_path / "out", seeds=1, may_differ=("batch_size",), progress=False)
    read = [yaml.safe_load((tmp_path / f"out/{v}-seed0/config.yaml").read_text()) for v in variants]
    assert [config["batch_size"] for config in read] == [8, 4]


def test_seeds_of_one_variant_have_a_mean_with_its_interval(tmp_path):
    found = compare(CONFIG, {"all": {}}, tmp_path, **run.keywords)
    seeds = [value["kNN"] for value in found.values["all"]]
    assert len(seeds) == 2 and found.mean("all", "kNN").mean == pytest.approx(sum(seeds) / 2)
    assert [table[0][0] for table in found.tables()] == ["variant"]
    assert "minus" not in (tmp_path / "comparison.html").read_text()


def test_data_without_labels_compares_losses(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "labelled", lambda data: False)
    result = compare(CONFIG, VARIANTS, tmp_path / "out", seeds=1, progress=False)
    assert result.measures == ["loss", "ms per sample"]
    assert not list((tmp_path / "out").glob("*/probe.json"))
    again = compare(CONFIG, VARIANTS, tmp_path / "out", seeds=1, progress=False)
    assert again == result


def test_seeds_are_added_and_probes_changed_without_training_again(whole, tmp_path, monkeypatch):
    out, result, _ = whole
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    trained = []
    fit = module.fit

    def counted(one, **kwargs):
        done = (one.folder / "checkpoints/last.ckpt").exists()
        found = fit(one, **kwargs)
        trained.extend([] if done else [one.folder.name])
        return found

    monkeypatch.setattr(module, "fit", counted)
    more = run(copy, seeds=3)
    assert trained == ["core-random-seed2", "block-seed2"]
    assert more.values["block"][:2] == result.values["block"]
    trained.clear()
    fewer = run(copy, seeds=2, probe={"limit": 20})
    assert not trained and numbers(fewer)["block"][0]["loss"] == numbers(result)["block"][0]["loss"]
    settings = json.loads((copy / "block-seed1/probe.json").read_text())["settings"]
    assert settings["limit"] == 20


def test_what_was_measured_before_a_run_was_whole_is_measured_again(whole, tmp_path):
    out, before, _ = whole
    shutil.copytree(out, tmp_path / "out")
    path = tmp_path / "out/block-seed0/probe.json"
    found = json.loads(path.read_text())
    assert found["settings"]["step"] == found["settings"]["steps"] == 4
    rows = [{**row, "accuracy": {**row["accuracy"], "mean": 0.0}} for row in found["rows"]]
    path.write_text(json.dumps({**found, "rows": rows, "settings": {**found["settings"], "step": 2}}))
    with pytest.warns(UserWarning, match="was measured at step 2, and the run is at step 4 now"):
        after = run(tmp_path / "out")
    assert numbers(after) == numbers(before)
