"""A stranger's plugin works beside ours, and broken ones do no harm: tried with real distributions.

The wheels of examples/plugin and of the fixtures are built and installed into a folder of their
own, and the command line is run in a process that finds that folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "plugin"
SOURCES = [EXAMPLE, ROOT / "tests" / "fixtures" / "broken", ROOT / "tests" / "fixtures" / "impostor"]

FAULTS = {
    "declares-badly": "Part name 'My Masking': use lower-case letters",
    "dies": "ended its process, exit status 3",
    "exits": "SystemExit: no licence found",
    "future": "written for plugin API 99, this polymask has 1.1",
    "gone": "No module named 'polymask_broken.no_such_module'",
    "heavy": "importing polymask_broken.heavy imports torch",
    "hook-raises": "FileNotFoundError: codebook.bin",
    "misspelt": "unknown hook 'polymask_register_masking'; did you mean 'polymask_register_maskings'?",
    "raises": "OSError: libcodec.so.7",
    "twice": "declares maskings 'lines' twice",
}


def installed(wheels: list[Path], folder: Path) -> Path:
    subprocess.run(
        ["uv", "pip", "install", "-q", "--no-deps", "--target", str(folder), *map(str, wheels)], check=True
    )
    return folder


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The three distributions, built from copies, as their authors would."""
    work = tmp_path_factory.mktemp("build")
    for source in SOURCES:
        copy = work / "src" / source.name
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        subprocess.run(["uv", "build", "-q", "--wheel", str(copy), "-o", str(work / "dist")], check=True)
    return sorted((work / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def crowd(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three, good and broken, beside ours."""
    return installed(wheels, tmp_path_factory.mktemp("crowd"))


@pytest.fixture(scope="module")
def acme(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The good one beside ours."""
    return installed([w for w in wheels if "acme" in w.name], tmp_path_factory.mktemp("acme"))


def run(
    site: Path, *command: str, cwd: Path | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("POLYMASK_")}
    env = {**clean, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environ}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=env, cwd=cwd)


def polymask(site: Path, *arguments: str, cwd: Path | None = None, **environ: str) -> str:
    """What the command prints; it must succeed."""
    done = run(site, "-m", "polymask", *arguments, cwd=cwd, **environ)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def refused(site: Path, *arguments: str, **environ: str) -> str:
    """What the command complains of; it must end with status 2 and without a traceback."""
    done = run(site, "-m", "polymask", *arguments, **environ)
    assert done.returncode == 2, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


def plugins(site: Path, **environ: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(polymask(site, "plugins", "--json", **environ))
    return found


@pytest.fixture(scope="module")
def listed(crowd: Path) -> list[dict[str, Any]]:
    """What ``polymask plugins`` says of all three."""
    return plugins(crowd)


# ------------------------------------------------------------------- broken ones


def test_each_broken_plugin_is_listed_with_its_distribution_and_its_fault(
    listed: list[dict[str, Any]],
) -> None:
    broken = {p["name"]: p for p in listed if p["status"] == "broken"}
    assert broken.keys() == FAULTS.keys()
    for name, fault in FAULTS.items():
        assert (broken[name]["distribution"], broken[name]["version"]) == ("polymask-broken", "0.3.1")
        assert fault in broken[name]["error"]


def test_a_name_taken_twice_is_a_conflict_that_names_both(listed: list[dict[str, Any]]) -> None:
    ours, theirs = (p for p in listed if p["name"] == "acme")
    assert (ours["distribution"], ours["status"], ours["parts"]) == ("polymask-acme", "ok", 3)
    assert (theirs["distribution"], theirs["version"], theirs["status"]) == (
        "polymask-impostor",
        "2.0",
        "conflict",
    )
    assert "taken by polymask-acme 0.1.0" in theirs["error"]


def test_everything_else_works_beside_them(crowd: Path, acme: Path, listed: list[dict[str, Any]]) -> None:
    working = {p["name"]: p["parts"] for p in listed if p["status"] == "ok"}
    assert working.pop("needy") == 1
    assert working == {p["name"]: p["parts"] for p in plugins(acme)}
    assert polymask(crowd, "--version").startswith("polymask ")
    assert "pretrain" in polymask(crowd, "--help")
    assert "acme/stripes" in polymask(crowd, "list", "maskings")
    assert polymask(crowd, "check", "acme/stripes", "core/mse")


def test_a_broken_plugin_is_told_of_where_a_name_is_not_found(crowd: Path) -> None:
    said = refused(crowd, "show", "misspelt/lines", POLYMASK_DISABLE="heavy")
    assert "no part is called 'misspelt/lines'" in said
    assert "plugin 'misspelt' of polymask-broken 0.3.1 did not load" in said


def test_a_part_that_cannot_be_imported_says_what_to_install(crowd: Path) -> None:
    done = run(crowd, "-m", "polymask", "check", "needy/codec", POLYMASK_DISABLE="heavy")
    assert done.returncode == 1
    assert "needy/codec cannot be imported" in done.stdout
    assert "pip install polymask-broken[codec]" in done.stdout


def test_strict_stops_at_the_first_and_names_the_distribution(crowd: Path) -> None:
    said = refused(crowd, "list", POLYMASK_STRICT="1")
    assert "plugin 'acme' (polymask-impostor 2.0)" in said


def test_switching_off_what_is_broken_leaves_nothing_to_complain_of(crowd: Path) -> None:
    names = ",".join([*FAULTS, "acme"])
    assert {p["status"] for p in plugins(crowd, POLYMASK_DISABLE=names)} == {"ok", "disabled"}
    only = plugins(crowd, POLYMASK_PLUGINS="core,vision")
    assert {p["name"] for p in only if p["status"] == "ok"} == {"core", "vision"}
    assert not polymask(crowd, "list", POLYMASK_PLUGINS="core", POLYMASK_STRICT="1").count("acme")


def test_neither_help_nor_lists_import_torch_beside_them(crowd: Path) -> None:
    """But for the plugin that does it itself, which is switched off here."""
    for arguments in (["--help"], ["list"], ["plugins"]):
        script = (
            "import sys; from polymask.cli import main; "
            f"status = main({arguments!r}); sys.exit('torch' in sys.modules or status)"
        )
        done = run(crowd, "-c", script, POLYMASK_DISABLE="heavy")
        assert done.returncode == 0, done.stderr


# --------------------------------------------------------------------- a good one


def test_the_parts_of_the_good_one_pass_the_suite(acme: Path) -> None:
    results = json.loads(polymask(acme, "check", "acme", "--json", POLYMASK_STRICT="1"))
    assert {result["part"] for result in results} == {"acme/stripes", "acme/edges", "acme/cnp"}
    assert {result["outcome"] for result in results} == {"passed", "skipped"}


def test_its_own_tests_pass(acme: Path, tmp_path: Path) -> None:
    """Three lines of conformance, and its mechanisms."""
    tests = shutil.copytree(
        EXAMPLE / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__")
    )
    done = run(acme, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.parametrize(
    "choice",
    [
        ["acme/cnp"],
        ["vision/mae", "--masking", "acme/stripes", "--masking.ratio", "0.75", "--target", "acme/edges"],
    ],
    ids=["its-system", "its-masking-and-target-in-ours"],
)
def test_it_trains(acme: Path, tmp_path: Path, choice: list[str]) -> None:
    size = ["--preset", "tiny", "--steps", "3", "--batch_size", "16", "--data", "digits", "--no-report"]
    patch = ["--tokenizer.patch_size", "2"]
    polymask(acme, "pretrain", *choice, *size, *patch, "--out", str(tmp_path / "run"), cwd=tmp_path)
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "acme/stripes" in config
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
