"""Makes the clips of the micro-world in groups, so that no single frame can answer a question about motion.

A group of a motion family holds one clip for each answer, and all of them end in the same scene; they differ in how
the objects came there. Whoever sees the last frame and the question alone scores exactly chance on every group.
A group of a single-frame family holds one clip for each answer too; there the scene differs and the motion is shared.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from theworld_train.microworld.draw import draw
from theworld_train.microworld.physics import past
from theworld_train.microworld.questions import DRAFTS, FRAME_FAMILIES, MOTION_FAMILIES, Question
from theworld_train.microworld.ranges import limits
from theworld_train.microworld.scene import Scene

_FAMILIES = MOTION_FAMILIES + FRAME_FAMILIES
_ATTEMPTS = 1000


@dataclass(frozen=True, kw_only=True)
class StagedClip:
    """A clip before it is drawn."""

    scenes: tuple[Scene, ...]
    question: Question


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A short video, with questions about it."""

    frames: tuple[Image.Image, ...]
    """Square RGB pictures, evenly spaced in time."""
    group: int
    """Its group; no two groups share a number, whatever their families."""
    questions: tuple[Question, ...]


def generate(
    *, groups_per_family: int | Mapping[str, int], seed: int, num_frames: int = 9, size: int = 48
) -> list[Clip]:
    """Makes clips of every family, each with one question. The same arguments give the same bytes, on every call.

    A group depends on the seed, its family and its place in it, not on how many groups are made.

    Args:
        groups_per_family: Number of groups, of each family or by family; a group holds one clip for each answer.
        seed: Where all randomness comes from; 0 or more.
        num_frames: Frames a clip; at least 5. A clip lasts as long and shows the same, whatever their number.
        size: Side of a frame in pixels; at least 32. It changes nothing but the drawing.

    Returns:
        The clips family by family, group by group, in a group by answer: shuffle before training.

    Raises:
        ValueError: An argument is out of range, or no group could be made.
    """
    number_each = groups_per_family
    groups = number_each if isinstance(number_each, Mapping) else dict.fromkeys(_FAMILIES, number_each)
    if unknown := sorted(set(groups) - set(_FAMILIES)):
        raise ValueError(f"There is no family {unknown[0]!r}. Use some of: {', '.join(_FAMILIES)}.")
    ranges = {
        "groups_per_family": (min(groups.values(), default=0), 1),
        "seed": (seed, 0),
        "num_frames": (num_frames, 5),
        "size": (size, 32),
    }
    for name, (value, least) in ranges.items():
        if value < least:
            raise ValueError(f"{name} is {value}. Use {least} or more.")
    clips = []
    for number, family in enumerate(_FAMILIES):
        for index in range(groups.get(family, 0)):
            for staged in stage_group(family, index, seed=seed, num_frames=num_frames):
                frames = tuple(draw(scene, size=size) for scene in staged.scenes)
                group = index * len(_FAMILIES) + number
                clips.append(Clip(frames=frames, group=group, questions=(staged.question,)))
    return clips


def stage_group(family: str, index: int, *, seed: int, num_frames: int) -> list[StagedClip]:
    """One group: a clip for each answer, in the order of the choices. Redrawn until nothing touches anything in it.

    Raises:
        ValueError: No attempt gave a group.
    """
    key = (_FAMILIES.index(family), index)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
    for _ in range(_ATTEMPTS):
        draft = DRAFTS[family](rng, index, limits("train", f"{family}/free", "easy"))
        if draft is None:
            continue
        clips = {answer: past(scene, num_frames=num_frames) for answer, scene in draft.last_scenes.items()}
        shown = {answer: scenes for answer, scenes in clips.items() if scenes is not None}
        if len(shown) == len(clips):
            return [
                StagedClip(
                    scenes=scenes,
                    question=Question(family=family, text=draft.text, answer=answer, choices=tuple(shown)),
                )
                for answer, scenes in shown.items()
            ]
    raise ValueError(f"No clips for {family!r}, group {index}, seed {seed} in {_ATTEMPTS} attempts. Change the seed.")
