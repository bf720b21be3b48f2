"""Which version comes next, and which ranges are true.

While the version is 0.x, a breaking change raises the minor number and anything else the patch number, so a cap of
``<0.4`` means "until the next break"; from 1.0 on, versions are semantic versions.
"""

from collections.abc import Collection

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version


def next_version(last: Version | None, kinds: Collection[str]) -> Version | None:
    """The version that fragments of these kinds ask for; ``None`` before the first release, which a person chooses."""
    if last is None:
        return None
    if "breaking" in kinds:
        return next_break(last)
    if "feature" in kinds and last.major:
        return Version(f"{last.major}.{last.minor + 1}.0")
    return Version(f"{last.major}.{last.minor}.{last.micro + 1}")


def next_break(version: Version) -> Version:
    """The first version after it that may break its users."""
    return Version(f"{version.major + 1}.0.0") if version.major else Version(f"0.{version.minor + 1}.0")


def development(release: Version) -> Version:
    """What ``pyproject.toml`` says after a release."""
    return Version(f"{release.major}.{release.minor}.{release.micro + 1}.dev0")


def final(version: Version) -> Version:
    """``0.2.0`` of ``0.2.0.dev0``."""
    return Version(version.base_version)


def floor(requirement: Requirement) -> Version | None:
    """The version after ``>=`` or ``==``."""
    found = [Version(one.version) for one in requirement.specifier if one.operator in (">=", "==")]
    return max(found, default=None)


def takes(specifier: SpecifierSet, version: Version) -> bool:
    """Whether a range has the version, development versions too. By PEP 440 ``<0.2`` has no ``0.2.0.dev0``."""
    return specifier.contains(version, prereleases=True)


def range_faults(requirement: Requirement, head: Version, released: Collection[Version]) -> list[str]:
    """What is untrue about a range on a sibling whose version in the tree is ``head``, in sentences."""
    lowest, breaks = floor(requirement), next_break(final(head))
    faults = list[str]()
    if lowest is None:
        faults.append(f"{requirement} has no floor. Write >= and the lowest version that works.")
    elif not lowest.is_prerelease and lowest not in released:
        faults.append(f"{requirement} begins at {lowest}, which was never released. Write >={head} or a released one.")
    if takes(requirement.specifier, breaks):
        faults.append(f"{requirement} takes {breaks}, which may break it. Cap it: <{breaks.major}.{breaks.minor}")
    if not takes(requirement.specifier, head):
        faults.append(f"{requirement} refuses {head}, the version in the tree. Adapt to it, and write >={head}.")
    return faults


def version_fault(current: Version, last: Version | None, kinds: Collection[str]) -> str | None:
    """What is wrong with the version in ``pyproject.toml``, in one sentence."""
    if not current.is_devrelease or current.dev:
        return f"the version is {current}, but between releases it ends in .dev0. Write {final(current)}.dev0."
    wanted = next_version(last, kinds)
    if last is None or wanted is None or final(current) == wanted:
        return None
    if final(current) < wanted:
        reason = "a breaking fragment" if "breaking" in kinds else "its fragments"
        return f"the version is {current}, but {reason} after {last} makes the next one {wanted}. Write {wanted}.dev0."
    if final(current) in (next_break(last), Version("1.0.0")):
        return None  # more than is needed, on purpose
    return f"the version is {current}, but after {last} comes {wanted}. Write {wanted}.dev0."
