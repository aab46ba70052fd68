"""Every check, each in an environment of its own: ``uv run nox`` runs them all, ``nox -l`` lists them.

Packages are tested as their users get them: built, installed from the wheel by path, with what the
wheel declares and the package's group ``test``, never from the source tree. uv reads the versions to
install from ``constraint-dependencies`` in pyproject.toml.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import nox

ROOT = Path(__file__).parent
DIST = ROOT / "dist"


def project(package: str) -> dict[str, Any]:
    """The parsed pyproject.toml of a package."""
    return tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())


def needs(package: str) -> list[str]:
    """The packages of ours that one declares, by folder."""
    declared = [re.split(r"[^\w-]", text)[0] for text in project(package)["project"]["dependencies"]]
    return [other for other in FOLDERS if project(other)["project"]["name"] in declared]


FOLDERS = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
PACKAGES = {package: needs(package) for package in sorted(FOLDERS, key=lambda one: (one != "core", one))}
"""Folders under packages/, core first, each with the packages of ours that it needs."""

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "types", "docs", "build", "light", "unit", "minimums", "cross"]
nox.options.error_on_missing_interpreters = True


def wheels(*packages: str) -> list[str]:
    """Paths of the built wheels of packages."""
    names = [project(package)["project"]["name"].replace("-", "_") for package in packages]
    return [str(next(DIST.glob(f"{name}-[0-9]*.whl"))) for name in names]


def extras(package: str) -> str:
    """All extras of a package, as a suffix of its wheel's path."""
    names = project(package)["project"].get("optional-dependencies", {})
    return f"[{','.join(names)}]" if names else ""


def test(session: nox.Session, *arguments: str) -> None:
    """Run pytest, quietly, in a process per core of one thread each, and with broken plugins an error."""
    session.run(
        *("pytest", "-q", "-n", "auto", "--maxprocesses", "8", *arguments, *session.posargs),
        env={"OMP_NUM_THREADS": "1", "POLYMASK_STRICT": "1"},
    )


@nox.session(venv_backend="none")
def build(session: nox.Session) -> None:
    """Wheel and source distribution of every package, into dist/."""
    session.run("uv", "build", "--all-packages", "--no-sources", "--clear", "--out-dir", str(DIST), "-q")


@nox.session(requires=["build"])
@nox.parametrize("package", list(PACKAGES), ids=list(PACKAGES))
def unit(session: nox.Session, package: str) -> None:
    """A package's own tests, against its wheel and what that declares."""
    *others, own = wheels(*PACKAGES[package], package)
    group = f"packages/{package}/pyproject.toml:test"
    session.install(*others, own + extras(package), "--group", group)
    test(session, f"packages/{package}/tests")


@nox.session(requires=["build"])
@nox.parametrize("package", list(PACKAGES), ids=list(PACKAGES))
def minimums(session: nox.Session, package: str) -> None:
    """A package's own tests, against the lowest versions that it declares."""
    declared = project(package)["project"]
    optional = declared.get("optional-dependencies", {}).values()
    ours = [project(other)["project"]["name"] for other in PACKAGES]
    lowest = [
        requirement
        for requirement in [*declared["dependencies"], *(r for extra in optional for r in extra)]
        if not any(requirement.startswith(f"{name}>") for name in ours)
    ]
    group = f"packages/{package}/pyproject.toml:test"
    # without pyproject.toml's constraints
    session.install(
        "--no-config",
        "--resolution=lowest-direct",
        *wheels(*PACKAGES[package], package),
        *lowest,
        "--group",
        group,
    )
    # How much of a function torch.compile can capture is a promise for the versions held, not for all.
    test(session, f"packages/{package}/tests", "-k", "not compile")


@nox.session(requires=["build"])
def cross(session: nox.Session) -> None:
    """All packages together: command line, conformance of every part, plugins of third parties, docs."""
    session.install(*(wheel + extras(p) for p, wheel in zip(PACKAGES, wheels(*PACKAGES), strict=True)))
    session.install("--group", "test")
    test(session, "tests")


@nox.session(requires=["build"])
def light(session: nox.Session) -> None:
    """Finding out what is installed, where torch is not."""
    session.install("--no-deps", *wheels(*PACKAGES))
    session.install("pluggy", "pyyaml", "rich")
    session.run("python", "-c", "import importlib.util as u; assert u.find_spec('torch') is None")
    for arguments in (["--version"], ["--help"], ["list"], ["plugins"]):
        session.run("polymask", *arguments, silent=True, env={"POLYMASK_STRICT": "1"})


@nox.session
@nox.parametrize("package", list(PACKAGES), ids=list(PACKAGES))
def types(session: nox.Session, package: str) -> None:
    """Strict types, package by package."""
    folders = [f"./packages/{p}" for p in [*PACKAGES[package], package]]
    session.install(*(folder + extras(Path(folder).name) for folder in folders), "--group", "types")
    session.run("mypy", f"packages/{package}/src")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and which module may import which."""
    session.install("--no-deps", *(f"./packages/{package}" for package in PACKAGES))
    session.install("--group", "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports")


@nox.session
def docs(session: nox.Session) -> None:
    """The site, into site/."""
    session.install("--group", "docs")
    session.run("mkdocs", "build", "--strict", "--quiet", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session(venv_backend="none", default=False)
def tables(session: nox.Session) -> None:
    """Write the tables of README and docs anew from what is registered."""
    session.run("uv", "run", "tools/tables.py", external=True)


@nox.session(venv_backend="none", default=False)
def dev(session: nox.Session) -> None:
    """The environment for working on all packages at once, in .venv."""
    session.run("uv", "sync", external=True)
