"""Which packages stand beside polymask, and their versions."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed(package: str) -> bool:
    """Whether a package is installed, by the name that pip knows."""
    return bool(versions(package))


def versions(*packages: str) -> dict[str, str]:
    """Versions of those that are installed, as figures are written with."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
