"""Visual Spatial Reasoning as a benchmark (Liu et al., arXiv 2205.00363; Apache-2.0, pictures: COCO's terms).

Published as ``cambridgeltl/vsr_random`` and ``cambridgeltl/vsr_zeroshot``. The layout is that of training
(``data.vsr``), and so are the words of the question. Scores are summed up by the categories that the authors give their
relations (``analysis_scripts/rel_meta_category_dict.txt`` of their repository; a relation that stands in two of them
counts in the first).
"""

from collections import Counter
from pathlib import Path
from typing import Any

from theworld_train.data.vsr import ANSWERS, open_split, to_example
from theworld_train.errors import UsageError
from theworld_train.evaluate.scorers import truth
from theworld_train.evaluate.task import Item, Score
from theworld_train.evaluate.tasks.rows import Published, numbered, outcome
from theworld_train.evaluate.tasks.settings import VsrTask

CATEGORIES = {
    "adjacency": "adjacent to, alongside, at the side of, at the right side of, at the left side of, attached to, "
    "at the back of, ahead of, against, at the edge of",
    "directional": "off, past, toward, down, deep down, up, away from, along, around, from, into, to, across, "
    "across from, through, down from",
    "orientation": "facing, facing away from, parallel to, perpendicular to",
    "projective": "on top of, beneath, beside, behind, left of, right of, under, in front of, below, above, over, "
    "in the middle of",
    "proximity": "by, close to, near, far from, far away from",
    "topological": "connected to, detached from, has as a part, part of, contains, within, at, on, in, with, "
    "surrounding, among, consists of, out of, between, inside, outside, touching",
    "unallocated": "beyond, next to, opposite to, after, enclosed by",
}
"""Relations by category, with commas between them; any others are unallocated."""
_CATEGORY = {relation: category for category, names in CATEGORIES.items() for relation in names.split(", ")}


class Vsr(Published):
    """Its choices are ``False`` and ``True``. A picture that is missing is an error of its item, which still counts."""

    def __init__(self, settings: VsrTask) -> None:
        self.settings = settings

    @property
    def name(self) -> str:
        return f"vsr-{self.settings.variant}" + ("" if self.settings.split == "test" else "-validation")

    def score(self, item: Item, answer: str) -> Score:
        """1 where the answer calls the statement what it is, 0 where not; ``None`` where it does neither, or both."""
        said = truth(answer)
        return outcome(None if said is None else ANSWERS[said], item.answer)

    def _read(self) -> list[Item]:
        path = self.settings.path or f"cambridgeltl/vsr_{self.settings.variant}"
        table = open_split(path, self.settings.split)
        if not Path(self.settings.images).is_dir():
            raise UsageError(f"there is no folder {self.settings.images}. Give the one of COCO's pictures as images.")
        seen = Counter[str]()
        items = [self._item(table.name, number, row, seen) for number, row in enumerate(numbered(table))]
        return items

    def _item(self, table: str, number: int, row: dict[str, Any], seen: Counter[str]) -> Item:
        try:
            example = to_example(Path(self.settings.images), row)
        except ValueError as error:
            raise UsageError(f"row {number} of {table}: {error} Fetch the data set again.") from error
        seen[example.key] += 1
        again = f"-{seen[example.key]}" if seen[example.key] > 1 else ""  # statements that were written twice
        relation = str(row.get("relation") or "").strip()
        return Item(
            key=example.key + again,
            family=_CATEGORY.get(relation, "unallocated"),
            messages=example.messages[:-1],
            answer=example.messages[-1]["content"],
            choices=ANSWERS,
            group=example.group,
            facts={"relation": relation},
        )
