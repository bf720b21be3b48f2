"""The micro-world as training data: a row is a clip with its question, made when it is read.

Everything comes from the split ``train``, which shares no picture with the splits that are for measuring.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from theworld_train.data.example import Example, digest
from theworld_train.data.lazy import LazyPicture
from theworld_train.data.source import OpenSource
from theworld_train.errors import UsageError
from theworld_train.microworld.draw import draw
from theworld_train.microworld.stage import StagedClip, families, stage
from theworld_train.recipe import MicroWorldSource

staged = lru_cache(64)(stage)
"""``stage`` for who takes the clips of a group one by one."""


@dataclass(frozen=True, slots=True)
class Row:
    """Which clip: its family, its group's place in the family, its place in the group."""

    family: str
    group: int
    place: int


class Rows(Sequence[Row]):
    """Every clip of ``groups`` groups of each family, family by family, group by group."""

    def __init__(self, names: Sequence[str], groups: int) -> None:
        self._groups = groups
        self._sizes = {family: clips_in_group(family) for family in names}

    def __len__(self) -> int:
        return self._groups * sum(self._sizes.values())

    def __getitem__(self, index: Any) -> Any:
        for family, size in self._sizes.items():
            if index < self._groups * size:
                return Row(family, *divmod(int(index), size))
            index -= self._groups * size
        raise IndexError(index)


def open_micro_world(source: MicroWorldSource, num_frames: int) -> OpenSource:
    """The clips of the source, of ``num_frames`` frames each (at least 5).

    Raises:
        UsageError: there is no family of a name.
    """
    try:
        names = families(source.families)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return OpenSource(
        name=f"micro-world, seed {source.seed}",
        weight=source.weight,
        limit=source.limit,
        rows=Rows(names, source.groups),
        to_example=partial(to_example, source, num_frames),
    )


def to_example(source: MicroWorldSource, num_frames: int, row: Row) -> Example:
    """The row's clip and question. The clips of a group share their last frame, so they share the example's group."""
    group = staged("train", row.family, row.group, seed=source.seed, level=source.level, num_frames=num_frames)
    clip = group[row.place]
    return Example(
        messages=[user_turn(clip, source.size), {"role": "assistant", "content": clip.question.answer}],
        key=digest("micro-world", clip.group, row.place),
        group=digest("micro-world", clip.group),
    )


@lru_cache
def clips_in_group(family: str) -> int:
    """How many clips every group of a family has."""
    return len(stage("train", family, 0, num_frames=5))


def user_turn(clip: StagedClip, size: int) -> dict[str, Any]:
    """The clip, in frames of ``size`` by ``size`` pixels, and the question about it."""
    frames = [LazyPicture(partial(draw, scene, size=size)) for scene in clip.scenes]
    blocks = [{"type": "video", "video": frames}, {"type": "text", "text": clip.question.text}]
    return {"role": "user", "content": blocks}
