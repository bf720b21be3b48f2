"""The steps of a release that write: version, changelog, commits and tag. Nothing here pushes."""

import subprocess
from collections.abc import Callable
from datetime import date

from packaging.version import Version

from releasing.history import git, subject, tag
from releasing.tree import Package
from releasing.versions import development


def cut(package: Package, version: Version, day: date, *, program: str, check: Callable[[], None]) -> str:
    """Commit and tag a release, and move on to the next development version.

    Args:
        day: that the changelog names.
        program: path of towncrier.
        check: looks at the tree as it is to be released, before anything is committed; if it raises, the tree is put
            back as it was.

    Returns:
        The command that publishes it, for a person to run.
    """
    root, name = package.root, tag(package.name, version)
    start = git(root, "rev-parse", "HEAD")
    try:
        package.write_version(version)
        towncrier(package, version, day, program)
        check()
        git(root, "add", "--all", "--", str(package.folder))
        git(root, "commit", "--quiet", "-m", subject(package.name, version))
        git(root, "tag", "--annotate", "-m", subject(package.name, version), name)
        package.write_version(development(version))
        git(root, "commit", "--quiet", "--all", "-m", f"Begin {package.distribution} {development(version)}")
    except BaseException:
        if name in git(root, "tag", "--list", name).split():
            git(root, "tag", "--delete", name)
        git(root, "reset", "--quiet", "--hard", start)  # the tree was clean
        raise
    return f"git push --atomic origin main {name}"


def towncrier(package: Package, version: Version, day: date, program: str) -> None:
    """Collect the fragments into ``CHANGELOG.md``.

    Raises:
        ValueError: towncrier failed, or left the changelog without the version or fragments behind.
    """
    options = [f"--version={version}", f"--date={day.isoformat()}", f"--dir={package.folder}"]
    done = subprocess.run([program, "build", "--yes", *options], capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise ValueError(f"towncrier failed for {package.distribution}: {said}")
    if f"## [{version}] - {day.isoformat()}" not in package.changelog:
        raise ValueError(f"towncrier wrote no section for {version} into {package.folder / 'CHANGELOG.md'}.")
    if package.fragments:
        raise ValueError(f"towncrier left {package.fragments[0]} behind. Give it a known type, or delete it.")
