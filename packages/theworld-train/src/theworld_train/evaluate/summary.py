"""Scores of an evaluation by family, each with its interval and what guessing gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from theworld_train.errors import UsageError
from theworld_train.evaluate.arms import groups_of
from theworld_train.evaluate.folder import read_json
from theworld_train.evaluate.records import Record
from theworld_train.evaluate.statistics import mean_score

TOTAL = "all"
"""Name of the row over all families."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyScore:
    """Of one family, or of all items.

    Attributes:
        items: all that have no error: what the score is a mean over.
        score: mean; an item whose answer could not be read counts 0.
        low, high: Wilson's 95 % interval, wider where items of one group go the same way; see ``mean_score``.
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
    groups = groups_of([record.key for record in valid], [record.group for record in valid])
    mean = mean_score([record.score or 0.0 for record in valid], groups) if valid else None
    return FamilyScore(
        family=family,
        items=len(valid),
        score=mean and mean.value,
        low=mean and mean.low,
        high=mean and mean.high,
        groups=len(set(groups)),
        chance=sum(record.chance for record in valid) / len(valid) if valid else None,
        unparsable=sum(record.score is None for record in valid),
        errors=len(records) - len(valid),
    )


def read_summary(path: Path) -> Summary:
    """The summary that a finished folder holds.

    Raises:
        UsageError: it is none.
    """
    found = read_json(path)
    try:
        return Summary(**{**found, "families": [FamilyScore(**row) for row in found["families"]]})
    except (TypeError, KeyError) as error:
        raise UsageError(f"{path} is no summary of an evaluation. Evaluate again, into another folder.") from error
