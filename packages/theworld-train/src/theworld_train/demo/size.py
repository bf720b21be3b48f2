"""How much of everything the demo makes, trains and asks."""

from collections.abc import Mapping
from dataclasses import dataclass, field

_PICTURES = {"colour": 500, "count": 400, "shape": 400}
_PICTURE_WEIGHTS = {"colour": 2.0, "count": 1.0, "shape": 1.0}
_CLIPS = {"direction": 200, "next": 200, "faster": 450, "collide": 450, "colour": 40, "count": 60, "shape": 60}
_FIRST = {"direction": 1.0, "faster": 2.0}
_ALL = {"direction": 1.5, "next": 1.5, "faster": 3.0, "collide": 3.0, "colour": 0.4, "count": 0.8, "shape": 0.8}


@dataclass(frozen=True, kw_only=True)
class DemoSize:
    """The defaults fit six minutes on two CPU cores. Groups and weights are by family of questions."""

    pictures: Mapping[str, int] = field(default_factory=lambda: _PICTURES)
    """Groups of pictures that the base VLM learns from; a group has one for each answer."""
    picture_weights: Mapping[str, float] = field(default_factory=lambda: _PICTURE_WEIGHTS)
    picture_steps: int = 400
    training_groups: Mapping[str, int] = field(default_factory=lambda: _CLIPS)
    """Groups of clips that both models learn from; a group has one for each answer."""
    heldout_groups: int = 50
    """Groups of each family: 600 questions about motion and 500 about single frames, for each arm."""
    first_weights: Mapping[str, float] = field(default_factory=lambda: _FIRST)
    """The mixture of a first stage. Two families leave the plateau, where all is guessed, far sooner than seven."""
    weights: Mapping[str, float] = field(default_factory=lambda: _ALL)
    """The mixture of the second stage."""
    steps: tuple[int, int] = (350, 600)
    """Of the two stages."""
    rate: float = 2e-3
    """Learning rate of the base and of both stages; each falls to zero along a cosine."""
    batch_size: int = 32
