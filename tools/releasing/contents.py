"""What a package's archives have to hold: every file of its sources, and no other."""

import re
from collections.abc import Iterable
from pathlib import Path

from releasing.tree import Package

_EXTRA = {"PKG-INFO", "pyproject.toml", ".gitignore", "README.md", "LICENSE", "CHANGELOG.md"}


def wheel_faults(package: Package, names: Iterable[str]) -> list[str]:
    """Differences between a wheel and the package's sources, and missing metadata, in sentences."""
    info = f"{package.module}-{package.version}.dist-info/"
    found = {name for name in names if not name.endswith("/")}
    wanted = {path.removeprefix("src/") for path in _files(package, "src")}
    wanted |= {f"{info}{name}" for name in ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")}
    optional = {f"{info}entry_points.txt"}
    return _differences(f"the wheel of {package.distribution} {package.version}", wanted, found - optional)


def sdist_faults(package: Package, names: Iterable[str]) -> list[str]:
    """Differences between an sdist and what the package's folder holds; it has tests and fragments too."""
    top = f"{package.module}-{package.version}/"
    found = {name.removeprefix(top) for name in names if re.search(r"/[^/]*\.[^/]+$|/LICENSE$|/PKG-INFO$", name)}
    wanted = set().union(*(_files(package, part) for part in ("src", "tests", "changelog.d"))) | _EXTRA
    return _differences(f"the sdist of {package.distribution} {package.version}", wanted, found)


def example(package: Package) -> str:
    """The first Python example of the package's README.

    Raises:
        ValueError: there is none.
    """
    text = (package.folder / "README.md").read_text(encoding="utf-8")
    if (match := re.search(r"(?ms)^```python\n(.*?)^```", text)) is None:
        raise ValueError(f"{package.folder / 'README.md'} has no Python example. Write one of about ten lines.")
    return match[1]


def install_name(package: Package) -> str:
    """What the package's README tells people to install, ``theworld-encoders[cosmos,video]``.

    Raises:
        ValueError: it does not say.
    """
    text = (package.folder / "README.md").read_text(encoding="utf-8")
    if (match := re.search(rf'pip install "?({package.distribution}(?:\[[\w,]+\])?)"?$', text, re.MULTILINE)) is None:
        raise ValueError(f"{package.folder / 'README.md'} has no line pip install {package.distribution}. Write it.")
    return match[1]


def _files(package: Package, part: str) -> set[str]:
    return {
        path.relative_to(package.folder).as_posix()
        for path in (package.folder / part).rglob("*")
        if path.is_file() and not _is_cache(path)
    }


def _is_cache(path: Path) -> bool:
    return path.suffix == ".pyc" or any(part.startswith(".") or part == "__pycache__" for part in path.parts[-3:])


def _differences(archive: str, wanted: set[str], found: set[str]) -> list[str]:
    faults = [f"{archive} lacks {', '.join(sorted(wanted - found)[:3])}."] if wanted - found else []
    faults += [f"{archive} has {', '.join(sorted(found - wanted)[:3])} besides."] if found - wanted else []
    return [f"{fault} See [tool.hatch.build] of its pyproject.toml." for fault in faults]
