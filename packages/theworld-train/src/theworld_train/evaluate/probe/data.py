"""What is read off the clips of the micro-world, and the clips: no matched group is on both sides of a split."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from PIL import Image

from theworld_train.data.example import digest, sha
from theworld_train.data.micro_world import SIZE
from theworld_train.microworld.clips import StagedClip, stage_group
from theworld_train.microworld.draw import draw
from theworld_train.microworld.scene import SIDE

Split = Literal["train", "val", "test"]

NUM_FRAMES = 9
"""Of every clip."""

_SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class ProbeClip:
    """A clip with its truth; it is drawn when its features are not known yet."""

    family: str
    group: str
    """The same for all clips of a matched group, and for no other."""
    staged: StagedClip

    @cached_property
    def frames(self) -> list[Image.Image]:
        """RGB pictures of ``SIZE`` x ``SIZE`` pixels, oldest first."""
        return [draw(scene, size=SIZE) for scene in self.staged.scenes]

    @cached_property
    def key(self) -> str:
        """Of what is drawn and how, so that nothing has to be drawn to know it."""
        return digest(_drawing(), SIZE, repr(self.staged.scenes))


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """One thing that is read off the clips of some families.

    Attributes:
        families: whose clips are read.
        target: numbers that a ridge regression gives, or the place of one of ``classes`` that a logistic one chooses.
        classes: none for numbers.
        needs_motion: by construction, the last frame alone says nothing about it.
    """

    name: str
    families: tuple[str, ...]
    target: Callable[[StagedClip], tuple[float, ...] | int]
    classes: tuple[str, ...] = ()
    needs_motion: bool = False

    def targets(self, clips: Sequence[ProbeClip]) -> np.ndarray:
        """Of clips of its families: ``[n, numbers]``, or ``[n]`` of classes."""
        return np.asarray([self.target(clip.staged) for clip in clips])


def _position(clip: StagedClip) -> tuple[float, ...]:
    """Of the one object in the last frame, in sides of the box."""
    [body] = clip.scenes[-1].bodies
    return body.x / SIDE, body.y / SIDE


def _velocity(clip: StagedClip) -> tuple[float, ...]:
    """Of the one object, in sides of the box a clip length; nothing in these clips changes it."""
    [body] = clip.scenes[-1].bodies
    return body.vx / SIDE, body.vy / SIDE


def _answer(clip: StagedClip) -> int:
    return clip.question.choices.index(clip.question.answer)


PROBES: dict[str, Probe] = {
    probe.name: probe
    for probe in (
        Probe(name="position", families=("direction", "next"), target=_position),
        # The velocities of each of these groups add up to zero, and all its clips end in one picture.
        Probe(name="velocity", families=("direction", "next"), target=_velocity, needs_motion=True),
        Probe(name="count", families=("count",), target=_answer, classes=("one", "two", "three")),
    )
}


def probe_clips(split: Split, groups: int, seed: int) -> list[ProbeClip]:
    """The clips of ``groups`` matched groups of each family that a probe reads, in an order that is always the same."""
    families = dict.fromkeys(family for probe in PROBES.values() for family in probe.families)
    return [
        ProbeClip(family=family, group=f"{split}/{family}/{index}", staged=staged)
        for family in families
        for index in range(groups)
        for staged in stage_group(family, index, seed=3 * seed + _SPLITS.index(split), num_frames=NUM_FRAMES)
    ]


@lru_cache(1)
def _drawing() -> str:
    """A digest of one drawn clip of each family: when the drawing changes, what was made of it counts no more."""
    families = dict.fromkeys(family for probe in PROBES.values() for family in probe.families)
    scenes = [stage_group(family, 0, seed=0, num_frames=5)[0].scenes[-1] for family in families]
    return digest([sha(draw(scene, size=SIZE).tobytes()) for scene in scenes])
