"""Every check, each in an environment of its own: ``uv run nox`` runs them all, ``nox -l`` lists them.

Packages are tested as their users get them: built, installed from the wheel by path, with what the
wheel declares and the package's group ``test``, never from the source tree. uv reads the versions to
install from ``constraint-dependencies`` in pyproject.toml.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from pathlib import Path

import nox

ROOT = Path(__file__).parent
DIST = ROOT / "dist"
PACKAGES = {
    p.parent.name: tomllib.loads(p.read_text()) for p in sorted(ROOT.glob("packages/*/pyproject.toml"))
}
"""What pyproject.toml of each folder under packages/ declares."""

each_package = nox.parametrize("package", list(PACKAGES), ids=list(PACKAGES))

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["build", "lint", "together", "types", "docs", "light", "alone"]
nox.options.parallel = "auto"
nox.options.allow_parallel = True
nox.options.error_on_missing_interpreters = True


def requirements(package: str) -> list[str]:
    """What a package and all its extras require."""
    project = PACKAGES[package]["project"]
    extra = project.get("optional-dependencies", {}).values()
    return [*project["dependencies"], *itertools.chain.from_iterable(extra)]


def with_own(package: str) -> list[str]:
    """A package, after the packages of ours that it requires."""
    required = {re.match(r"[\w.-]+", requirement)[0] for requirement in requirements(package)}
    return [*(p for p in PACKAGES if PACKAGES[p]["project"]["name"] in required), package]


def wheels(*packages: str) -> list[str]:
    """Paths of the built wheels of packages."""
    names = [PACKAGES[package]["project"]["name"].replace("-", "_") for package in packages]
    return [str(next(DIST.glob(f"{name}-[0-9]*.whl"))) for name in names]


def all_wheels() -> list[str]:
    """The wheel of every package, with all its extras."""
    return [wheel + extras(p) for p, wheel in zip(PACKAGES, wheels(*PACKAGES), strict=True)]


def extras(package: str) -> str:
    """All extras of a package, as a suffix of its wheel's path."""
    names = PACKAGES[package]["project"].get("optional-dependencies", {})
    return f"[{','.join(names)}]" if names else ""


def groups(*packages: str) -> list[str]:
    """Options that install what the tests of packages need."""
    return [option for p in packages for option in ("--group", f"packages/{p}/pyproject.toml:test")]


def test(session: nox.Session, *arguments: str, **env: str) -> None:
    """Run pytest, quietly, each process of one thread, and with broken plugins an error.

    Where an environment forbids bytecode, hundreds of processes would each compile torch's sources.
    """
    session.run(
        *("pytest", "-q", *arguments, *session.posargs),
        env={"OMP_NUM_THREADS": "1", "POLYMASK_STRICT": "1", "PYTHONDONTWRITEBYTECODE": "", **env},
    )


@nox.session(venv_backend="none")
def build(session: nox.Session) -> None:
    """Wheel and source distribution of every package, into dist/."""
    session.run("uv", "build", "--all-packages", "--no-sources", "--clear", "--out-dir", str(DIST), "-q")


@nox.session(requires=["build"])
@each_package
def alone(session: nox.Session, package: str) -> None:
    """A package's own tests, with nothing installed but it, at the lowest versions that it declares.

    In one process, since importing takes longer than most tests do; other sessions run beside it. Its systems
    are put to the conformance suite here; what each is peculiar in is tested with the versions held.
    """
    ours = tuple(f"{declared['project']['name']}>" for declared in PACKAGES.values())
    lowest = [requirement for requirement in requirements(package) if not requirement.startswith(ours)]
    # without pyproject.toml's constraints
    resolution = ("--no-config", "--resolution=lowest-direct")
    session.install(*resolution, *wheels(*with_own(package)), *lowest, *groups(package))
    tests = f"packages/{package}/tests"
    test(session, tests, f"--ignore={tests}/systems", "-m", "not compile and not slow")


@nox.session(requires=["build"])
def together(session: nox.Session) -> None:
    """All tests with all packages, at the versions held: their own tests, and those of one with another."""
    session.install(*all_wheels(), "--group", "test", *groups(*PACKAGES))
    cache = Path(session.virtualenv.location) / "inductor"
    processes = ("-n", "auto", "--maxprocesses", "4", "--dist", "worksteal")
    test(session, *processes, TORCHINDUCTOR_CACHE_DIR=str(cache))


@nox.session(requires=["build"])
def light(session: nox.Session) -> None:
    """Finding out what is installed, where torch is not."""
    session.install("--no-deps", *wheels(*PACKAGES))
    session.install("pluggy", "pyyaml", "rich")
    session.run("python", "-c", "import importlib.util as u; assert u.find_spec('torch') is None")
    for arguments in (["--version"], ["--help"], ["list"], ["plugins"]):
        session.run("polymask", *arguments, silent=True, env={"POLYMASK_STRICT": "1"})


@nox.session
def types(session: nox.Session) -> None:
    """Strict types."""
    session.install(*(f"./packages/{p}{extras(p)}" for p in PACKAGES), "--group", "types")
    session.run("mypy", *(f"packages/{package}/src" for package in PACKAGES))


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


@nox.session(default=False)
def tutorials(session: nox.Session) -> None:
    """Execute the tutorials, or those that are named, and write their pages; minutes on two cores."""
    paths = [f"./packages/{package}{extras(package)}" for package in ("core", *PACKAGES)]
    session.install(*dict.fromkeys(paths), "--group", "tutorials")
    session.run("python", "tools/tutorials.py", *session.posargs)


@nox.session(venv_backend="none", default=False)
def tables(session: nox.Session) -> None:
    """Write the tables of README and docs anew from what is registered."""
    session.run("uv", "run", "tools/tables.py", external=True)


@nox.session(venv_backend="none", default=False)
def dev(session: nox.Session) -> None:
    """The environment for working on all packages at once, in .venv."""
    session.run("uv", "sync", external=True)
