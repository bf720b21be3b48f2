"""The tests of differences are calibrated, and know which scores belong together."""

import numpy as np
import pytest
from scipy.stats import binom, permutation_test

from theworld_train.evaluate import clusters, statistics
from theworld_train.evaluate.statistics import holm, mean_score, over_runs, paired_test, sign_flip_test

COMPARISONS = 2000


def null_scores(seed: int, groups: int, items: int, seeds: int) -> np.ndarray:
    """Right or wrong, ``[2 arms, comparisons, group, item, seed]``: both arms are the same thing.

    Groups and their items differ in how hard they are, so scores of a group go together.
    """
    rng = np.random.default_rng(seed)
    hard = rng.normal(0, 1, (COMPARISONS, groups, 1, 1)) + rng.normal(0, 1, (COMPARISONS, groups, items, 1))
    chance = 1 / (1 + np.exp(-hard - rng.normal(0, 0.5, (2, COMPARISONS, groups, items, seeds))))
    return (rng.random(chance.shape) < chance).astype(float)


@pytest.mark.parametrize(("groups", "items", "seeds"), [(40, 2, 3), (80, 4, 3), (60, 4, 1)])
def test_what_is_the_same_is_called_different_as_often_as_the_level_says(groups: int, items: int, seeds: int) -> None:
    one, other = null_scores(groups, groups, items, seeds)
    p = sign_flip_test((one - other).sum((2, 3)), flips=10_000)
    low, high = binom.interval(0.99, COMPARISONS, 0.05)
    assert low <= (p < 0.05).sum() <= high


def test_scores_that_belong_together_are_no_independent_ones() -> None:
    rng = np.random.default_rng(0)
    of_group = rng.integers(-1, 2, (COMPARISONS, 40)).astype(float)  # all twelve scores of a group go the same way
    high = binom.ppf(0.995, COMPARISONS, 0.05)
    assert (sign_flip_test(of_group * 12, flips=4000) < 0.05).sum() <= high
    assert (sign_flip_test(np.repeat(of_group, 12, axis=1), flips=4000) < 0.05).sum() > 2 * high


def test_p_is_that_of_the_library_where_every_sign_can_be_tried() -> None:
    differences = np.array([3.1, 1.2, -0.7, 2.0, 0.4, -0.1, 1.9])
    exact = permutation_test(
        (differences, np.zeros(7)), lambda a, b: (a - b).sum(), permutation_type="samples", alternative="two-sided"
    )
    [p] = sign_flip_test(differences[None], flips=100_000)
    assert p == pytest.approx(exact.pvalue - 2**-7, abs=0.003)  # of the two sums that are equal to it, half


def test_the_same_under_two_names_does_not_differ() -> None:
    scores = np.random.default_rng(1).integers(0, 2, 90).astype(float).tolist()
    found = paired_test(scores, scores, [item // 3 for item in range(90)])
    assert (found.difference, found.p, found.groups) == (0, 1, 30)
    assert (found.low, found.high) == (-0.1, 0.1)  # 30 groups alike: one in ten may still differ


def test_a_difference_is_found_and_has_its_interval() -> None:
    rng = np.random.default_rng(2)
    a, b = (rng.random(400) < 0.7).astype(float), (rng.random(400) < 0.4).astype(float)
    found = paired_test(a.tolist(), b.tolist(), [item // 2 for item in range(400)])
    assert found.p < 1e-3
    assert found.low < 0.3 < found.high < found.low + 0.2
    turned = paired_test(b.tolist(), a.tolist(), [item // 2 for item in range(400)])
    assert (turned.difference, turned.p) == (-found.difference, found.p)
    assert turned.margin == pytest.approx(found.margin, abs=0.01)


def test_intervals_of_differences_hold_what_they_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_RESAMPLES", 999)
    rng, inside, rounds = np.random.default_rng(3), 0, 200
    for _ in range(rounds):
        hard = np.repeat(rng.normal(0, 1, 60), 4)
        a, b = (rng.random((2, 240)) < 1 / (1 + np.exp(-hard - np.array([[0.5], [0.0]])))).astype(float)
        found = paired_test(a.tolist(), b.tolist(), np.repeat(range(60), 4).tolist())
        truth = (1 / (1 + np.exp(-hard - 0.5)) - 1 / (1 + np.exp(-hard))).mean()
        inside += found.low <= truth <= found.high
    assert binom.ppf(0.005, rounds, 0.93) <= inside <= binom.ppf(0.995, rounds, 0.95)  # of 600, 93 %


def test_interval_of_a_mean_is_wilsons_where_scores_are_independent_and_wider_where_not() -> None:
    scores = [1.0] * 30 + [0.0] * 70
    alone = mean_score(scores, range(100))
    assert (alone.value, alone.total) == (0.3, 100)
    assert (alone.low, alone.high) == pytest.approx((0.2189, 0.3958), abs=0.002)  # Wilson's, of 30 in 100
    together = mean_score(scores, [item // 10 for item in range(100)])
    assert together.high - together.low > 2 * (alone.high - alone.low)
    certain = mean_score([1.0] * 50, [item // 5 for item in range(50)])
    assert (certain.low, certain.high) == pytest.approx((0.722, 1), abs=0.001)  # Wilson's, of 10 in 10


@pytest.mark.parametrize("size", [3, 7, 49, 93])
def test_groups_of_one_mean_are_so_whatever_their_sums_round_to(size: int) -> None:
    """One right in each group: 1 / 49 times 49 is not 1."""
    found = mean_score(([1.0] + [0.0] * (size - 1)) * 20, [item // size for item in range(20 * size)])
    half = 1.96 * np.sqrt((1 / size) * (1 - 1 / size) / 20)
    assert found.high - found.low > half  # that of 20 groups
    thirds = [1 / 3] * 60
    same = paired_test(thirds, [0.1 + 0.2 + 1 / 30] * 60, [item // 3 for item in range(60)])
    assert (same.low, same.high) == pytest.approx((-0.15, 0.15))


def test_the_edges() -> None:
    one = mean_score([1.0], ["a"])
    assert (one.value, one.high, one.total) == (1.0, 1.0, 1)
    assert one.low < 0.25
    nothing = mean_score([0.0] * 9, range(9))
    assert (nothing.low, 0.2 < nothing.high < 0.4) == (0.0, True)
    alone = paired_test([1.0], [0.0], ["a"])
    assert (alone.difference, alone.low, alone.high, alone.groups) == (1.0, 0.0, 1.0, 1)
    assert alone.p > 0.4  # one question says nothing
    zero = paired_test([0.0, -0.0, 1.0], [-0.0, 0.0, 1.0], range(3))
    assert (zero.difference, zero.p, zero.low, zero.high) == (0.0, 1.0, -1.0, 1.0)
    every = paired_test([1.0] * 30, [0.0] * 30, range(30))
    assert (every.difference, every.high) == (1.0, 1.0)
    assert every.p < 1e-3
    swapped = paired_test([1.0, 0.0], [0.0, 1.0], range(2))
    assert swapped.difference == 0.0
    assert swapped.p > 0.5


def test_draws_are_the_same_however_many_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(clusters.draws(11, seed=3, times=50)))
    monkeypatch.setattr(clusters, "_ROOM", 40)
    parts = list(clusters.draws(11, seed=3, times=50))
    assert len(parts) == 17
    assert np.array_equal(np.concatenate(parts), whole)
    assert (whole.sum(1) == 11).all()
    member, counts = clusters.resample(["b", "a", "b"], seed=3)
    assert member.tolist() == [1, 0, 1]
    assert np.array_equal(counts[1:], np.random.default_rng(3).multinomial(2, [0.5, 0.5], size=2000))


def test_holm_is_the_textbooks() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_runs_are_compared_by_their_own_spread() -> None:
    low, high, p = over_runs([0.50, 0.52, 0.48])
    assert low < 0.5 < high
    assert p < 0.01
    assert over_runs([0.05, -0.04, 0.02])[2] > 0.3
    assert over_runs([0.5]) == (-np.inf, np.inf, 1.0)
    assert over_runs([0.0, 0.0]) == (0.0, 0.0, 1.0)


def test_without_scores_there_is_nothing_to_say() -> None:
    with pytest.raises(ValueError, match="no scores"):
        paired_test([], [], [])
    with pytest.raises(ValueError, match="1 and 2 scores of 1 groups"):
        paired_test([1.0], [1.0, 0.0], [0])
