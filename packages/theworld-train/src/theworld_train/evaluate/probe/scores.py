"""How well a probe reads: R² or accuracy on held-out clips, with an interval over matched groups, beside chance.

Letters: ``n`` clips, ``g`` groups, ``z`` resamplings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from theworld_train.evaluate.clusters import sums


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Of one probe on one encoder's features.

    Attributes:
        metric: ``R2`` (1 is exact, 0 is no better than the mean; the mean over the targets' numbers) or ``accuracy``.
        low, high: of the 95 % interval, by resampling matched groups.
        chance: what a probe that knows nothing of the clip gets: 0 for R², the share of the largest class.
        permuted: mean on test of probes that were fitted to permuted training targets.
        permuted_high: the highest of them but for 2.5 %.
        clips, groups: that were tested on.
        penalty: the strength that cross validation chose.
    """

    metric: str
    value: float
    low: float
    high: float
    chance: float
    permuted: float
    permuted_high: float
    clips: int
    groups: int
    penalty: float

    @property
    def is_above_chance(self) -> bool:
        """Whether the whole interval is."""
        return self.low > max(self.chance, self.permuted_high)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One encoder, or a baseline.

    Attributes:
        numbers: that the pooled features of a clip have.
        width: to which they were cut, the same for all but those that have fewer.
        overall: mean over probes of (value - chance) / (1 - chance): 0 is chance, 1 is all there is to read.
        low, high: of its 95 % interval.
    """

    name: str
    baseline: bool
    numbers: int
    width: int
    scores: Mapping[str, Score]
    overall: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """Everything that was found, encoders by rank, then baselines.

    Attributes:
        split: that the clips of all scores come from.
        train_clips, test_clips: by probe.
    """

    seed: int
    split: str
    width: int
    train_clips: Mapping[str, int]
    test_clips: Mapping[str, int]
    rows: Sequence[Row]


def measure(
    targets: Shaped[np.ndarray, " n *numbers"],
    given: Shaped[np.ndarray, " n *numbers"],
    member: Shaped[np.ndarray, " n"],
    counts: Float[np.ndarray, "z g"],
) -> Float[np.ndarray, " z"]:
    """R² or accuracy in each resampling, from sums over groups; the first is of all clips, as they are."""
    clips = counts @ np.bincount(member, minlength=counts.shape[1])
    if targets.ndim == 1:
        return sums((targets == given).astype(float), member, counts) / clips
    centred = targets - targets.mean(axis=0)  # sums of squares of small numbers lose no digits
    spread = sums(centred**2, member, counts) - sums(centred, member, counts) ** 2 / clips[:, None]
    return (1 - sums((targets - given) ** 2, member, counts) / spread).mean(axis=1)


def chance_of(targets: Shaped[np.ndarray, " n *numbers"]) -> float:
    """What is expected without looking: R² of the mean, or the share of the largest class."""
    return 0.0 if targets.ndim == 2 else float(np.bincount(targets).max() / len(targets))
