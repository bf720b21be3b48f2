"""Which sessions were green on which files, so that a release need not repeat what has just been run on them."""

import hashlib
import platform
import re
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from releasing.compat import needed
from releasing.history import git
from releasing.tree import PACKAGES, packages

LASTS = timedelta(days=1)
"""Only pins and sources are of the tree: what pip finds beyond them may be other releases tomorrow."""
OF_CODE = ("typecheck", "tests", "minimums")
"""Sessions that install packages of the tree as they are, and see no difference in what a release writes."""


def state(root: Path, session: str) -> str | None:
    """Hash of the committed files that a session's result depends on; ``None`` if some differ, or without history.

    That is all of them; but those of ``OF_CODE`` do not look at changelogs, versions of ours and ranges between them,
    which ``changelog``, ``build`` and ``ranges`` do, nor at packages that theirs does not require.
    """
    if shutil.which("git") is None or not (root / ".git").exists() or git(root, "status", "--porcelain"):
        return None
    verb, _, name = session.rstrip(")").partition("(")
    if verb not in OF_CODE:
        return git(root, "rev-parse", "HEAD^{tree}")
    own = {name, *needed(packages(root)[name])} if name else set(PACKAGES)
    digest = hashlib.sha256()
    for line in git(root, "ls-tree", "-r", "HEAD").splitlines():
        blob, _, path = line.partition("\t")
        package = re.match(r"packages/theworld-(\w+)/(CHANGELOG\.md|changelog\.d/|pyproject\.toml)?", path)
        if package and (package[1] not in own or package[2] in ("CHANGELOG.md", "changelog.d/")):
            continue
        if package and package[2] == "pyproject.toml":
            blob = _without_versions((root / path).read_text(encoding="utf-8"))
        digest.update(f"{blob}\t{path}\n".encode())
    return digest.hexdigest()


def write(folder: Path, state: str, session: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with _file(folder).open("a", encoding="utf-8") as lines:
        lines.write(f"{datetime.now(UTC).isoformat()} {state} {session}\n")


def green(folder: Path, root: Path, sessions: Iterable[str]) -> dict[str, datetime]:
    """When each of the sessions was last green on these files, with this Python, within the last day."""
    lines = _file(folder).read_text(encoding="utf-8").splitlines() if _file(folder).is_file() else []
    known = {tuple(line.split(" ", 2)[1:]): datetime.fromisoformat(line.split(" ", 1)[0]) for line in lines}
    found = {session: known.get((str(state(root, session)), session)) for session in sessions}
    return {session: time for session, time in found.items() if time and datetime.now(UTC) - time < LASTS}


def _without_versions(metadata: str) -> str:
    """Without the version, and without those in requirements on packages of ours."""
    metadata = re.sub(r'(?m)^version = "[^"]*"$', "", metadata)
    return re.sub(r'"(theworld-[a-z]+(?:\[[^]"]*\])?)[^]\["]*"', r'"\1"', metadata)


def _file(folder: Path) -> Path:
    return folder / f"python-{platform.python_version()}.txt"
