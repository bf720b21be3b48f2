"""What the maker of a group is given, and what it gives back."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from theworld_train.microworld.draw import COLOURS
from theworld_train.microworld.physics import World, joined
from theworld_train.microworld.ranges import Range
from theworld_train.microworld.scene import Body, Scene


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where one group's numbers come from.

    Attributes:
        rng: of this group alone.
        index: the group's place in its family; what should come equally often alternates with it.
        level: easy, medium or hard.
        limits: ranges by name, see ``ranges.limits``.
        background: grey of the empty box.
        num_frames: of each clip.
    """

    rng: np.random.Generator
    index: int
    level: str
    limits: Mapping[str, Range]
    background: int
    num_frames: int

    @property
    def times(self) -> list[float]:
        """Of the frames, from 0 to 1 clip length."""
        return [frame / (self.num_frames - 1) for frame in range(self.num_frames)]

    def draw(self, name: str) -> float:
        """A number from the range of that name."""
        return self.uniform(*self.limits[name])

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def sign(self) -> int:
        """1 or -1."""
        return int(self.rng.integers(2)) * 2 - 1

    def colours(self, number: int) -> list[str]:
        """Different ones, in a random order."""
        return [str(colour) for colour in self.rng.permutation(list(COLOURS))[:number]]


@dataclass(frozen=True, kw_only=True)
class Take:
    """One clip of a group, before distractors are added.

    Attributes:
        answer: to the group's question.
        scenes: a frame each.
        world: the laws with which the engine, run forward from the first scene, gives the others; ``None`` where no
            single run does: in impossible clips, and where scenery moves.
        plausible: whether everything in it could happen.
    """

    answer: str
    scenes: tuple[Scene, ...]
    world: World | None = None
    plausible: bool = True


@dataclass(frozen=True, kw_only=True)
class Group:
    """A question, and takes with each of its answers equally often."""

    text: str
    choices: tuple[str, ...]
    takes: tuple[Take, ...]


def crossed(runs: list[list[Scene]], world: World | None) -> Group:
    """Two possible clips, and two impossible ones: each begins like one of them and ends like the other.

    Up to the middle of the time a picture tells one run from the other and afterwards it tells the same; what is
    possible is in no picture alone.
    """
    takes = []
    for begins in runs:
        for ends in runs:
            possible = begins is ends
            takes.append(
                Take(
                    answer="possible" if possible else "impossible",
                    scenes=joined(begins, ends),
                    world=world if possible else None,
                    plausible=possible,
                )
            )
    text = "Is what happens possible or impossible?"
    return Group(text=text, choices=("possible", "impossible"), takes=tuple(takes))


Maker = Callable[[Setting], Group | None]
"""Makes a group of a family, or ``None`` where the numbers drawn allow none: it is asked again, with others."""


def disc(x: float, y: float, radius: float, colour: str, *, vx: float = 0.0, vy: float = 0.0, **more: Any) -> Body:
    """A circle."""
    return Body(x=x, y=y, vx=vx, vy=vy, radius=radius, shape="circle", colour=colour, **more)


def polar(length: float, heading: float) -> tuple[float, float]:
    """The vector of a length and a heading, in radians from the x axis, clockwise in the picture."""
    return length * math.cos(heading), length * math.sin(heading)
