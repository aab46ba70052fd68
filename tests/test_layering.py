"""Who may import what, what is declared, and what the repository must not hold."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
HEAVY = {"torch", "timm", "torchaudio", "torchvision", "transformers", "lightning", "matplotlib", "sklearn"}
LIGHT = ["polymask", "polymask.cli", "polymask.config", "polymask.errors", "polymask.files"]
LIGHT += ["polymask.plugins.hookspecs", "polymask.parts", "polymask.plugins.registry", "polymask.types"]


def project(package: Path) -> dict[str, Any]:
    return tomllib.loads((package / "pyproject.toml").read_text())


def import_name(package: Path) -> str:
    return next(path.parent.name for path in package.glob("src/*/__init__.py"))


def entry_points() -> dict[str, str]:
    return {k: v for p in PACKAGES for k, v in project(p)["project"]["entry-points"]["polymask"].items()}


def tracked_files() -> list[Path]:
    """Files of the repository: those git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def imports(path: Path) -> Iterator[str]:
    """Top-level names of all absolute imports of a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("module", [*LIGHT, *entry_points().values()])
def test_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY.intersection(json.loads(run.stdout))


@pytest.mark.parametrize("words", [["--help"], ["list"], ["list", "--json"], ["plugins"], ["--version"]])
def test_finding_out_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        f"import sys; from polymask.cli import main; assert main({words!r}) == 0; print(sorted(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY.intersection(ast.literal_eval(run.stdout.splitlines()[-1]))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_declares_what_it_imports(package: Path) -> None:
    declared = project(package)["project"]
    extras = declared.get("optional-dependencies", {}).values()
    kernels = project(ROOT)["dependency-groups"]["kernels"]  # what cannot be an extra
    requirements = [*declared["dependencies"], *(r for extra in extras for r in extra), *kernels]
    allowed = {canonicalize_name(Requirement(r).name) for r in requirements} | {declared["name"]}
    # serves packages that declare it, and is imported by no other module of core
    lent = {package / "src/polymask/data/hub.py": {"datasets"}}
    owners = packages_distributions()
    for path in (package / "src").rglob("*.py"):
        for name in set(imports(path)) - sys.stdlib_module_names:
            dists = {canonicalize_name(dist) for dist in owners.get(name, [name])}
            known = allowed | lent.get(path, set())
            assert dists & known, f"{path.relative_to(ROOT)} imports {name}, which is not declared"


def test_every_package_is_in_the_workspace() -> None:
    root = project(ROOT)
    named = {Requirement(r).name for r in root["project"]["dependencies"]}
    assert named == {project(p)["project"]["name"] for p in PACKAGES} == set(root["tool"]["uv"]["sources"])
    assert set(root["tool"]["importlinter"]["root_packages"]) == {import_name(p) for p in PACKAGES}
    contracts = {c["type"]: c for c in root["tool"]["importlinter"]["contracts"]}
    satellites = {import_name(p) for p in PACKAGES} - {"polymask"}
    assert set(contracts["independence"]["modules"]) == satellites


def test_packages_share_version_licence_and_python() -> None:
    projects = [project(p)["project"] for p in PACKAGES]
    for key in ("version", "requires-python"):
        assert len({p[key] for p in projects}) == 1, key
    # what comes with a package may have a licence of its own beside
    assert {p["license"].partition(" AND ")[0] for p in projects} == {"Apache-2.0"}
    texts = {p.joinpath("LICENSE").read_text() for p in [ROOT, *PACKAGES]}
    assert len(texts) == 1


def test_versions_are_held_within_what_packages_declare() -> None:
    held = {r.name: r for r in map(Requirement, project(ROOT)["tool"]["uv"]["constraint-dependencies"])}
    for package in PACKAGES:
        for requirement in map(Requirement, project(package)["project"]["dependencies"]):
            if requirement.name.startswith("polymask"):
                continue
            version = str(held[requirement.name].specifier).removeprefix("==")
            assert version in requirement.specifier, f"{package.name}: {requirement} against {version}"


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    home = re.compile(rb"(?<![\w.$}/-])/(?:home|root|work|Users|mnt)/\w")
    index = re.compile(rb"(?i)(?:extra-|default-)?index[-_]url|find-links|\[\[tool\.uv\.index")
    for path in tracked_files():
        if path == Path(__file__):
            continue
        for pattern in (home, index):
            found = pattern.search(path.read_bytes())
            assert not found, f"{path.relative_to(ROOT)}: {found[0]!r}"


def test_files_stay_short() -> None:
    """No source file over 300 lines, unless it is named here with its reason."""
    declarations = "one declaration after another"
    excused = {
        f"packages/{name}/src/polymask_{name}/{file}.py": declarations
        for name in ("audio", "language", "pointcloud", "vision")
        for file in ("plugin", "presets")
    }
    long = {
        str(path.relative_to(ROOT)): lines
        for package in PACKAGES
        for path in (package / "src").rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 300
    }
    assert not long.keys() - excused.keys(), long
    assert not excused.keys() - long.keys(), "no longer long"
