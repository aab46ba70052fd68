from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from polymask import Part, hookimpl
from polymask.config import built_from
from polymask.config.options import inspect_options
from polymask.plugins.registry import default_registry

TRAIN = ("--preset", "small", "--data", "shapes", "--workers", "0", "--no-report")


def test_options_that_are_written_out_are_those_of_the_functions():
    """Names, defaults and whether they may be null."""
    from polymask.cli.verbs import compare, generate, look, probe
    from polymask.evaluation import probe as probe_function
    from polymask.report.compare import compare as compare_function
    from polymask.report.generation import generate as generate_function
    from polymask.report.look import look as look_function

    for written, function in (
        (probe.OPTIONS, probe_function),
        (look.OPTIONS, look_function),
        (generate.OPTIONS, generate_function),
        ({"seeds": compare.SEEDS, "evaluation": compare.EVALUATION}, compare_function),
    ):
        real = inspect_options(function)
        for name, option in written.items():
            assert option.default == real[name].default, name
            assert option.slot or ("null" in option.type_name) == ("null" in real[name].type_name), name


@pytest.fixture
def run(polymask):
    assert polymask("pretrain", "toy/mean", *TRAIN, "--out", "run").status == 0
    return "run"


def test_probe_prints_a_table_or_json(polymask, run):
    assert "pre-trained" in polymask("probe", run).out
    found = json.loads(polymask("probe", run, "--json", "--neighbours", "3", "--labels_per_class", "4").out)
    assert found["settings"]["neighbours"] == 3 and found["settings"]["labels_per_class"] == 4
    assert json.loads(Path(run, "probe.json").read_text()) == found


def test_verbs_that_write_files_say_where_in_json(polymask):
    def said(*argv):
        done = polymask(*argv, "--json")
        assert done.status == 0, done.err
        return json.loads(done.out)

    found = said("pretrain", "toy/mean", *TRAIN, "--out", "run")
    assert found["run"] == "run" and found["report"] is None
    assert found["probe"] == json.loads(Path("run/probe.json").read_text())
    assert said("report", "run") == {"report": str(Path("run", "report.html"))}
    exported = said("export", "run")
    assert exported["files"] == sorted(path.name for path in Path(exported["out"]).iterdir())
    assert said("look", "run", "-o", "m.png") == {"picture": "m.png"} and Path("m.png").exists()


def test_probe_takes_all_samples_for_limit_null(polymask, run):
    assert json.loads(polymask("probe", run, "--json", "--limit", "null").out)["settings"]["limit"] is None


def test_report_prints_where_it_is(polymask, run):
    done = polymask("report", run)
    assert done.out == f"{Path(run, 'report.html')}\n" and Path(run, "report.html").exists()


def test_export_writes_weights(polymask, run):
    assert polymask("export", run).out == f"{Path(run, 'export', 'safetensors')}\n"
    assert Path(run, "export/safetensors/model.safetensors").exists()
    assert polymask("export", run, "--out", "elsewhere").status == 0
    assert Path("elsewhere/model.safetensors").exists()
    assert polymask("export", run, "--out", "elsewhere").status == 0


@pytest.mark.parametrize(
    "text", ["# My project\n", "---\ntags:\n- timm\n---\n# A model\n- polymask\n", "\xff"]
)
def test_a_project_of_somebody_else_is_no_place_for_an_export(polymask, run, text):
    Path("mine").mkdir()
    Path("mine/README.md").write_text(text, encoding="latin-1")
    done = polymask("export", run, "--out", "mine")
    assert done.status == 2 and "mine holds a README.md that no export wrote: give another --out" in done.err
    assert [path.name for path in Path("mine").iterdir()] == ["README.md"]


def test_a_model_of_somebody_else_stays(polymask, run):
    Path("mine").mkdir()
    Path("mine/model.safetensors").write_text("weights")
    done = polymask("export", run, "--out", "mine")
    assert done.status == 2 and "mine holds something that no export wrote: give another --out" in done.err
    assert Path("mine/model.safetensors").read_text() == "weights"


class TestLook:
    DATA = ("--data", "toy/shapes", "--samples", "2", "--draws", "2", "--masks", "64")

    @pytest.fixture
    def seen(self, monkeypatch):
        """What the report's function was called with."""
        import polymask.report.look as module

        calls = []
        monkeypatch.setattr(module, "look", _recording(module.look, calls))
        return calls

    def test_a_masking(self, polymask, seen):
        done = polymask("look", "core/random", *self.DATA, "--masking.ratio", "0.5", "-o", "a.png")
        assert done.status == 0, done.err
        assert done.out == "a.png\n" and Path("a.png").read_bytes().startswith(b"\x89PNG")
        (masking, data, out), options = seen[0]
        assert built_from(masking) == {"name": "core/random", "ratio": 0.5}
        assert (built_from(data), out) == ({"name": "toy/shapes"}, "a.png")
        assert built_from(options.pop("tokenizer"))["name"]  # what most systems use
        assert options == {"score": None, "samples": 2, "draws": 2, "masks": 64}

    def test_the_parts_around_a_masking(self, polymask, seen):
        around = ("--tokenizer", "cells", "--tokenizer.patch", "1", "--score", "raw", "--score.scale", "3")
        done = polymask("look", "random", *self.DATA, "--data.n", "8", *around, "--data.size", "[8, 8]")
        assert done.status == 0, done.err
        (_, data, out), options = seen[0]
        assert (data.n, data.size, out) == (8, (8, 8), "masks.png")
        assert built_from(options["tokenizer"]) == {"name": "toy/cells", "patch": 1, "size": (8, 8)}
        assert built_from(options["score"]) == {"name": "toy/raw", "scale": 3.0, "in_dim": 1}

    def test_a_system(self, polymask, seen):
        done = polymask("look", "mean", *self.DATA, "--preset", "small", "--encoder.dim", "2", "--total", "9")
        assert done.status == 0, done.err
        (system, data, _), options = seen[0]
        assert built_from(system)["name"] == "toy/mean"
        assert (system.encoder.dim, system.masking.ratio) == (2, 0.4)  # 0.4 is the preset's
        assert options == {"samples": 2, "draws": 2, "masks": 64, "total": 9}
        assert data.n == 24  # the preset's

    def test_unknown_names_list_what_there_is(self, polymask):
        done = polymask("look", "nope", *self.DATA)
        assert done.status == 2
        assert "no masking or system is called 'nope'" in done.err and "core/random" in done.err

    def test_help_lists_the_options_of_the_masking(self, polymask):
        out = polymask("look", "core/block", "--help").out
        assert "--masking.aspect" in out and "--samples int" in out and "--tokenizer NAME" in out
        assert "--steps" not in polymask("look", "toy/mean", "--help").out


class TestCompare:
    DATA = ("--preset", "small", "--data", "shapes", "--workers", "0", "--seeds", "2")

    @pytest.fixture
    def seen(self, monkeypatch):
        """What the report's function was called with; it does nothing."""
        import polymask.report.compare as module

        calls = []
        monkeypatch.setattr(module, "compare", _recording(module.compare, calls, lambda *a, **b: Nothing()))
        return calls

    def test_variants_are_what_differs_and_the_rest_is_shared(self, polymask, seen):
        options = ("--masking.ratio", "0.3", "--probe.neighbours", "3")
        done = polymask("compare", "mean", *self.DATA, "--masking", "random,core/span", *options)
        assert done.status == 0, done.err
        (shared, variants, folder), own = seen[0]
        assert variants == {
            "random": {"masking": {"name": "core/random", "ratio": 0.3}},
            "core/span": {"masking": {"name": "core/span", "ratio": 0.3}},
        }
        assert shared["system"] == "toy/mean" and shared["steps"] == 4 and "masking" not in shared
        assert not {"seeds", "probe"} & shared.keys()
        assert own == {"seeds": 2, "probe": {"neighbours": 3}, "evaluation": None}
        assert folder == Path("runs/compare-mean-shapes-masking")

    @pytest.mark.parametrize("argv", [["mean,toy/other"], ["--system", "mean,toy/other"]])
    def test_systems(self, polymask, seen, argv):
        done = polymask("compare", *argv, "--data", "shapes", "--out", "there", "--seeds", "[3, 5]")
        assert done.status == 0, done.err
        (_, variants, folder), own = seen[0]
        assert {label: config["system"] for label, config in variants.items()} == {
            "mean": "toy/mean",
            "toy/other": "toy/other",
        }
        assert (folder, own) == (Path("there"), {"seeds": (3, 5), "probe": {}, "evaluation": None})

    def test_any_option(self, polymask, seen):
        assert polymask("compare", "mean", *self.DATA, "--gain", "1,2.5").status == 0
        assert seen[0][0][1] == {"1": {"gain": 1.0}, "2.5": {"gain": 2.5}}

    def test_commas_in_a_source_are_its_own(self, polymask, seen):
        data = ("--data", "shapes:bars,bars", "--masking", "core/random,core/span")
        assert polymask("compare", "mean", *data).status == 0
        assert seen[0][0][0]["data"]["source"] == "bars,bars"

    @pytest.mark.parametrize(
        ("argv", "part"),
        [
            ((), "exactly one option"),
            (("--masking", "core/random,core/span", "--gain", "1,2"), "--masking, --gain"),
            (("--masking", "core/random,"), "two or more"),
            (("--encoder.depths", "[1,2]"), "exactly one option"),
        ],
    )
    def test_one_option_has_several_values(self, polymask, seen, argv, part):
        done = polymask("compare", "mean", *self.DATA, *argv)
        assert done.status == 2 and part in done.err and not seen

    def test_really(self, polymask, monkeypatch):
        monkeypatch.setenv("COLUMNS", "150")
        argv = ("compare", "mean", *self.DATA, "--masking", "core/random,core/span")
        done = polymask(*argv)
        assert done.status == 0, done.err
        folder = Path("runs/compare-mean-shapes-masking")
        assert "core/span" in done.out and str(folder / "comparison.html") in done.out
        before = {p: p.stat().st_mtime_ns for p in folder.glob("*/checkpoints/last.ckpt")}
        assert len(before) == 4
        again = json.loads(polymask(*argv, "--resume", "--json").out)
        assert again["seeds"] == [0, 1]
        assert {p: p.stat().st_mtime_ns for p in folder.glob("*/checkpoints/last.ckpt")} == before


class Nothing:
    def table(self):
        return ""


class TestCheck:
    def test_what_conforms(self, polymask):
        done = polymask("check", "core/random", "mse")
        assert done.status == 0, done.out
        assert done.out.startswith("core/random: ") and "\ncore/mse: " in done.out and "passed" in done.out

    def test_json_and_kind(self, polymask):
        found = json.loads(polymask("check", "random", "--kind", "maskings", "--json").out)
        assert {r["part"] for r in found} == {"core/random"}
        assert all(r["check"].startswith("check_") and r["outcome"] in ("passed", "skipped") for r in found)

    def test_a_failure_is_named_and_sets_the_status(self, polymask, toy):
        class Everything:
            """Hides everything."""

            def __call__(self, request):
                from polymask import Mask

                return Mask(request.ids[:, None].expand(-1, request.sites) > -1, 0)

        class Plugin:
            @hookimpl
            def polymask_register_maskings(self):
                return [Part(name="all", target="polymask_cli_toy:Everything", summary="everything")]

        toy.Everything = Everything
        registry = default_registry()
        record = registry.add("hide", Plugin())
        try:
            for name in ("hide/all", "hide"):
                done = polymask("check", "core/random", name)
                assert done.status == 1 and "hide/all: " in done.out and "core/random: " in done.out
                assert "  failed   check_masking_hides_and_keeps" in done.out or "  failed" in done.out
        finally:
            registry._drop("hide")
            registry.plugins.remove(record)


def _recording(function, calls, instead=None):
    @functools.wraps(function)
    def recorded(*args, **options):
        calls.append((args, options))
        return (instead or function)(*args, **options)

    return recorded
