"""How far a judge and the rules read answers alike."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import binomtest

from theworld_train.errors import UsageError
from theworld_train.evaluate.judge import Judge, JudgeError, JudgeUnreachable
from theworld_train.evaluate.records import Record
from theworld_train.evaluate.task import Score, Task
from theworld_train.jobs import Report

OUTCOMES = ("right", "wrong", "unread")


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """An answer as both read it; ``judge`` is ``None`` where ``error`` says why there is no reading."""

    key: str
    family: str
    wanted: str
    answer: str
    rules: Score
    judge: Score | None
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Of all answers that both read.

    Attributes:
        confusion: answers by the rules' outcome and the judge's, of ``OUTCOMES``.
        errors: answers that the judge gave no usable reply to; they count as neither.
        share: of answers with the same outcome, with Wilson's interval at 95 %.
        kappa: Cohen's (1960), with its asymptotic interval at 95 % (Fleiss, Cohen and Everitt 1969); ``None`` where all
            outcomes are one, which leaves nothing to agree on beyond chance.
    """

    confusion: Mapping[tuple[str, str], int]
    errors: int
    share: tuple[float, float, float]
    kappa: tuple[float, float, float] | None


def judge_records(
    task: Task, records: Sequence[Record], judge: Judge, *, workers: int = 8, report: Report | None = None
) -> list[Judged]:
    """Both readings of an evaluation's answers: the rules' as the records have it. Records without one are left out.

    Args:
        workers: requests at a time.

    Raises:
        UsageError: the task has no item of a record, or the judge cannot be reached at all.
    """
    items = {item.key: item for item in task.items()}
    given = [record for record in records if record.answer is not None]
    if unknown := [record.key for record in given if record.key not in items]:
        raise UsageError(f"{task.name} has no item {unknown[0]!r}. Give the task as it was when it was evaluated.")

    def read(record: Record) -> Judged:
        judged = partial(
            Judged,
            key=record.key,
            family=record.family,
            wanted=record.wanted,
            answer=str(record.answer),
            rules=Score(value=record.score, parsed=record.parsed, figures=record.figures),
        )
        try:
            return judged(judge=judge.score(task, items[record.key], str(record.answer)))
        except JudgeUnreachable as error:
            if record is first:
                raise UsageError(f"the judge cannot be used: {error}. Nothing was judged.") from error
            return judged(judge=None, error=str(error))
        except JudgeError as error:
            return judged(judge=None, error=str(error))

    # The first one that is not kept is asked alone: where nobody answers, the others need not wait for it too.
    first = next((one for one in given if not judge.knows(items[one.key], str(one.answer))), None)
    done = {} if first is None else {first.key: read(first)}
    found = list[Judged]()
    with ThreadPoolExecutor(workers) as pool:
        for one in pool.map(lambda record: done.get(record.key) or read(record), given):
            found.append(one)
            if report is not None:
                report(len(found), len(given))
    return found


def agreement(judged: Sequence[Judged]) -> Agreement:
    """Sum them up.

    Raises:
        ValueError: the judge read none.
    """
    pairs = [(outcome(one.rules), outcome(one.judge)) for one in judged if one.judge is not None]
    if not pairs:
        raise ValueError(f"the judge read none of {len(judged)} answers. Look at their errors.")
    same = sum(rules == by_judge for rules, by_judge in pairs)
    interval = binomtest(same, len(pairs)).proportion_ci(method="wilson")
    return Agreement(
        confusion=Counter(pairs),
        errors=len(judged) - len(pairs),
        share=(same / len(pairs), float(interval.low), float(interval.high)),
        kappa=_kappa(Counter(pairs)),
    )


def outcome(score: Score) -> str:
    """Of ``OUTCOMES``; half a point or more is right."""
    return "unread" if score.value is None else "right" if score.value >= 0.5 else "wrong"


def _kappa(confusion: Mapping[tuple[str, str], int]) -> tuple[float, float, float] | None:
    from statsmodels.stats.inter_rater import cohens_kappa  # it takes a second, and few need it

    used = [name for name in OUTCOMES if any(name in pair for pair in confusion)]
    if len(used) < 2:
        return None
    table = np.array([[confusion.get((row, column), 0) for column in used] for row in used])
    with np.errstate(invalid="ignore", divide="ignore"):  # where one of them has the same outcome for all
        found: Any = cohens_kappa(table)
    kappa = (float(found.kappa), float(found.kappa_low), float(found.kappa_upp))
    return kappa if all(map(math.isfinite, kappa)) else None
