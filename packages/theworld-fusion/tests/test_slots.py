"""The rule that turns a budget and a number of latent frames into a grid."""

import pytest

from theworld_fusion.slots import grid_side, num_slots


@pytest.mark.parametrize(
    ("budget", "frames", "side"),
    [
        (784, 1, 28), (784, 2, 14), (784, 4, 14), (784, 5, 7), (784, 16, 7),
        (256, 1, 16), (256, 4, 8), (256, 16, 4), (196, 3, 7), (196, 16, 3), (64, 16, 2), (36, 3, 3), (1, 1, 1),
    ],
)  # fmt: skip
def test_grid(budget: int, frames: int, side: int) -> None:
    assert grid_side(budget, frames) == side
    assert num_slots(budget, frames) == frames * side * side <= budget


@pytest.mark.parametrize("budget", [0, -4, 2, 783])
def test_a_budget_that_is_no_square_is_refused(budget: int) -> None:
    with pytest.raises(ValueError, match=f"world_tokens_per_item is {budget}. Use a square number"):
        grid_side(budget, 1)


def test_too_many_frames_name_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"17 latent frames do not fit into 784 world tokens. Give at most 16"):
        grid_side(784, 17)
