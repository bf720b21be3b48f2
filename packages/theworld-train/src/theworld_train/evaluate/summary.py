"""Scores of an evaluation by family, each with its interval and what guessing gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from theworld_train.evaluate.records import Record

TOTAL = "all"
"""Name of the row over all families."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyScore:
    """Of one family, or of all items.

    Attributes:
        items: all that have no error: what the score is a mean over.
        score: mean; an item whose answer could not be read counts 0.
        low, high: Wilson's 95 % interval. It takes items for independent, which those of one group are not.
        groups: sets of items that share something.
        chance: expected score of guessing.
        unparsable: items whose answer could not be read.
        errors: items that have no answer because something went wrong; they are in no mean.
    """

    family: str
    items: int
    score: float | None
    low: float | None
    high: float | None
    groups: int
    chance: float | None
    unparsable: int
    errors: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What an evaluation found.

    Attributes:
        task, arm, method: what was asked, and how.
        families: in the order of the task, and ``all`` of them last.
        first_error: the first item with one, and what it was.
    """

    task: str
    arm: str
    method: str
    families: list[FamilyScore]
    first_error: str | None

    @property
    def total(self) -> FamilyScore:
        return self.families[-1]


def summarise(records: Sequence[Record], *, task: str, arm: str, method: str) -> Summary:
    """Sum up records, family by family in the order in which they first come."""
    names = list(dict.fromkeys(record.family for record in records))
    families = [score_of([record for record in records if record.family == name], name) for name in names]
    failed = next((record for record in records if record.error is not None), None)
    return Summary(
        task=task,
        arm=arm,
        method=method,
        families=[*families, score_of(records, TOTAL)],
        first_error=None if failed is None else f"{failed.key}: {failed.error}",
    )


def score_of(records: Sequence[Record], family: str) -> FamilyScore:
    """One row."""
    valid = [record for record in records if record.error is None]
    total, count = sum(record.score or 0.0 for record in valid), len(valid)
    low, high = wilson(total, count) if count else (None, None)
    return FamilyScore(
        family=family,
        items=count,
        score=total / count if count else None,
        low=low,
        high=high,
        groups=len({record.group or f"\0{record.key}" for record in valid}),
        chance=sum(record.chance for record in valid) / count if count else None,
        unparsable=sum(record.score is None for record in valid),
        errors=len(records) - count,
    )


def from_json(found: dict[str, Any]) -> Summary:
    """The summary that a folder holds."""
    return Summary(**{**found, "families": [FamilyScore(**row) for row in found["families"]]})


def wilson(total: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (Wilson 1927) of a mean of ``count`` scores from 0 to 1 that sum up to ``total``.

    Scores between the two vary less than right or wrong does, so theirs is a little too wide.
    """
    z = NormalDist().inv_cdf(0.5 + level / 2)
    mean, weight = total / count, z**2 / count
    centre = (mean + weight / 2) / (1 + weight)
    half = z / (1 + weight) * (mean * (1 - mean) / count + weight / (4 * count)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)
