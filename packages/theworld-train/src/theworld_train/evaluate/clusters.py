"""Intervals over groups of what is not independent within a group: matched clips, questions about one picture.

Letters: ``n`` values, ``g`` groups, ``z`` resamplings.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float, Shaped

LEVEL = 0.95
_RESAMPLINGS = 2000
_ROOM = 1_000_000
"""Numbers of draws that are held at a time."""


def resample(groups: Sequence[str], *, seed: int) -> tuple[Shaped[np.ndarray, " n"], Float[np.ndarray, "z g"]]:
    """Which group each clip is in, and how often each group is drawn in each resampling (a cluster bootstrap).

    The same groups and seed give the same draws, so scores of two encoders can be compared draw by draw.
    """
    names, member = np.unique(groups, return_inverse=True)
    return member, np.concatenate([np.ones((1, len(names))), *draws(len(names), seed=seed, times=_RESAMPLINGS)])


def draws(groups: int, *, seed: int, times: int) -> Iterator[Shaped[np.ndarray, "some g"]]:
    """How often each group is drawn in each of ``times`` resamplings, as many at a time as there is room for."""
    rng, room = np.random.default_rng(seed), max(1, _ROOM // groups)
    for start in range(0, times, room):
        yield rng.multinomial(groups, np.full(groups, 1 / groups), size=min(room, times - start))


def interval(draws: Float[np.ndarray, " z"], level: float = LEVEL) -> tuple[float, float]:
    """Percentiles of the resamplings; the first draw, which is the value itself, is none."""
    low, high = np.quantile(draws[1:], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def sums(values: Shaped[np.ndarray, " n *numbers"], member: Shaped[np.ndarray, " n"], counts: np.ndarray) -> np.ndarray:
    """Of ``values`` in each resampling, ``[z, *numbers]``."""
    of_groups = np.zeros((counts.shape[1], *values.shape[1:]))
    np.add.at(of_groups, member, values)
    return counts @ of_groups
