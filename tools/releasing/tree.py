"""The packages as one checkout has them: versions, what they require, and changelog fragments."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PACKAGES = ("tokens", "encoders", "fusion", "train")
"""Leaves first: a package declares those before it alone, so this is the order of releases too."""
KINDS = ("breaking", "feature", "fix", "deprecation")
"""Types of changelog fragments, as each ``pyproject.toml`` has them under ``[tool.towncrier]``."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """One package of the checkout at ``root``."""

    name: str
    """``tokens`` of ``theworld-tokens``."""
    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "packages" / self.distribution

    @property
    def distribution(self) -> str:
        return f"theworld-{self.name}"

    @property
    def module(self) -> str:
        return f"theworld_{self.name}"

    @property
    def metadata(self) -> dict[str, Any]:
        return tomllib.loads((self.folder / "pyproject.toml").read_text(encoding="utf-8"))

    @property
    def version(self) -> Version:
        return Version(self.metadata["project"]["version"])

    @property
    def requirements(self) -> list[Requirement]:
        """Without extras."""
        return [Requirement(text) for text in self.metadata["project"]["dependencies"]]

    @property
    def siblings(self) -> dict[str, Requirement]:
        """Requirements on packages of ours, by their short names, leaves first."""
        found = {canonicalize_name(one.name).removeprefix("theworld-"): one for one in self.requirements}
        return {name: found[name] for name in PACKAGES if name in found}

    @property
    def kinds(self) -> set[str]:
        """Types of the fragments that no release has collected yet.

        Raises:
            ValueError: a file in ``changelog.d/`` is no fragment of a known type.
        """
        return {_kind(path) for path in self.fragments}

    @property
    def fragments(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("changelog.d/*") if path.name != "README.md")

    @property
    def changelog(self) -> str:
        return (self.folder / "CHANGELOG.md").read_text(encoding="utf-8")

    def write_version(self, version: Version) -> None:
        """Raises:
        ValueError: ``pyproject.toml`` has no line ``version = "..."``, or several.
        """
        path = self.folder / "pyproject.toml"
        text, count = re.subn(r'(?m)^version = "[^"]*"$', f'version = "{version}"', path.read_text(encoding="utf-8"))
        if count != 1:
            raise ValueError(f'{path} has {count} lines of the form version = "...". Leave one.')
        path.write_text(text, encoding="utf-8")


def packages(root: Path) -> dict[str, Package]:
    return {name: Package(name=name, root=root) for name in PACKAGES}


def edges(root: Path) -> list[tuple[str, str]]:
    """Provider and consumer of every range that one of ours declares on another."""
    return [(provider, name) for name, package in packages(root).items() for provider in package.siblings]


def _kind(path: Path) -> str:
    match = re.fullmatch(r"(?:\d+|\+[\w-]+)\.([a-z]+)(?:\.\d+)?\.md", path.name)
    if match is None or match[1] not in KINDS:
        raise ValueError(f"{path} is no fragment. Name it <pull request>.<type>.md, of type {', '.join(KINDS)}.")
    return match[1]
