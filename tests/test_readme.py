"""README and the documentation's commands are real: in order, on little data and for few steps."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from polymask.cli import main

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BLOCK = re.compile(r"^```(console|python)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
OTHERS = ("pip", "torchrun", "pre-commit", "git")
"""Programs that are not ours to run here."""


def blocks(page: Path) -> list[tuple[str, str]]:
    return [(m[1], m[2]) for m in BLOCK.finditer(page.read_text())]


def commands(block: str) -> Iterator[list[str]]:
    """Words of each of our commands in a console block, without what gets them started."""
    for line in block.replace("\\\n", " ").splitlines():
        for part in line.removeprefix("$ ").split("&&"):
            words = shlex.split(part, comments=True)
            if words[:2] == ["uv", "run"]:
                words = words[2:]
            if words[:1] == ["polymask"]:
                yield words[1:]


def quick(words: list[str]) -> list[str]:
    """The same command with less to do."""
    limit = "--data.data.limit" if "core/few-labels" in words else "--data.limit"
    little = [limit, "40", "--steps", "2", "--batch_size", "8", "--workers", "0"]
    if words[0] == "pretrain" and "--config" in words:
        return [*words, "--out", "runs/again"]
    if words[0] in ("pretrain", "compare", "finetune") and "--resume" not in words:
        seeds = words.index("--seeds") + 1 if "--seeds" in words else None
        words = [*words, *little]
        if seeds is not None:
            words[seeds] = "2"
    if words[0] == "look":
        words = [*words, "--data.limit", "40", "--masks", "64"]
    return words


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, but for a folder of photographs."""
    monkeypatch.chdir(tmp_path)
    for index in range(24):
        photo = tmp_path / "photos" / ("cats", "dogs")[index % 2] / f"{index}.png"
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((64, 64), 20 + index).convert("RGB").save(photo)
    return tmp_path


def run(words: list[str]) -> None:
    assert main(quick(words)) == 0, shlex.join(words)


def test_first_command_sets_up_and_trains() -> None:
    first = next(block for kind, block in blocks(README) if kind == "console")
    assert first.startswith("$ python3 -m pip install uv && uv run polymask pretrain ")
    assert len(first.splitlines()) == 1


def test_second_command_is_what_ci_runs() -> None:
    second = [block for kind, block in blocks(README) if kind == "console"][1]
    assert second == "$ uv run nox\n"
    assert "python3 -m pip install uv && uv run nox" in (ROOT / ".ci/run").read_text()
    assert ".ci/run" in (ROOT / ".github/workflows/ci.yml").read_text()


def test_readme_works_from_top_to_bottom(place: Path) -> None:
    space: dict[str, object] = {}
    for kind, block in blocks(README):
        if kind == "python":
            little = '"steps": 2, "batch_size": 8, "workers": 0, "data.limit": 40'
            exec(compile(block.replace('"steps": 1000', little), str(README), "exec"), space)
        else:
            for words in commands(block):
                run(words)
    assert (place / "masks.png").stat().st_size > 1000
    assert (place / "runs/mae-fashion-1/report.html").exists()
    assert tuple(space["features"].shape) == (8, 128)  # type: ignore[attr-defined]


def test_command_line_page_works_from_top_to_bottom(place: Path) -> None:
    run(["pretrain", "vision/mae", "--preset", "small", "--data", "fashion"])
    for kind, block in blocks(ROOT / "docs/cli.md"):
        if kind == "console":
            for words in commands(block):
                sized = "folder:photos" in words and words[0] != "embed"  # which takes the run's
                run([*words, "--data.size", "32"] if sized else words)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_options_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every option of a command that is only shown is one that the verb's help names."""
    for kind, block in blocks(page):
        for words in commands(block) if kind == "console" else ():
            if "acme" in " ".join(words):
                words = [word for word in words if "acme" not in word and not word.startswith("--masking")]
            if "--help" in words or words[0] in ("list", "check", "plugins"):
                continue
            # A system, and an evaluation of a run, have options of their own.
            own = {"pretrain": 2, "compare": 2, "look": 2, "evaluate": 3}.get(words[0], 1)
            named = words[:own] if "/" in words[own - 1] else words[:1]
            for place, word in enumerate(words):  # the help has options of data that is named
                if re.fullmatch(r"--data(\.\w+_data)?", word):
                    named = [*named, *words[place : place + 2]]
            assert main([*named, "--help"]) == 0
            if words[0] == "generate" and "--masking" in words:  # of whose options look tells
                assert main(["look", words[words.index("--masking") + 1], "--help"]) == 0
            text = capsys.readouterr().out
            for option in (word for word in words if word.startswith("--")):
                assert option.partition("=")[0] in text, f"{shlex.join(words)}: no {option}"
