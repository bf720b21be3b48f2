"""What CI and a release ask of versions, ranges and fragments: faults as sentences, none if all is well."""

import re
from collections.abc import Sequence
from pathlib import Path

from packaging.version import Version

from releasing.compat import sessions as compat_sessions
from releasing.compat import unreleased_floors
from releasing.history import Release, changed, git, last_release, package_at, releases, tag
from releasing.tree import Package, edges, packages
from releasing.versions import final, range_faults, version_fault

GOLDEN = "tests/golden/"
"""Under it lie tables that published checkpoints depend on."""


def range_check(root: Path) -> list[str]:
    """Whether every range on a sibling has a true floor, takes what is in the tree and ends before the next break."""
    head = packages(root)
    released = {name: [one.version for one in releases(package)] for name, package in head.items()}
    return [
        f"{package.distribution}: {fault}"
        for package in head.values()
        for name, wish in package.siblings.items()
        for fault in range_faults(wish, head[name].version, released[name])
    ]


def changelog_check(package: Package, scratch: Path) -> list[str]:
    """Whether what users notice has a fragment, and the version is the one that the fragments ask for."""
    last = last_release(package)
    faults = [version_fault(package.version, last.version if last else None, package.kinds)]
    if last is None:
        faults += [] if package.kinds else [f"{package.distribution} has no fragment for its first release. Write one."]
    else:
        faults += _unsaid(package, last, scratch)
    return [f"{package.distribution}: {fault}" for fault in faults if fault]


def release_check(package: Package) -> list[str]:
    """Everything that can be said against releasing a package from this checkout before any session runs."""
    root = package.root
    released = {name: [one.version for one in releases(one_of)] for name, one_of in packages(root).items()}
    version = release_version(package)
    faults = list[str]()
    if dirt := git(root, "status", "--porcelain"):
        faults.append(f"the tree has changes ({dirt.splitlines()[0].strip()}, ...). Commit them, or take them back.")
    if (branch := git(root, "rev-parse", "--abbrev-ref", "HEAD")) != "main":
        faults.append(f"the branch is {branch}. Releases are cut on main.")
    if git(root, "tag", "--list", tag(package.name, version)):
        faults.append(f"the tag {tag(package.name, version)} is taken. Fetch, and look at what it is.")
    if re.search(rf"(?m)^## \[{re.escape(str(version))}\]", package.changelog):
        faults.append(f"the changelog of {package.distribution} already has {version}.")
    if not package.kinds:
        faults.append(f"{package.distribution} has no fragments, so there is nothing to release.")
    return faults + unreleased_floors(package, released)


def gates(root: Path, name: str, arguments: Sequence[str], scratch: Path) -> list[str]:
    """Sessions that have to be green before a release; ``--gates`` leaves most of them out, for a drill."""
    sessions = [
        "lint",
        "typecheck",
        *(f"{verb}({name})" for verb in ("changelog", "api", "build", "tests", "minimums")),
    ]
    sessions += ["ranges", "integration", "docs", "checkpoints"]
    for edge in edges(root):
        sessions += compat_sessions(root, *edge, scratch) if name in edge else []
    sessions = list(dict.fromkeys(sessions))
    if not arguments:
        return sessions
    return [session for session in sessions if session.partition("(")[0] in arguments[1].split(",")]


def gates_fault(root: Path, arguments: Sequence[str]) -> list[str]:
    """What is wrong with the arguments: a real release goes through all gates."""
    if not arguments:
        return []
    if len(arguments) != 2 or arguments[0] != "--gates":
        return [f"{' '.join(arguments)} is no option. A release takes none; a drill takes --gates lint,changelog."]
    origin = git(root, "remote", "get-url", "origin") if git(root, "remote") else ""
    if origin and not Path(origin).is_dir():
        return [f"--gates is for drills in a clone of a local folder, and this is one of {origin}. Leave it out."]
    return []


def release_version(package: Package) -> Version:
    """The version that a release would get: what ``pyproject.toml`` says without ``.dev0``."""
    return final(package.version)


def _unsaid(package: Package, last: Release, scratch: Path) -> list[str]:
    """Changes since the last release that no fragment speaks of."""
    files = changed(package, last)
    before = package_at(package.root, last, scratch)
    sources = [file for file in files if file.startswith("src/")]
    faults = list[str]()
    if not package.kinds and sources:
        faults.append(f"{sources[0]} changed since {last.version} and there is no fragment. Write one in changelog.d/.")
    if not package.kinds and _without_version(package) != _without_version(before):
        faults.append(f"its metadata changed since {last.version} and there is no fragment. Write one in changelog.d/.")
    goldens = [file for file in files if file.startswith(GOLDEN) and (before.folder / file).is_file()]
    if goldens and "breaking" not in package.kinds:
        remedy = "Take it back, or write a breaking fragment."
        faults.append(f"{goldens[0]} changed since {last.version}; published checkpoints depend on it. {remedy}")
    return faults


def _without_version(package: Package) -> dict[str, object]:
    return {key: value for key, value in package.metadata["project"].items() if key != "version"}
