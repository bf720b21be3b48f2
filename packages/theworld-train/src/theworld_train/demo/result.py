"""What the demo found out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from theworld_train.demo.size import DemoSize
from theworld_train.evaluate.statistics import Accuracy, accuracy
from theworld_train.microworld import Clip

ARMS = ("on", "off", "other-item", "noise")
"""In the order of the table. The first two are trained apart, the others are swaps at test time."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One held-out question, and what one arm answered."""

    arm: str
    clip: int
    family: str
    motion: bool
    question: str
    wanted: str
    answered: str
    chance: float

    @property
    def correct(self) -> bool:
        return self.answered == self.wanted


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Everything the report shows."""

    seed: int
    seconds: float
    losses: Mapping[str, list[float]]
    answered: list[Answered]
    shown: Mapping[int, Clip]
    """Some held-out clips, by ``Answered.clip``."""
    num_pictures: int
    num_training: int
    num_heldout: int
    size: DemoSize

    def score(self, arm: str, select: Callable[[Answered], bool]) -> Accuracy:
        """Accuracy of one arm over the selected questions."""
        return accuracy((one.correct, one.chance) for one in self.answered if one.arm == arm and select(one))
