"""What is read off the clips of the micro-world, and the clips: no matched group is on both sides of a split."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from PIL import Image

from theworld_train.data.example import digest
from theworld_train.microworld.draw import draw
from theworld_train.microworld.scene import SIDE, Body
from theworld_train.microworld.stage import StagedClip, stage
from theworld_train.microworld.version import fingerprint

Split = Literal["train", "val", "test"]

NUM_FRAMES = 9
"""Of every clip."""
SIZE = 96
"""Side of a frame in pixels."""


@dataclass(frozen=True, kw_only=True)
class ProbeClip:
    """A clip with its truth; it is drawn when its features are not known yet."""

    staged: StagedClip

    @cached_property
    def frames(self) -> list[Image.Image]:
        """RGB pictures of ``SIZE`` x ``SIZE`` pixels, oldest first."""
        return [draw(scene, size=SIZE) for scene in self.staged.scenes]

    @cached_property
    def key(self) -> str:
        """Of what is drawn and how, so that nothing has to be drawn to know it."""
        return digest(_drawing(), repr(self.staged.scenes))


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """One thing that is read off the clips of some families.

    Attributes:
        families: whose clips are read, by full name, and how many groups of each for every group that is asked for.
        target: numbers that a ridge regression gives, or the place of one of ``classes`` that a logistic one chooses.
        classes: none for numbers.
        needs_clip: by construction, the last frame alone says nothing about it.
    """

    name: str
    families: Mapping[str, float]
    target: Callable[[StagedClip], tuple[float, ...] | int]
    classes: tuple[str, ...] = ()
    needs_clip: bool = False

    def targets(self, clips: Sequence[ProbeClip]) -> np.ndarray:
        """Of clips of its families: ``[n, numbers]``, or ``[n]`` of classes."""
        return np.asarray([self.target(clip.staged) for clip in clips])

    def places(self, clips: Sequence[ProbeClip]) -> list[int]:
        """Where the clips of its families are."""
        return [place for place, clip in enumerate(clips) if clip.staged.family in self.families]


def _object(clip: StagedClip) -> Body:
    """The one that questions are about, in the last frame."""
    [body] = (body for body in clip.scenes[-1].bodies if body.role == "object")
    return body


def _position(clip: StagedClip) -> tuple[float, ...]:
    """In the last frame, in sides of the picture."""
    return _object(clip).x / SIDE, _object(clip).y / SIDE


def _velocity(clip: StagedClip) -> tuple[float, ...]:
    """In sides of the picture a clip length; nothing in these clips changes it."""
    return _object(clip).vx / SIDE, _object(clip).vy / SIDE


_SINGLE = {"direction/free": 1.0, "next/free": 1.0}
"""Free flight of one object. A group's velocities add up to zero, and all its clips end in one picture."""
_FRONT = ("red", "blue")
_COUNTS = ("one", "two", "three")

PROBES: dict[str, Probe] = {
    probe.name: probe
    for probe in (
        Probe(name="position", families=_SINGLE, target=_position),
        Probe(name="velocity", families=_SINGLE, target=_velocity, needs_clip=True),
        Probe(
            name="order",  # in depth: two discs cross, and one of them is in front
            families={"front/occlusion": 2.0},
            target=lambda clip: _FRONT.index(clip.question.answer),
            classes=_FRONT,
            needs_clip=True,
        ),
        Probe(
            name="count",
            families={"count/free": 1.0},
            target=lambda clip: _COUNTS.index(clip.question.answer),
            classes=_COUNTS,
        ),
        Probe(
            # Each group has two beginnings and two ends, and which go together decides: no sum over frames can tell.
            name="plausibility",
            families={"plausible/occlusion": 0.5, "plausible/containment": 0.5, "plausible/collision": 0.5},
            target=lambda clip: int(clip.plausible),
            classes=("impossible", "possible"),
            needs_clip=True,
        ),
    )
}


def probe_clips(split: Split, groups: int, seed: int) -> list[ProbeClip]:
    """The clips of matched groups of each family that a probe reads, in an order that is always the same.

    Args:
        groups: of a family that counts once; see ``Probe.families``.
    """
    return [
        ProbeClip(staged=staged)
        for family, share in _families().items()
        for index in range(round(groups * share))
        for staged in stage(split, family, index, seed=seed, num_frames=NUM_FRAMES)
    ]


def _families() -> dict[str, float]:
    return {family: share for probe in PROBES.values() for family, share in probe.families.items()}


@lru_cache(1)
def _drawing() -> str:
    """When clips are drawn in another way, what was made of them counts no more."""
    return fingerprint(split="train", names=tuple(_families()), num_frames=NUM_FRAMES, size=SIZE)
