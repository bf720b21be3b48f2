"""Accuracies and differences with intervals, and tests that know which scores belong together."""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import binomtest, norm, ttest_1samp

from theworld_train.evaluate.clusters import draws, interval

Array = np.ndarray

_FLIPS, _RESAMPLES, _SEED = 20_000, 9_999, 2718
_CHUNK = 1_000
"""Sign flips that are drawn at a time."""
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """Right answers out of all, beside what guessing gives."""

    correct: int
    total: int
    chance: float
    """Expected accuracy of guessing among each question's choices."""

    @property
    def value(self) -> float:
        return self.correct / self.total

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Wilson's score interval (Wilson 1927)."""
        found = binomtest(self.correct, self.total).proportion_ci(level, method="wilson")
        return float(found.low), float(found.high)


def accuracy(outcomes: Iterable[tuple[bool, float]]) -> Accuracy:
    """Sum up pairs of (was it right, chance of a guess).

    Raises:
        ValueError: there are none.
    """
    pairs = list(outcomes)
    if not pairs:
        raise ValueError("there are no answers to score. Give at least one.")
    chance = sum(guess for _, guess in pairs) / len(pairs)
    return Accuracy(correct=sum(right for right, _ in pairs), total=len(pairs), chance=chance)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """A mean score of ``total`` answers, with the interval that it lies in."""

    value: float
    low: float
    high: float
    total: int


def mean_score(scores: Sequence[float], groups: Sequence[Hashable], *, level: float = 0.95) -> Mean:
    """The mean of scores between 0 and 1 that are not independent within a group.

    The interval is Wilson's, at the size that a sample of independent answers with the same variance would have, as
    Franco et al. (2019, "Comparative study of confidence intervals for proportions in complex sample surveys") find
    best. Where all groups have the same mean that size cannot be known, and is the number of groups.

    Raises:
        ValueError: there are no scores.
    """
    sums, sizes = _by_group(np.asarray(scores, float), groups)
    number, count = len(sums), float(sizes.sum())
    value = float(sums.sum() / count)
    apart = sums - value * sizes
    apart[np.abs(apart) < _ROUNDING * sizes] = 0  # groups of one mean
    spread = float(np.square(apart).sum()) * number / max(number - 1, 1) / count**2
    effective = value * (1 - value) / spread if spread > 0 else float(number)
    z = float(norm.ppf((1 + level) / 2))
    middle = (value + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z / (1 + z**2 / effective) * math.sqrt(value * (1 - value) / effective + z**2 / (4 * effective**2))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    # The ends are exact: middle and half are equal there but for their rounding.
    return Mean(value=value, low=low if value > 0 else 0.0, high=high if value < 1 else 1.0, total=int(count))


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """By how much two arms differ on the same questions.

    Attributes:
        difference: mean score of the first less that of the second.
        low, high: the 95 % interval of the difference; with 60 groups it holds the truth in 93 of 100 cases.
        p: how often a difference as large comes about where the arms are the same thing.
        groups: how many independent groups of scores there are.
    """

    difference: float
    low: float
    high: float
    p: float
    groups: int

    @property
    def margin(self) -> float:
        """The largest difference, either way, that the interval leaves possible."""
        return max(abs(self.low), abs(self.high))


def paired_test(a: Sequence[float], b: Sequence[float], groups: Sequence[Hashable], *, level: float = 0.95) -> Paired:
    """Compare the scores of two arms on the same questions, in the same order.

    ``p`` is of a sign-flip test: were the arms the same, each group's difference could as well have the other sign, for
    all scores of the group at once (exchangeability blocks: Winkler et al. 2014, NeuroImage 92). Ties count half (the
    mid-p of Lancaster 1961), without which a test of counts rejects too seldom. The interval is of a bootstrap that
    draws whole groups, and where all groups are alike, of the rule of three (Hanley and Lippman-Hand 1983, for scores
    between 0 and 1). Both draw from a fixed seed.

    What it speaks of are these two models and questions like these; how much trained models differ by their seed alone
    is for ``over_runs``.

    Args:
        groups: of each score; scores of one group are not independent, such as one question's in several seeds, or
            those of matched clips.

    Raises:
        ValueError: the lengths differ, or there are no scores.
    """
    if not len(a) == len(b) == len(groups):
        raise ValueError(f"there are {len(a)} and {len(b)} scores of {len(groups)} groups. Give as many of each.")
    sums, sizes = _by_group(np.asarray(a, float) - np.asarray(b, float), groups)
    [p] = sign_flip_test(sums[None])
    difference = float(sums.sum() / sizes.sum())
    unseen = min(1.0, 3 / len(sums))  # where all groups are alike, of how many could one that is not have been missed
    low, high = max(-1.0, difference - unseen), min(1.0, difference + unseen)
    if len(sums) > 1 and np.ptp(sums / sizes) > _ROUNDING:
        drawn = [(counts @ sums) / (counts @ sizes) for counts in draws(len(sums), seed=_SEED, times=_RESAMPLES)]
        low, high = interval(np.concatenate([[difference], *drawn]), level)
    return Paired(difference=difference, low=low, high=high, p=float(p), groups=len(sums))


def sign_flip_test(differences: Float[Array, "n g"], *, flips: int = _FLIPS) -> Float[Array, " n"]:
    """Two-sided mid-p values of ``n`` comparisons over ``g`` groups: how extreme is the sum, among random signs?

    1 where no group differs.
    """
    rng = np.random.default_rng(_SEED)
    observed = np.abs(differences.sum(1))
    close = 1e-9 * np.maximum(np.abs(differences).sum(1), 1e-300)
    larger, equal = np.zeros(len(differences)), np.zeros(len(differences))
    for start in range(0, flips, _CHUNK):
        signs = rng.integers(0, 2, (min(_CHUNK, flips - start), differences.shape[1]), dtype=np.int8) * 2.0 - 1
        drawn = np.abs(signs @ differences.T)
        larger += (drawn > observed + close).sum(0)
        equal += (np.abs(drawn - observed) <= close).sum(0)
    # The observed signs are one of the possible ones: no p is zero (Phipson and Smyth 2010).
    p = (larger + (equal + 1) / 2) / (flips + 1)
    return np.where(np.abs(differences).sum(1) == 0, 1.0, p)


def over_runs(differences: Sequence[float], *, level: float = 0.95) -> tuple[float, float, float]:
    """Low, high and p of the mean of one difference for each pair of runs, by Student's t-test.

    Where a question's answers say how two trained models differ, this says how two ways to train do: models that were
    trained alike but for their seed differ too. One pair says nothing: the interval is then without end, and p is 1.
    """
    values = np.asarray(differences, float)
    if len(values) < 2:
        return -math.inf, math.inf, 1.0
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0]), 0.0 if values[0] else 1.0
    found: Any = ttest_1samp(values, 0.0)
    interval = found.confidence_interval(level)
    return float(interval.low), float(interval.high), float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values, corrected for their number so that one wrong finding among them is no more likely (Holm 1979)."""
    corrected, worst = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = worst
    return corrected


def _by_group(values: Float[Array, " n"], groups: Sequence[Hashable]) -> tuple[Array, Array]:
    """Sum of each group's values, and how many there are."""
    if not len(values):
        raise ValueError("there are no scores. Give at least one.")
    places: dict[Hashable, int] = {}
    numbers = [places.setdefault(group, len(places)) for group in groups]
    return np.bincount(numbers, values), np.bincount(numbers).astype(float)
