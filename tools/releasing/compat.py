"""Which versions of two packages meet in a check of one range, and whether the ranges let them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from packaging.version import Version

from releasing.history import package_at, releases
from releasing.tree import Package, packages
from releasing.versions import floor, next_break, takes

SIDES = ("head-consumer", "head-provider", "floor")
"""HEAD's consumer with the last released provider; HEAD's provider with the last released consumer and its tests of
then; HEAD's consumer with the lowest released provider that its range takes."""


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """What is to be installed together, by short names; or why the ranges refuse it; or that nothing is released."""

    consumer: Package | None = None
    """Whose tests run, of the checkout that it is from."""
    together: tuple[Package, ...] = ()
    """The consumer, the provider and the siblings that they need, leaves first."""
    unreleased: str = ""
    """The package without any release, if that is why there is nothing to check."""
    refused: str = ""
    """Which range refuses the two, in a sentence."""
    lawful: bool = True
    """Whether the refusal is what the rules of versions ask for; otherwise somebody has to mend a range."""


def meeting(root: Path, provider: str, consumer: str, side: str, scratch: Path) -> Meeting:
    """Who meets on one side of the edge from ``provider`` to ``consumer``.

    Args:
        scratch: where checkouts of releases go.
    """
    head = packages(root)
    past = {name: [package_at(root, one, scratch) for one in releases(package)] for name, package in head.items()}
    missing = consumer if side == "head-provider" else provider
    if not past[missing]:
        return Meeting(unreleased=f"theworld-{missing}")
    if side == "head-provider":
        ours, theirs = past[consumer][0], head[provider]
        lawful = _broken_since(theirs.version, past[provider]) or not _takes(ours, provider, past[provider][0].version)
    else:
        ours = head[consumer]
        inside = [one for one in past[provider] if _takes(ours, provider, one.version)]
        theirs = (inside[-1] if side == "floor" else past[provider][0]) if inside else past[provider][0]
        lawful = _takes(ours, provider, head[provider].version)
    if provider not in ours.siblings:
        return Meeting(refused=f"{_named(ours)} does not require theworld-{provider}")
    if not _takes(ours, provider, theirs.version):
        wish = ours.siblings[provider]
        return Meeting(
            together=(theirs, ours), refused=f"{_named(ours)} takes {wish}, not {theirs.version}", lawful=lawful
        )
    others = {
        name: [head[name], *past[name]] if ours.root == root else [*past[name], head[name]]
        for name in head
        if name in needed(ours) - {provider}
    }
    together = combine([theirs, ours], list(others.values()))
    if together is None:
        versions = "; ".join(", ".join(_named(one) for one in choice) for choice in others.values())
        return Meeting(refused=f"no siblings fit both {_named(ours)} and {_named(theirs)}, among {versions}")
    return Meeting(consumer=ours, together=together)


def sessions(root: Path, provider: str, consumer: str, scratch: Path) -> list[str]:
    """Sessions that test one edge for a release, each meeting once.

    Where all the code that meets is HEAD's and only versions are not, as right after a release, ``tests(consumer)`` is
    that test.
    """
    head = packages(root)
    found = dict[tuple[Package, ...] | str, str]()
    for side in SIDES:
        met = meeting(root, provider, consumer, side, scratch)
        same = met.consumer is not None and all(_code(one) == _code(head[one.name]) for one in met.together)
        name = f"tests({consumer})" if same else f"compat({provider}-{consumer}, {side})"
        found.setdefault(met.together if met.consumer else side, name)
    return list(found.values())


def last_released(package: Package, scratch: Path) -> tuple[Package, ...] | None:
    """The last release of a package, with the newest siblings that it takes; ``None`` before there is one."""
    past = {name: releases(one) for name, one in packages(package.root).items()}
    if not past[package.name]:
        return None
    newest = package_at(package.root, past[package.name][0], scratch)
    choices = [[package_at(package.root, one, scratch) for one in past[name]] for name in sorted(needed(newest))]
    return combine([newest], choices)


def combine(fixed: Sequence[Package], choices: Sequence[Sequence[Package]]) -> tuple[Package, ...] | None:
    """The first choice of siblings beside ``fixed`` in which every declared range holds, leaves first."""
    order = list(packages(fixed[0].root))
    for chosen in product(*choices):
        together = sorted([*fixed, *chosen], key=lambda one: order.index(one.name))
        if not conflicts(together):
            return tuple(together)
    return None


def conflicts(together: Sequence[Package]) -> list[str]:
    """Declared ranges that do not hold among these versions, in sentences."""
    versions = {one.name: one.version for one in together}
    return [
        f"{_named(one)} takes {wish}, not {versions[name]}"
        for one in together
        for name, wish in one.siblings.items()
        if name in versions and not takes(wish.specifier, versions[name])
    ]


def unreleased_floors(package: Package, released: dict[str, list[Version]]) -> list[str]:
    """Ranges of a package that is to be released whose floor nobody can install, in sentences."""
    faults = list[str]()
    for name, wish in package.siblings.items():
        lowest = floor(wish)
        if lowest in released[name]:
            continue
        newest = max(released[name], default=None)
        remedy = f"Write >={newest}." if newest and lowest and newest >= lowest else f"Release theworld-{name} first."
        faults.append(f"{package.distribution} takes {wish}, whose floor is not released. {remedy}")
    return faults


def _broken_since(head: Version, past: Sequence[Package]) -> bool:
    """Whether the provider has moved to a series that its last release's users have to refuse."""
    return not past or Version(head.base_version) >= next_break(past[0].version)


def _takes(consumer: Package, provider: str, version: Version) -> bool:
    return provider in consumer.siblings and takes(consumer.siblings[provider].specifier, version)


def needed(package: Package) -> set[str]:
    """Siblings that come with a package, theirs too."""
    around = packages(package.root)
    return set(package.siblings).union(*(needed(around[name]) for name in package.siblings))


def _code(package: Package) -> dict[str, object]:
    """All that could change a test's result: sources, tests, and metadata but for the version."""
    files = (path for part in ("src", "tests") for path in sorted((package.folder / part).rglob("*")))
    code = dict[str, object]()
    for path in files:
        if path.is_file() and "__pycache__" not in path.parts:
            code[path.relative_to(package.folder).as_posix()] = path.read_bytes()
    metadata = package.metadata
    metadata["project"].pop("version")
    return code | {"pyproject.toml": metadata}


def _named(package: Package) -> str:
    return f"{package.distribution} {package.version}"
