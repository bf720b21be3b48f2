"""Which sessions were green on which tree, so that a release need not repeat what has just been run on it."""

import platform
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from releasing.history import git

LASTS = timedelta(days=1)
"""Only pins and sources are of the tree: what pip finds beyond them may be other releases tomorrow."""


def committed_tree(root: Path) -> str | None:
    """Hash of the files as committed; ``None`` if some differ, or there is no history here."""
    if shutil.which("git") is None or not (root / ".git").exists() or git(root, "status", "--porcelain"):
        return None
    return git(root, "rev-parse", "HEAD^{tree}")


def write(folder: Path, tree: str, session: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with _file(folder, tree).open("a", encoding="utf-8") as lines:
        lines.write(f"{datetime.now(UTC).isoformat()} {session}\n")


def green(folder: Path, tree: str) -> dict[str, datetime]:
    """When each session was last green on these files, with this Python, within the last day."""
    path = _file(folder, tree)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    when = {session: datetime.fromisoformat(time) for time, _, session in (line.partition(" ") for line in lines)}
    return {session: time for session, time in when.items() if datetime.now(UTC) - time < LASTS}


def _file(folder: Path, tree: str) -> Path:
    return folder / f"{tree}-python-{platform.python_version()}.txt"
