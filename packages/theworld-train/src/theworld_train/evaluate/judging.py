"""A judge's readings of an evaluation's answers, beside it: the folder of the evaluation stays as it is."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from theworld_train.errors import UsageError
from theworld_train.evaluate.agreement import OUTCOMES, Agreement, Judged, agreement, outcome
from theworld_train.evaluate.folder import (
    RECORDS,
    first_difference,
    read_json,
    read_manifest,
    read_records,
    write_whole,
)
from theworld_train.evaluate.records import Record
from theworld_train.evaluate.summary import TOTAL
from theworld_train.evaluate.task import Task
from theworld_train.evaluate.tasks import AnyTask, open_task

JUDGED, REPORT = "judged.jsonl", "agreement.md"
_WHOSE = "judge.json"
_SHOWN = 20
"""Answers in the report that are read in two ways."""


def open_evaluation(folder: Path, settings: AnyTask | None = None) -> tuple[Task, list[Record]]:
    """The task of an evaluation of generated answers, and its records.

    Args:
        settings: of the task, where its data lie elsewhere now; default: those that it was evaluated with.

    Raises:
        UsageError: it is no finished one, its answers were chosen and not written, or its task cannot be opened or has
            other items now.
    """
    manifest, records = read_manifest(folder), read_records(folder)
    evaluation, where = manifest["evaluation"], manifest["runs"][-1]
    if evaluation.get("method") != "generate":
        raise UsageError(
            f"the answers in {folder} are choices, which need no reading. Evaluate with --method generate to judge."
        )
    if settings is None:
        try:
            settings = TypeAdapter[AnyTask](AnyTask).validate_python(where.get("options"))
        except ValidationError as error:
            raise UsageError(f"{folder} does not say how its task is opened. Give it with --task.") from error
    task = open_task(settings, num_frames=where.get("num_frames") or 0)
    if task.fingerprint != evaluation.get("fingerprint"):
        raise UsageError(
            f"{task.name} has other items than those that {folder} was asked ({evaluation.get('task')}). Give the task "
            "as it was, with --task."
        )
    return task, records


def begin(out: Path, judge: str, folder: Path) -> None:
    """See that a folder of readings is of this judge and this evaluation, or say so in a new one.

    Args:
        judge: its identity.

    Raises:
        UsageError: it is of others.
    """
    wanted = {"judge": judge, "records": hashlib.sha256((folder / RECORDS).read_bytes()).hexdigest()}
    file = out / _WHOSE
    found = read_json(file) if file.is_file() else wanted
    if (different := first_difference(found, wanted)) is not None:
        raise UsageError(f"{out} holds other readings: {different}. Give another folder, with --out.")
    write_whole(file, (json.dumps(wanted, indent=2) + "\n").encode())


def by_family(judged: Sequence[Judged]) -> list[tuple[str, Agreement]]:
    """How far they agree on each family that the judge read something of, and on all of them last."""
    names = dict.fromkeys(one.family for one in judged)
    parts = [(name, [one for one in judged if one.family == name]) for name in names]
    return [(name, agreement(part)) for name, part in [*parts, (TOTAL, judged)] if any(one.judge for one in part)]


def write_judged(judged: Sequence[Judged], judge: str, evaluation: str, out: Path) -> None:
    """Write ``judged.jsonl``, a line for each answer in the task's order, and ``agreement.md``.

    Args:
        judge: what the report calls it.
        evaluation: what was judged.
    """
    lines = (json.dumps(_plain(one), ensure_ascii=False) + "\n" for one in judged)
    write_whole(out / JUDGED, "".join(lines).encode("utf-8", "backslashreplace"))
    text = "\n".join(_markdown(judged, judge, evaluation)) + "\n"
    write_whole(out / REPORT, text.encode("utf-8", "backslashreplace"))


def table(judged: Sequence[Judged]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a family each, and all of them last."""
    header = ["family", "n", "same", "95 % interval", "kappa", "95 % interval", "errors"]
    return header, [[name, *_figures(found)] for name, found in by_family(judged)]


def differing(judged: Sequence[Judged]) -> list[Judged]:
    """Answers whose outcome is not the same by both."""
    return [one for one in judged if one.judge is not None and outcome(one.rules) != outcome(one.judge)]


def _figures(found: Agreement) -> list[str]:
    read = sum(found.confusion.values())
    share, low, high = (f"{100 * value:.1f}" for value in found.share)
    kappa, interval = "-", "-"
    if found.kappa is not None:
        kappa, interval = f"{found.kappa[0]:.3f}", f"{found.kappa[1]:.3f} to {found.kappa[2]:.3f}"
    return [str(read), f"{share} %", f"{low} to {high}", kappa, interval, str(found.errors)]


def _markdown(judged: Sequence[Judged], judge: str, evaluation: str) -> Iterator[str]:
    yield f"# Rules and judge: {evaluation}\n"
    yield f"The judge is {judge}. It read the answers and saw no picture; scores are the rules', and stay so."
    yield from _rows(*table(judged))
    yield "\n*same*: share of answers with one outcome by both, with Wilson's interval. *kappa*: Cohen's, without what"
    yield "chance would agree on; a dash where all outcomes are one. *errors*: answers that the judge gave no usable"
    yield "reply to; they are in no other column."
    confusion = Counter((outcome(one.rules), outcome(one.judge)) for one in judged if one.judge is not None)
    yield from _rows(
        ["rules \\ judge", *OUTCOMES],
        [[row, *(str(confusion[row, column]) for column in OUTCOMES)] for row in OUTCOMES],
    )
    if unlike := differing(judged):
        yield f"\n{len(unlike)} answers have another outcome by the judge; the first:"
        yield from _rows(
            ["key", "wanted", "answer", "rules", "judge"],
            [
                [one.key, one.wanted, one.answer, outcome(one.rules), outcome(one.judge)]
                for one in unlike[:_SHOWN]
                if one.judge is not None
            ],
        )


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield ""
    for row in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(' '.join(cell.split())[:200].replace('|', '&#124;') for cell in row)} |"


def _plain(one: Judged) -> dict[str, Any]:
    return {**asdict(one), "same": None if one.judge is None else outcome(one.rules) == outcome(one.judge)}
