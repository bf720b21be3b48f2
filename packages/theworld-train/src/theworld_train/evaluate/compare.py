"""Two evaluations of the same items, item by item: by how much the first is better, and whether that may be chance."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from theworld_train.errors import UsageError
from theworld_train.evaluate.arms import groups_of
from theworld_train.evaluate.folder import first_difference, read_manifest, read_records, write_whole
from theworld_train.evaluate.records import Record
from theworld_train.evaluate.statistics import Paired, paired_test
from theworld_train.evaluate.summary import TOTAL

_SAME = ("task", "fingerprint", "items", "limit")
"""Of a manifest: what decides which items are asked, and how they are scored."""
_ONE_ITEM = ("key", "family", "group", "wanted")


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyComparison:
    """One family, or all items.

    Attributes:
        items: those that neither evaluation has an error for; all figures are of these.
        a, b: mean scores; an answer that could not be read counts 0.
        paired: the difference a - b; ``None`` where there is no item.
        better, worse: items on which a scored more than b, and less.
    """

    family: str
    items: int
    a: float | None
    b: float | None
    paired: Paired | None
    better: int
    worse: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What differs between two evaluations.

    Attributes:
        families: in the task's order, and ``all`` of them last.
        left_out: items with an error in one of the two or both.
        differing: pairs of records that have other scores, in the task's order.
        tokens: mean number of tokens of an item in each, by kind.
        settings: fields in which the two were asked differently, each with both values.
    """

    families: list[FamilyComparison]
    left_out: int
    differing: list[tuple[Record, Record]]
    tokens: dict[str, tuple[float, float]]
    settings: dict[str, tuple[Any, Any]]


def compare_folders(a: Path, b: Path) -> Comparison:
    """Compare the evaluations in two folders.

    Raises:
        UsageError: one is no finished evaluation, or they are not of the same items (the message names what differs).
    """
    first, second = (read_records(folder) for folder in (a, b))
    manifests = [read_manifest(folder)["evaluation"] for folder in (a, b)]
    one, other = ({name: manifest.get(name) for name in _SAME} for manifest in manifests)
    if (different := first_difference(one, other)) is not None:
        raise UsageError(f"{a} and {b} are of other items: {different}. Compare evaluations of one task.")
    for x, y in zip(first, second, strict=True):
        for name in _ONE_ITEM:
            if getattr(x, name) != getattr(y, name):
                raise UsageError(
                    f"{a} and {b} are of other items: where one has {name} {getattr(x, name)!r}, the other has "
                    f"{getattr(y, name)!r}. Compare evaluations of one task."
                )
    return compare_records(first, second, settings=_settings(*manifests))


def compare_records(
    a: Sequence[Record], b: Sequence[Record], *, settings: dict[str, tuple[Any, Any]] | None = None
) -> Comparison:
    """Compare records of the same items, in the same order."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x.error is None and y.error is None]
    names = list(dict.fromkeys(record.family for record in a))
    rows = [_row([pair for pair in pairs if pair[0].family == name], name) for name in names]
    kinds = ("prompt_tokens", "world_tokens", "image_tokens", "answer_tokens")
    return Comparison(
        families=[*rows, _row(pairs, TOTAL)],
        left_out=len(a) - len(pairs),
        differing=[(x, y) for x, y in pairs if _score(x) != _score(y)],
        tokens={
            kind.removesuffix("_tokens"): (
                _mean([getattr(x, kind) for x, _ in pairs]),
                _mean([getattr(y, kind) for _, y in pairs]),
            )
            for kind in kinds
        },
        settings=settings or {},
    )


def write_differing(comparison: Comparison, path: Path) -> None:
    """A JSON object on each line: an item on which the two scored otherwise, with both answers.

    Raises:
        UsageError: the file cannot be written.
    """
    lines = [
        {
            "key": x.key,
            "family": x.family,
            "prompt": x.prompt,
            "wanted": x.wanted,
            **{
                f"{side}_{name}": getattr(record, name)
                for side, record in (("a", x), ("b", y))
                for name in ("answer", "score", "likelihoods")
            },
        }
        for x, y in comparison.differing
    ]
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}). Give another file (--out).") from error


def _row(pairs: Sequence[tuple[Record, Record]], family: str) -> FamilyComparison:
    a, b = [_score(x) for x, _ in pairs], [_score(y) for _, y in pairs]
    groups = groups_of([x.key for x, _ in pairs], [x.group for x, _ in pairs])
    return FamilyComparison(
        family=family,
        items=len(pairs),
        a=_mean(a) if pairs else None,
        b=_mean(b) if pairs else None,
        paired=paired_test(a, b, groups) if pairs else None,
        better=sum(x > y for x, y in zip(a, b, strict=True)),
        worse=sum(x < y for x, y in zip(a, b, strict=True)),
    )


def _settings(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What was asked differently; that the models differ goes without saying."""
    names = [name for name in dict.fromkeys([*a, *b]) if name not in ("model", "weights")]
    return {name: (a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)}


def _score(record: Record) -> float:
    return record.score or 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
