"""Releases that the history knows: tags, or in a clone without them commits ``Release theworld-<x> X.Y.Z``."""

import io
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from releasing.tree import Package, packages


@dataclass(frozen=True, kw_only=True)
class Release:
    """One release of one package."""

    name: str
    version: Version
    commit: str

    @property
    def tag(self) -> str:
        return tag(self.name, self.version)


def tag(name: str, version: Version) -> str:
    return f"theworld-{name}-v{version}"


def subject(name: str, version: Version) -> str:
    return f"Release theworld-{name} {version}"


def git(root: Path, *arguments: str) -> str:
    """Output of a git command.

    Raises:
        ValueError: it failed; with what it said.
    """
    command = ["git", "-c", f"safe.directory={root.resolve()}", *arguments]  # CI may run as another user
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"git {arguments[0]} failed in {root}: {' '.join(done.stderr.split())}")
    return done.stdout.strip()


def releases(package: Package) -> list[Release]:
    """All releases that HEAD comes after, newest first.

    Raises:
        ValueError: the changelog has releases that the history lacks, as in a shallow clone.
    """
    found = _found(package) if (package.root / ".git").exists() else {}
    told = [Version(text) for text in re.findall(r"(?m)^## \[(\d+\.\d+\.\d+)\]", package.changelog)]
    if told and max(told) not in found:
        raise ValueError(
            f"{package.distribution}'s changelog has {max(told)}, but this clone has neither its tag nor its commit "
            f"{subject(package.name, max(told))!r}. Fetch the whole history: git fetch --unshallow --tags"
        )
    commits = {version: git(package.root, "rev-parse", f"{where}^{{commit}}") for version, where in found.items()}
    return [Release(name=package.name, version=one, commit=commits[one]) for one in sorted(commits, reverse=True)]


def _found(package: Package) -> dict[Version, str]:
    """Tag or commit by version."""
    prefix = f"theworld-{package.name}-v"
    tags = git(package.root, "tag", "--merged", "HEAD", "--list", f"{prefix}*").split()
    if tags:
        return {Version(name.removeprefix(prefix)): name for name in tags}
    log = git(package.root, "log", "--format=%H %s", f"--grep=^Release {package.distribution} ")
    pattern = rf"(\w+) Release {package.distribution} (\d+\.\d+\.\d+)"
    matches = [match for line in log.splitlines() if (match := re.fullmatch(pattern, line))]
    return {Version(match[2]): match[1] for match in reversed(matches)}  # of two with one version, the newest


def last_release(package: Package) -> Release | None:
    return next(iter(releases(package)), None)


def changed(package: Package, since: Release) -> list[str]:
    """Files of the package that differ from a release's, by paths inside its folder."""
    return git(package.folder, "diff", "--name-only", "--relative", since.commit, "--", ".").splitlines()


def checkout(root: Path, release: Release, into: Path) -> Path:
    """The whole tree as of a release, in a folder of ``into``, without touching the working tree."""
    folder = into.resolve() / release.commit  # sessions change their working directory
    if not folder.is_dir():
        command = ["git", "-c", f"safe.directory={root.resolve()}", "archive", release.commit]
        archive = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
    return folder


def package_at(root: Path, release: Release, into: Path) -> Package:
    return packages(checkout(root, release, into))[release.name]
