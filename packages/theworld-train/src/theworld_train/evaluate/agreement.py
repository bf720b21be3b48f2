"""How far a judge and the rules read answers alike."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from theworld_train.evaluate.judge import Judge, JudgeError
from theworld_train.evaluate.task import Item, Score, Task

OUTCOMES = ("right", "wrong", "unread")


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """An answer as both read it; ``judge`` is ``None`` where ``error`` says why there is no reading."""

    key: str
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


def judge_answers(
    task: Task, items: Sequence[Item], answers: Mapping[str, str], judge: Judge, *, workers: int = 8
) -> list[Judged]:
    """Both readings of the answers, which are by item's key; items without an answer are left out.

    Args:
        workers: requests at a time.
    """

    def read(item: Item) -> Judged:
        rules = task.score(item, answers[item.key])
        try:
            return Judged(key=item.key, rules=rules, judge=judge.score(task, item, answers[item.key]))
        except JudgeError as error:
            return Judged(key=item.key, rules=rules, judge=None, error=str(error))

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(read, [item for item in items if item.key in answers]))


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
    found: Any = cohens_kappa(np.array([[confusion.get((row, column), 0) for column in used] for row in used]))
    kappa = (float(found.kappa), float(found.kappa_low), float(found.kappa_upp))
    return kappa if all(map(math.isfinite, kappa)) else None
