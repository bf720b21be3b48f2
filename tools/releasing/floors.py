"""The lowest versions that a package declares, as a constraints file."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from releasing.tree import Package, packages
from releasing.versions import floor

EXEMPT = {"torch"}
"""Of which the machines that test have one build for CPUs alone: it stays at the version of ``constraints/ci.txt``."""


def floors(package: Package, extras: Iterable[str] = ()) -> dict[str, Version]:
    """Lowest version of each third party's distribution that the package and its siblings take, the highest of them.

    Raises:
        ValueError: a requirement has no floor.
    """
    found = dict[str, Version]()
    for requirement in _requirements(package, set(extras)):
        name = canonicalize_name(requirement.name)
        lowest = floor(requirement)
        if lowest is None:
            raise ValueError(f"{package.distribution} requires {requirement} without a floor. Write the lowest tested.")
        if name not in EXEMPT and lowest > found.get(name, Version("0")):
            found[name] = lowest
    return found


def constraints(lowest: Mapping[str, Version], pins: str) -> str:
    """Floors as pins, behind the pins that CI uses for everything that is not declared."""
    kept = [
        line
        for line in pins.splitlines()
        if "==" in line and canonicalize_name(line.partition("==")[0].strip()) not in lowest
    ]
    return "\n".join([*kept, *(f"{name}=={version}" for name, version in sorted(lowest.items()))]) + "\n"


def write_constraints(package: Package, extras: Iterable[str], pins: Path, into: Path) -> Path:
    into.mkdir(parents=True, exist_ok=True)
    path = into / f"minimums-{package.name}.txt"
    path.write_text(constraints(floors(package, extras), pins.read_text(encoding="utf-8")), encoding="utf-8")
    return path


def _requirements(package: Package, extras: set[str]) -> list[Requirement]:
    """Third parties' ones, of the package with those extras and of the siblings that it asks for."""
    optional = package.metadata["project"].get("optional-dependencies", {})
    own = [*package.requirements, *(Requirement(text) for extra in sorted(extras) for text in optional[extra])]
    found = list[Requirement]()
    for requirement in own:
        name = canonicalize_name(requirement.name).removeprefix("theworld-")
        if name in packages(package.root):
            found += _requirements(packages(package.root)[name], requirement.extras)
        else:
            found.append(requirement)
    return found
