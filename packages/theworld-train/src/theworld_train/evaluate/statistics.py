"""Accuracies with intervals."""

from collections.abc import Iterable
from dataclasses import dataclass

from scipy.stats import binomtest


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
