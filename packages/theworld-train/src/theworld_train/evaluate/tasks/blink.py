"""BLINK (Fu et al., arXiv 2404.12390; ``BLINK-Benchmark/BLINK``, Apache-2.0): perception as multiple choice.

Each sub-task is a configuration of the hub's data set, a folder of parquet files with the splits ``val`` and ``test``.
A row has ``idx``, ``question``, ``sub_task``, ``image_1`` to ``image_4`` (the later ones may be empty), ``choices``,
``answer`` as ``(A)``, ``prompt`` (the question with its lettered choices) and ``explanation``. The answers of ``test``
are published as ``hidden`` (its authors' saved outputs have that word in all 1,907 places); they are scored on EvalAI.
"""

import re
from typing import Any

from theworld_train.data.rows import Table, open_table
from theworld_train.errors import UsageError
from theworld_train.evaluate.scorers import letters
from theworld_train.evaluate.task import Item, Score
from theworld_train.evaluate.tasks.rows import Published, RowPicture, lazily, numbered, outcome
from theworld_train.evaluate.tasks.settings import BlinkTask

_LETTERS = "ABCDEFGH"
_PICTURES = ("image_1", "image_2", "image_3", "image_4")


class Blink(Published):
    """Its items ask in the words of the published prompt, after the pictures; choices are ``(A)``, ``(B)``, ..."""

    def __init__(self, settings: BlinkTask) -> None:
        self.settings = settings

    @property
    def name(self) -> str:
        return "blink" if self.settings.split == "val" else f"blink-{self.settings.split}"

    def score(self, item: Item, answer: str) -> Score:
        """1 for the letter that is wanted, 0 for another one; ``None`` where the text takes none, or several."""
        said = letters(answer, item.facts["choices"])
        return outcome(said, item.facts["letter"], said and f"({said})")

    def _read(self) -> list[Item]:
        items = list[Item]()
        for subset in self.settings.subsets:
            table = open_table(
                self.settings.path, split=self.settings.split, of_split=(self.settings.split,), config=subset
            )
            items.extend(_item(subset, table, number, row) for number, row in enumerate(numbered(table)))
        return items


def _item(subset: str, table: Table, number: int, row: dict[str, Any]) -> Item:
    key, choices, answer = row.get("idx"), row.get("choices"), row.get("answer")
    place = f"row {number} of {subset} of {table.name}"
    if answer == "hidden":
        raise UsageError(
            f"{place} has a hidden answer: the benchmark keeps those of its test split. Use split=val, or send the "
            "answers to its server on EvalAI."
        )
    asked = row.get("prompt") or row.get("question")
    shown = [column for column in _PICTURES if row.get(column) is not None]
    letter = re.fullmatch(r"\(([A-H])\)", answer) if isinstance(answer, str) else None
    if not (key and asked and shown and isinstance(choices, list) and letter and len(choices) <= len(_LETTERS)):
        raise UsageError(
            f"{place} has the idx {key!r}, choices {choices!r}, answer {answer!r} and pictures {shown}. A row of BLINK "
            "has an idx, a prompt, choices, an answer like (A) and at least image_1."
        )
    lettered = dict(zip(_LETTERS, map(str, choices), strict=False))
    if letter[1] not in lettered:
        raise UsageError(f"{place} has {len(choices)} choices and the answer {answer}. Fetch the data set again.")
    if not row.get("prompt"):
        asked = "\n".join([asked, *(f"({one}) {choice}" for one, choice in lettered.items())])
    pictures = [RowPicture(table, number, column) for column in shown]
    blocks: list[dict[str, Any]] = [{"type": "image", "image": lazily(picture)} for picture in pictures]
    return Item(
        key=key,
        family=subset,
        messages=[{"role": "user", "content": [*blocks, {"type": "text", "text": asked}]}],
        answer=letter[0],
        choices=tuple(f"({one})" for one in lettered),
        group=str(pictures[0].identity()),
        facts={"choices": lettered, "letter": letter[1]},
    )
