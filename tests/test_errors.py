"""What users get wrong: one message that says what was asked, what was found and what to do.

Before training, exit status 2, nothing written.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from polymask import Run, RunConfig
from polymask.cli import main
from polymask.data import as_dataset

TINY = ("--preset", "tiny", "--data", "digits", "--workers", "0")
"""16 tokens of 2 x 2 pixels."""
PATCH = ("--tokenizer.patch_size", "2")
MAE = ("pretrain", "vision/mae", *TINY, *PATCH)
ONE_STEP = ("--steps", "1", "--no-report", "--data.limit", "40")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture
def refused(capsys):
    """``refused(*argv, naming=[...])``: status 2, the message names all that, nothing is written."""

    def check(*argv: str, naming: tuple[str, ...]) -> str:
        before = contents()
        capsys.readouterr()
        status = main(argv)
        message = capsys.readouterr().err
        assert status == 2, f"status {status}: {message}"
        assert message.count("error: ") == 1 and "Traceback" not in message
        for name in naming:
            assert name in message, f"{name!r} is not in: {message}"
        assert contents() == before
        return message

    return check


def contents() -> dict[str, float]:
    return {str(path): path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main([*MAE, *ONE_STEP, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def run(here, finished):
    """A finished run of vision/mae."""
    return Path(shutil.copytree(finished, "run"))


def pictures(folder, size=(16, 16), n=4, classes=("",)):
    for name in classes:
        Path(folder, name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            noise = np.random.default_rng(i).integers(0, 255, (*size, 3), dtype=np.uint8)
            Image.fromarray(noise).save(Path(folder, name, f"{i}.png"))


class TestNames:
    """Unknown names list the candidates and the nearest."""

    @pytest.mark.parametrize(
        ("argv", "naming"),
        [
            (("pretrian",), ("'pretrian'", "'pretrain'", "compare")),
            (("pretrain", "mea", *TINY), ("'mea'", "mae", "vision/simmim")),
            ((*MAE, "--masking", "core/randm"), ("'core/randm'", "core/random", "core/block")),
            ((*MAE, "--masking", "block"), ("'block'", "ambiguous", "core/block", "vision/block")),
            ((*MAE, "--data", "digts"), ("'digts'", "vision/digits", "vision/folder")),
            ((*MAE, "--preset", "huge"), ("'huge'", "paper", "small")),
            ((*MAE, "--decoder_dmi", "3"), ("--decoder_dmi", "--decoder_dim")),
            ((*MAE, "--masking.rato", "0.5"), ("--masking.rato", "--masking.ratio", "--masking.cell")),
            ((*MAE, "--patch_size", "4"), ("--patch_size", "--tokenizer.patch_size")),
            ((*MAE, "--data", "digits:photos"), ("vision/digits takes no source", ":photos")),
            (
                ("pretrain", "language/climb", *TINY, "--host", "vision/mae"),
                ("hosts no vision/mae", "--host"),
            ),
            (("pretrain", *TINY), ("which system", "vision/mae", "vision/simmim")),
            (("pretrain", "vision/mae"), ("which data", "--data NAME", "vision/digits")),
            (("show", "colour"), ("'colour'", "core/random")),
            (("look", "colour", "--data", "digits"), ("'colour'", "core/random", "vision/mae")),
            (("check", "colour"), ("'colour'", "core/random")),
            (("list", "maskigns"), ("'maskigns'", "maskings")),
        ],
        ids=lambda x: " ".join(x[:1] + x[-2:]) if x and x[0].isalpha() else "",
    )
    def test_unknown(self, refused, argv, naming):
        refused(*argv, naming=naming)


class TestValues:
    @pytest.mark.parametrize(
        ("argv", "naming"),
        [
            (("--masking.ratio", "half"), ("--masking.ratio", "float", "'half'")),
            (("--encoder.depth", "2.5"), ("--encoder.depth", "int", "'2.5'")),
            (("--encoder.positions", "rope"), ("--encoder.positions", "sincos | learned |", "'rope'")),
            (("--betas", "[0.9]"), ("--betas", "tuple[float, float]")),
            (("--steps", "many"), ("--steps", "int", "'many'")),
            (("--steps", "0"), ("--steps", "1 or more")),
            (("--steps", "5", "--epochs", "5"), ("steps", "epochs", "one of them")),
            (("--steps", "5", "--warmup_steps", "9"), ("warm-up of 9", "run of 5")),
            (("--batch_size", "8", "--accumulate", "3"), ("batch of 8", "--accumulate")),
            (("--accelerator", "abacus"), ("--accelerator abacus",)),
            (("--out",), ("--out needs a value",)),
        ],
        ids=lambda x: " ".join(x) if x and x[0].startswith("--") else "",
    )
    def test_wrong(self, refused, argv, naming):
        refused(*MAE, *argv, naming=naming)


class TestCombinations:
    """What cannot go together is told before training."""

    @pytest.mark.parametrize(
        ("argv", "naming"),
        [
            (("--masking", "core/block", "--masking.side", "9"), ("9", "4 x 4")),
            (("--masking.ratio", "0.001"), ("0.001", "16 sites", "nothing")),
            (("--masking.ratio", "0.999"), ("0.999", "16 sites", "everything")),
            (("--masking.ratio", "0"), ("between 0 and 1", "0")),
            (("--masking.ratio", "1.5"), ("between 0 and 1", "1.5")),
            (("--masking.cell", "3"), ("cells of 3", "4 x 4")),
            (("--tokenizer.patch_size", "3"), ("patches of 3", "8 x 8", "--tokenizer.patch_size")),
            (("--tokenizer.patch_size", "16"), ("patches of 16", "8 x 8")),
            (("--tokenizer.size", "32"), ("32", "8")),
            (("--encoder.heads", "5"), ("32", "5 heads")),
            (("--decoder_heads", "5"), ("32", "5 heads")),
            (
                ("--encoder", "vision/swin", "--encoder.depths", "[1,1,1,1]", "--encoder.heads", "[1,1,1,1]"),
                ("Swin", "(4, 4)", "divisible by 8"),
            ),
            (("--encoder", "vision/swin"), ("Swin", "whole grids", "simmim")),
            (("--objective", "core/cross-entropy"), ("target is values", "a target of codes")),
            (("--masking", "core/top-score"), ("score", "--score")),
            (("--masking", "core/top-score", "--score", "vision/pixels"), ("score", "width 1")),
            (("--score.in_dim", "4"), ("which score", "--score NAME")),
        ],
        ids=lambda x: " ".join(x) if x and x[0].startswith("--") else "",
    )
    def test_impossible(self, refused, argv, naming):
        refused(*MAE, *argv, naming=naming)

    def test_in_a_comparison_before_its_first_run(self, refused):
        variants = ("--masking", "core/random,core/top-score")
        refused("compare", "vision/mae", *TINY, *PATCH, *variants, naming=("score",))

    def test_variants_of_different_budget(self, refused):
        refused(
            "compare", "vision/mae", *TINY, *PATCH, "--batch_size", "8,16", naming=("batch_size", "8", "16")
        )

    def test_nothing_to_compare(self, refused):
        refused("compare", "vision/mae", *TINY, *PATCH, naming=("several values", "--masking"))


class TestData:
    def test_empty_folder(self, refused):
        Path("empty").mkdir()
        refused("pretrain", "vision/mae", "--data", "folder:empty", naming=("empty", "png"))

    def test_no_folder(self, refused):
        refused("pretrain", "vision/mae", "--data", "folder:nowhere", naming=("nowhere",))

    def test_no_source(self, refused):
        refused("pretrain", "vision/mae", "--data", "folder", naming=("folder", "source"))

    def test_only_broken_files(self, refused):
        Path("photos").mkdir()
        Path("photos/a.png").write_bytes(b"no picture")
        refused("pretrain", "vision/mae", "--data", "folder:photos", naming=("photos",))

    def test_files_left_out_are_told_by_every_verb(self, here, capsys):
        pictures("photos", n=8, classes=("a", "b"))
        Path("photos/a/broken.png").write_bytes(b"no picture")
        Path("photos/b/text.txt").write_text("no picture")
        data = ("--data", "vision/folder:photos", "--data.size", "16")
        bare = ("--preset", "tiny", "--workers", "0", "--steps", "1", "--no-report", "--out", "run")
        for argv in (
            ("pretrain", "vision/mae", *data, *bare),
            ("look", "core/random", *data),
            *((verb, "run") for verb in ("probe", "report")),
        ):
            assert main(argv) == 0
            message = capsys.readouterr().err
            assert message.count("left out") == 2, message
            assert "vision/folder: 2 left out, 16 used; the first left out is a/broken.png: " in message

    def test_a_probe_without_labels(self, refused, capsys):
        pictures("photos", n=8)
        argv = ("--preset", "tiny", "--data", "folder:photos", "--data.size", "16", "--workers", "0")
        assert main(["pretrain", "vision/mae", *argv, "--steps", "1", "--no-report", "--out", "run"]) == 0
        assert "no labels" in capsys.readouterr().out
        refused("probe", "run", naming=("labels", "one folder per class"))


class TestRuns:
    """Folders and checkpoints: what is there stays as it is."""

    def test_a_folder_that_holds_a_run(self, refused, run):
        refused(*MAE, "--out", str(run), naming=("run", "--resume", "--out"))

    def test_a_folder_that_holds_something_else(self, refused):
        Path("mine").mkdir()
        Path("mine/metrics.csv").write_text("mine")
        refused(*MAE, "--out", "mine", naming=("mine", "metrics.csv", "something else", "--out"))

    def test_resume_after_the_data_changed(self, refused):
        pictures("photos", n=8, classes=("a", "b"))
        argv = ("vision/mae", "--preset", "tiny", "--data", "folder:photos", "--data.size", "16")
        bare = ("--workers", "0", "--steps", "1", "--no-report", "--out", "run")
        assert main(["pretrain", *argv, *bare]) == 0
        Path("photos/b").rename("photos/c")
        refused("pretrain", "--resume", "run", naming=("classes", "names", "--data_changed"))
        Path("photos/c").rename("photos/b")
        pictures("photos", size=(17, 16), n=1, classes=("a", "b"))
        refused("pretrain", "--resume", "run", naming=("sizes", "--data_changed"))
        assert main(["pretrain", "--resume", "run", "--data_changed", "--no-report"]) == 0

    def test_resume_of_another_system(self, refused, run):
        refused("pretrain", "vision/simmim", "--resume", str(run), naming=("vision/mae", "vision/simmim"))

    @pytest.mark.parametrize(
        ("argv", "naming"),
        [
            (("--masking.ratio", "0.5"), ("ratio", "0.5", "0.75")),
            (("--steps", "3"), ("steps", "3", "1")),
            (("--data", "fashion"), ("vision/digits", "vision/fashion")),
        ],
        ids=lambda x: x[0] if x[0].startswith("--") else "",
    )
    def test_resume_with_something_else(self, refused, run, argv, naming):
        refused("pretrain", "--resume", str(run), *argv, naming=naming)

    @pytest.mark.parametrize(
        "argv", [("pretrain", "--resume", "none"), ("probe", "none"), ("report", "none"), ("export", "none")]
    )
    def test_no_run(self, refused, argv):
        refused(*argv, naming=("none", "config.yaml"))

    def test_a_name_that_is_none(self, refused):
        for key in ("system", "preset"):
            Path("c.yaml").write_text(yaml.safe_dump({"system": "vision/mae", key: ["tiny"]}))
            refused("pretrain", "--config", "c.yaml", naming=(f"{key} takes a name", "['tiny']", "c.yaml"))

    def test_resume_on_data_given_in_python(self, refused):
        config = {"system": "vision/mae", "preset": "tiny", "steps": 1, "workers": 0}
        config |= {"warmup_steps": 0, "tokenizer.patch_size": 2}
        Run.create(
            RunConfig.resolve(config), "own", data=as_dataset(list(torch.rand(20, 1, 8, 8)))
        ).save_config()
        refused("pretrain", "--resume", "own", naming=("own was trained on a data set given in Python",))

    def test_resume_without_a_checkpoint_is_said(self, run, capsys):
        Path(run, "checkpoints/last.ckpt").unlink()
        assert main(["pretrain", "--resume", str(run), "--no-report"]) == 0
        assert "there is no checkpoint yet: training from the first step" in capsys.readouterr().err

    def test_resume_of_nothing(self, refused):
        refused("pretrain", "--resume", naming=("--resume DIR",))

    @pytest.mark.parametrize("verb", ["probe", "export", "resume"])
    @pytest.mark.parametrize("size", [0, 1000])
    def test_a_truncated_checkpoint(self, refused, run, verb, size):
        checkpoint = run / "checkpoints/last.ckpt"
        checkpoint.write_bytes(checkpoint.read_bytes()[:size])
        argv = ("pretrain", "--resume", str(run)) if verb == "resume" else (verb, str(run))
        refused(*argv, naming=("last.ckpt", f"{size} bytes", "damaged"))

    def test_a_checkpoint_of_another_system(self, refused, run, capsys):
        argv = (
            "pretrain",
            "vision/simmim",
            *TINY,
            *PATCH,
            "--masking.cell",
            "1",
            *ONE_STEP,
            "--out",
            "other",
        )
        assert main(argv) == 0
        other = Path("other/checkpoints/last.ckpt")
        (run / "checkpoints/last.ckpt").write_bytes(other.read_bytes())
        refused("probe", str(run), naming=("vision/simmim", "MAE", "decoder"))

    def test_a_pickle_is_not_opened(self, refused, run):
        torch.save({"polymask": {}, "state_dict": {}, "code": math.factorial}, run / "checkpoints/last.ckpt")
        refused("probe", str(run), naming=("last.ckpt",))

    def test_an_unknown_format(self, refused, run):
        refused("export", str(run), "--format", "pdf", naming=("'pdf'", "safetensors", "timm"))

    def test_a_picture_of_unknown_format(self, refused):
        refused("look", "core/random", "--data", "digits", "-o", "a.txt", naming=("a.txt", ".png"))

    def test_too_few_labels(self, refused, run):
        refused("probe", str(run), "--labels_per_class", "400", naming=("400", "smallest class"))


class TestFiles:
    def test_a_configuration_that_is_not_there(self, refused):
        refused("pretrain", "--config", "no.yaml", naming=("no.yaml", "No such file"))

    @pytest.mark.parametrize("text", ["a: [", "- 1", "\0"])
    def test_a_configuration_that_is_none(self, refused, text):
        Path("bad.yaml").write_text(text)
        refused("pretrain", "--config", "bad.yaml", naming=("bad.yaml",))

    def test_a_wrong_key_in_a_configuration(self, refused):
        Path("my.yaml").write_text("system: vision/mae\ndata: digits\nmasking: {rato: 0.5}\n")
        refused("pretrain", "--config", "my.yaml", naming=("my.yaml", "--masking.rato", "--masking.ratio"))

    def test_a_wrong_value_in_a_configuration(self, refused):
        Path("my.yaml").write_text("system: vision/mae\ndata: digits\nmasking: {ratio: half}\n")
        refused("pretrain", "--config", "my.yaml", naming=("--masking.ratio", "float", "'half'"))

    def test_an_out_that_is_a_file(self, refused):
        Path("taken").write_text("mine")
        refused(*MAE, "--out", "taken", naming=("taken",))

    @pytest.mark.parametrize(
        ("argv", "naming"),
        [
            (("probe", "run"), "run/probe.json"),
            (("report", "run"), "run/report.html"),
            (("evaluate", "run", "core/heldout-loss"), "run/evaluation-core-heldout-loss.json"),
            (("export", "run"), "run/export/safetensors/model.safetensors"),
            (("export", "run", "--format", "timm"), "run/export/timm/"),
            (("look", "core/random", "--data", "digits", "-o", "a.png"), "a.png"),
            ((*MAE, *ONE_STEP, "--out", "new"), "new/config.yaml"),
            (
                ("compare", *MAE[1:], "--masking", "core/random,core/block", "--out", "new"),
                "new/comparison.json",
            ),
        ],
        ids=lambda x: x[0] if isinstance(x, tuple) else "",
    )
    def test_no_room_for_what_a_verb_writes(self, run, capsys, monkeypatch, argv, naming):
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

        def full(handle: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            assert main(argv) == 2
        message = capsys.readouterr().err
        assert message.count("error: ") == 1 and "Traceback" not in message
        assert (
            f"error: {naming}" in message
            and "cannot be written: No space left on device; make room" in message
        )
        assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    @pytest.mark.parametrize(
        "argv",
        [
            (*MAE, *ONE_STEP, "--out", "taken/run"),
            ("look", "core/random", "--data", "digits", "-o", "taken/a.png"),
            ("export", "run", "--out", "taken/encoder"),
            ("compare", *MAE[1:], "--masking", "core/random,core/block", "--out", "taken/all"),
        ],
        ids=lambda x: x[0],
    )
    def test_places_that_cannot_be(self, refused, run, argv):
        Path("taken").write_text("mine")
        refused(*argv, naming=("taken", "cannot be written"))

    def test_a_damaged_result_is_named_and_the_rest_reported(self, run, capsys):
        (run / "probe.json").write_text("{")
        (run / "environment.json").write_text("[]")
        (run / "evaluation-a.json").write_text("{}")
        (run / "metrics.csv").write_text("step,loss\n1,x\n")
        assert main(["report", "run"]) == 0
        message, page = capsys.readouterr().err, (run / "report.html").read_text()
        assert "evaluation-a.json is damaged" in message and "1 lines cannot be read" in message
        assert "probe.json is damaged" in page and "environment.json is damaged" in page

    @pytest.mark.parametrize("text", ["", "{}", '{"config": 1, "variants": 2}'])
    def test_a_damaged_comparison(self, refused, text):
        Path("all").mkdir()
        Path("all/comparison.json").write_text(text)
        refused(
            *("compare", *MAE[1:], "--masking", "core/random,core/block", "--out", "all"),
            naming=("all/comparison.json", "damaged", "--out"),
        )

    def test_what_the_system_refuses_is_one_message(self, refused):
        Path("folder.yaml").mkdir()
        refused("pretrain", "--config", "folder.yaml", naming=("folder.yaml", "Is a directory"))

    def test_a_disk_that_is_full(self, capsys):
        """Stood in for by a limit on file sizes: writing the checkpoint fails half way."""
        resource = pytest.importorskip("resource")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        try:
            status = main([*MAE, *ONE_STEP, "--out", "run"])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        message = capsys.readouterr().err
        assert status == 2 and "error: " in message and "Traceback" not in message
        assert "last.ckpt" in message and "make room" in message
        assert not list(Path("run/checkpoints").iterdir())
        assert main(["pretrain", "--resume", "run", "--no-report"]) == 0


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(capsys):
    """The last good checkpoint stays, the batch is kept."""
    status = main([*MAE, *ONE_STEP, "--steps", "30", "--lr", "1e30", "--warmup_steps", "0", "--out", "run"])
    message = capsys.readouterr().err
    assert status == 2 and "Traceback" not in message and "not finite" in message
    assert Path("run/checkpoints/last.ckpt").exists() and "run/failed" in message


@pytest.mark.parametrize(
    ("option", "part", "said"),
    [
        (("--encoder.dim", "100000000"), "vision/vit", "dim 100,000,000"),
        (("--encoder.mlp_ratio", "1e9"), "vision/vit", "mlp_ratio 1,000,000,000"),
        (("--data.size", "1000000"), "vision/patches", "size 1,000,000"),
    ],
)
def test_what_does_not_fit_into_memory_is_named_with_its_sizes(refused, option, part, said) -> None:
    refused(*MAE, *option, naming=(f"{part} does not fit into memory with", said))
