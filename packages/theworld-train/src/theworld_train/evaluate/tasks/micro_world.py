"""The micro-world as a benchmark: clips whose motion answers what no single frame does, and controls that a frame does.

Clips are made here, each from its split, so there is nothing to download and the truth is the simulated state.
"""

import re
from collections.abc import Sequence
from typing import Any

from theworld_train.data.example import digest
from theworld_train.data.micro_world import Row, Rows, staged, user_turn
from theworld_train.errors import UsageError
from theworld_train.evaluate.scorers import truth
from theworld_train.evaluate.scorers.text import plain
from theworld_train.evaluate.task import Item, Score
from theworld_train.evaluate.tasks.settings import MicroWorldTask
from theworld_train.microworld.stage import families
from theworld_train.microworld.version import fingerprint

_DENIALS = {"not", "never", "neither", "nor", "cannot"}


class MicroWorld:
    """The task of these settings.

    Args:
        num_frames: of each clip, at least 5.

    Raises:
        UsageError: there is no family of a name, or too few frames.
    """

    def __init__(self, settings: MicroWorldTask, num_frames: int) -> None:
        if num_frames < 5:
            raise UsageError(f"the model takes {num_frames} frames of a clip. The micro-world needs 5 or more.")
        try:
            names = families(settings.families)
        except ValueError as error:
            raise UsageError(str(error)) from error
        self.settings, self.num_frames, self.families = settings, num_frames, names

    @property
    def name(self) -> str:
        """Split and level too: figures of different ones are not the same benchmark."""
        return f"micro-world-{self.settings.split}-{self.settings.level}"

    @property
    def fingerprint(self) -> str:
        """Digest of the settings, the generator's version and a sample of what it makes here."""
        one = self.settings
        return fingerprint(
            split=one.split,
            names=self.families,
            level=one.level,
            seed=one.seed,
            num_frames=self.num_frames,
            size=one.size,
            groups=one.groups,
        )

    def items(self) -> Sequence[Item]:
        """Every clip with its question; made when it is taken, its frames drawn when they are read."""
        return _Items(self.settings, self.num_frames, Rows(self.families, self.settings.groups))

    def score(self, item: Item, answer: str) -> Score:
        """1 for the right choice, 0 for another; no score where the text does not name exactly one."""
        choice = named(answer, item.choices)
        return Score(value=None if choice is None else float(choice == item.answer), parsed=choice)


class _Items(Sequence[Item]):
    def __init__(self, settings: MicroWorldTask, num_frames: int, rows: Sequence[Row]) -> None:
        self._settings, self._num_frames, self._rows = settings, num_frames, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        return self._item(self._rows[range(len(self))[index]])

    def _item(self, row: Row) -> Item:
        one = self._settings
        clips = staged(one.split, row.family, row.group, seed=one.seed, level=one.level, num_frames=self._num_frames)
        clip = clips[row.place]
        return Item(
            key=digest("micro-world", clip.group, row.place),
            family=clip.family,
            messages=[user_turn(clip, one.size)],
            answer=clip.question.answer,
            choices=clip.question.choices,
            group=clip.group,
            facts={
                "scene": clip.scene_family,
                "question": clip.question.family,
                "level": clip.level,
                "motion": clip.question.motion,
                "plausible": clip.plausible,
            },
        )


def named(answer: str, choices: Sequence[str]) -> str | None:
    """The one choice that a text is, or that stands in it as whole words; ``None`` where there is not just one.

    Markdown, punctuation and case do not count. A text that says more and denies something is read as no choice; where
    the choices are yes and no, it is read as ``scorers.truth`` reads it.
    """
    said = _plain(answer)
    equal = [choice for choice in choices if _plain(choice) == said]
    if equal:
        return equal[0]
    by_word = {_plain(choice): choice for choice in choices}
    if by_word.keys() == {"yes", "no"}:
        verdict = truth(answer)
        return None if verdict is None else by_word["yes" if verdict else "no"]
    if _DENIALS & set(said.split()):
        return None
    inside = [choice for choice in choices if f" {_plain(choice)} " in f" {said} "]
    return inside[0] if len(inside) == 1 else None


def _plain(text: str) -> str:
    """Small letters and whole numbers, one blank between words; "isn't" becomes "is not"."""
    text = re.sub(r"n['’]t\b", " not", plain(text).casefold())
    return " ".join(re.findall(r"(?<!\w)-?\d+(?:[.,/:]\d+)+|(?<!\w)-\d+|\w+", text.replace("_", " ")))
