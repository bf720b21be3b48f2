"""The micro-world as training data: a row is a clip with its question, made when it is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from theworld_train.data.example import Example, digest
from theworld_train.data.lazy import LazyPicture
from theworld_train.data.source import OpenSource
from theworld_train.errors import UsageError
from theworld_train.microworld import CHOICES
from theworld_train.microworld.clips import StagedClip, stage_group
from theworld_train.microworld.draw import draw
from theworld_train.recipe import MicroWorldSource

SIZE = 96
"""Side of a frame in pixels."""


@dataclass(frozen=True, slots=True)
class Row:
    """Which clip: its family, its group's place in the family, its place in the group."""

    family: str
    group: int
    place: int


class Rows(Sequence[Row]):
    """Every clip, family by family, group by group."""

    def __init__(self, groups: int, families: Sequence[str] = tuple(CHOICES)) -> None:
        self._groups, self._families = groups, families
        self._clips = sum(len(CHOICES[family]) for family in families)

    def __len__(self) -> int:
        return self._groups * self._clips

    def __getitem__(self, index: Any) -> Any:
        for family in self._families:
            clips = len(CHOICES[family])
            if index < self._groups * clips:
                return Row(family, *divmod(int(index), clips))
            index -= self._groups * clips
        raise IndexError(index)


def open_micro_world(source: MicroWorldSource, num_frames: int) -> OpenSource:
    """The clips of the source, of ``num_frames`` frames each (at least 5).

    Raises:
        UsageError: there is no such family.
    """
    families = tuple(CHOICES) if source.families is None else source.families
    for family in families:
        if family not in CHOICES:
            raise UsageError(f"the micro-world has no family {family!r}. Use some of: {', '.join(CHOICES)}.")
    return OpenSource(
        name=f"micro-world, seed {source.seed}",
        weight=source.weight,
        limit=source.limit,
        rows=Rows(source.groups, families),
        to_example=partial(to_example, source.seed, num_frames),
    )


def to_example(seed: int, num_frames: int, row: Row) -> Example:
    """The row's clip and question. The clips of a group share their last frame, so they share the example's group."""
    clip = _staged(row.family, row.group, seed, num_frames)[row.place]
    frames = [LazyPicture(partial(draw, scene, size=SIZE)) for scene in clip.scenes]
    blocks = [{"type": "video", "video": frames}, {"type": "text", "text": clip.question.text}]
    return Example(
        messages=[{"role": "user", "content": blocks}, {"role": "assistant", "content": clip.question.answer}],
        key=digest("micro-world", seed, row.family, row.group, row.place),
        group=digest("micro-world", seed, row.family, row.group),
    )


@lru_cache(64)
def _staged(family: str, group: int, seed: int, num_frames: int) -> list[StagedClip]:
    return stage_group(family, group, seed=seed, num_frames=num_frames)
