"""SpatialRGPT-Bench (Cheng et al., arXiv 2406.01584; ``a8cheng/SpatialRGPT-Bench``, Apache-2.0): regions of a picture.

A row has ``id``, ``image_info`` (with ``file_path``), ``text_q`` (the question, with ``Region [0]``, ...),
``qa_info`` (``type`` and ``category``), ``conversations`` (a question with masks, and the answer), ``bbox`` (box k is
region k), ``rle``, and on the hub ``image``. Records stand in columns as such or as text. The 1,406 rows are 657
qualitative and 749 quantitative ones, of 24 categories.

Scored as the authors' ``evaluate_spatial_with_gpt4.py`` scores what GPT-4 reads: lengths within 25 %, directions
within one hour of the clock. Here rules do the reading. Errors are relative to the wanted length; the authors add
0.1 mm to it.
"""

import ast
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import datasets

from theworld_encoders import MediaError, load_image
from theworld_train.data.boxes import draw_boxes
from theworld_train.data.example import digest
from theworld_train.data.lazy import LazyPicture, inside
from theworld_train.data.rows import Table, open_array, open_table
from theworld_train.errors import UsageError
from theworld_train.evaluate.scorers import RELATIONS, clock, clock_error, quantity, relation, truth
from theworld_train.evaluate.task import Item, Score
from theworld_train.evaluate.tasks.rows import Published, RowPicture, outcome, row_of
from theworld_train.evaluate.tasks.settings import SpatialRgptTask

FILE = "SpatialRGPT-Bench_v1.json"
"""Published beside the pictures: an array of the same records."""
_FEATURES = datasets.Features(  # without the masks
    {
        "id": datasets.Value("string"),
        "image_info": {"file_path": datasets.Value("string")},
        "text_q": datasets.Value("string"),
        "qa_info": {"type": datasets.Value("string"), "category": datasets.Value("string")},
        "conversations": [{"from": datasets.Value("string"), "value": datasets.Value("string")}],
        "bbox": [[datasets.Value("float64")]],
    }
)
LENGTHS = {
    "distance_data": "direct distance",
    "horizontal_distance_data": "horizontal distance",
    "vertical_distance_data": "vertical distance",
    "width_data": "width",
    "height_data": "height",
}
"""Families of quantitative categories; ``direction`` is one of its own."""
PAIRS = {
    name: "/".join(pair)
    for pair in (
        ("tall", "short"),
        ("left", "right"),
        ("below", "above"),
        ("behind", "front"),
        ("big", "small"),
        ("wide", "thin"),
    )
    for name in pair
}
"""Families of qualitative categories, ``left_predicate`` and ``left_choice``, by their relation."""
WITHIN = (0.10, 0.25, 0.50)
"""Relative errors up to which a length counts as found; 25 % is the score, all are figures."""
_REGION = re.compile(r"Region \[(\d+)\]")
_ROUNDING = 1e-9
"""So that 1.25 m for 1 m is within 25 %."""


class SpatialRgptBench(Published):
    """Qualitative items have choices, ``Yes`` and ``No`` or two regions; quantitative ones need a generated answer."""

    def __init__(self, settings: SpatialRgptTask) -> None:
        self.settings = settings

    @property
    def name(self) -> str:
        return "spatial-rgpt-bench" + ("" if self.settings.draw_boxes else "-no-boxes")

    def score(self, item: Item, answer: str) -> Score:
        """1 or 0 where the answer could be read, ``None`` where not.

        A yes or no is what the answer says, or else follows from a comparison of the two regions. Figures of lengths
        are ``within_10``, ``within_25``, ``within_50``, ``relative_error`` and ``metres``; of directions
        ``angle_error``, in degrees.
        """
        facts = item.facts
        said = _read(answer, facts)
        if said is None or facts["reader"] in ("truth", "region"):
            return outcome(said, facts["wanted"], None if said is None else _named(said))
        if facts["reader"] == "clock":
            angle = clock_error(said, facts["wanted"])
            return Score(
                value=float(angle <= 30 + _ROUNDING), parsed=f"{said:g} o'clock", figures={"angle_error": angle}
            )
        error = abs(said - facts["wanted"]) / facts["wanted"]
        figures = {f"within_{round(100 * limit)}": float(error <= limit + _ROUNDING) for limit in WITHIN}
        return Score(
            value=figures["within_25"],
            parsed=f"{said:.6g} m",
            figures={**figures, "relative_error": error, "metres": said},
        )

    def _read(self) -> list[Item]:
        table = self._table()
        rows: Any = table.rows
        items = [self._item(table, number, row_of(table, number)) for number in range(len(rows))]
        return items

    def _table(self) -> Table:
        if self.settings.images is not None and not Path(self.settings.images).is_dir():
            raise UsageError(f"there is no folder {self.settings.images}. Give the one of the pictures as images.")
        place = Path(self.settings.path)
        file = place / FILE if place.is_dir() else place
        if file.suffix == ".json" and file.is_file():
            return open_array(file, _FEATURES)
        return open_table(self.settings.path, split=self.settings.split)

    def _item(self, table: Table, number: int, row: dict[str, Any]) -> Item:
        try:
            return self._checked(table, number, row)
        except (ValueError, KeyError, TypeError, IndexError, SyntaxError, AttributeError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise UsageError(
                f"row {number} of {table.name} is none of SpatialRGPT-Bench ({type(error).__name__}: {reason}). Give "
                f"the published data set, or the folder of its {FILE}."
            ) from error

    def _checked(self, table: Table, number: int, row: dict[str, Any]) -> Item:
        row = {
            column: _record(row[column])
            for column in ("id", "image_info", "text_q", "qa_info", "conversations", "bbox")
        }
        question, category, answer = row["text_q"], row["qa_info"]["category"], row["conversations"][1]["value"]
        if len(row["conversations"]) != 2:
            raise ValueError(f"{len(row['conversations'])} turns of conversation, not a question and an answer")
        named = dict.fromkeys(_REGION.findall(question))
        boxes = {f"Region [{region}]": tuple(row["bbox"][int(region)]) for region in named}
        facts = _facts(question, category, answer)
        picture, identity = self._picture(table, number, row["image_info"])
        block = {
            "type": "image",
            "image": LazyPicture(partial(_shown, picture, boxes if self.settings.draw_boxes else {})),
        }
        return Item(
            key=str(row["id"]),
            family=facts.pop("family"),
            messages=[{"role": "user", "content": [block, {"type": "text", "text": question}]}],
            answer=answer,
            choices=facts.pop("choices"),
            group=identity,
            facts={**facts, "category": category, "type": row["qa_info"]["type"]},
        )

    def _picture(self, table: Table, number: int, info: Any) -> tuple[RowPicture | Path, str]:
        held = RowPicture(table, number, "image")
        if self.settings.images is None and (identity := held.identity()) is not None:
            return held, identity
        name = info["file_path"]
        folder = table.folder if self.settings.images is None else Path(self.settings.images)
        return inside(folder, name), digest(name)


def _facts(question: str, category: str, answer: str) -> dict[str, Any]:
    """What scoring needs: how answers are read, the asked relation and regions, and what is wanted, read so, too."""
    asked, _, form = category.partition("_")
    if category in LENGTHS:
        facts = {
            "reader": "length",
            "family": LENGTHS[category],
            "label": category.removesuffix("_data").replace("_", " "),
            "choices": (),
        }
    elif category == "direction":
        facts = {"reader": "clock", "family": "direction", "choices": ()}
    elif asked in RELATIONS and form in ("predicate", "choice"):
        named = [int(found) for found in dict.fromkeys(_REGION.findall(question))]
        if len(named) != 2:
            raise ValueError(f"the question {question!r} names {len(named)} regions, not two")
        choices = ("Yes", "No") if form == "predicate" else tuple(f"Region [{region}]" for region in named)
        reader = "truth" if form == "predicate" else "region"
        facts = {"reader": reader, "family": PAIRS[asked], "relation": asked, "regions": named, "choices": choices}
    else:
        raise ValueError(f"the category {category!r} is unknown")
    facts["wanted"] = _read(answer, facts)
    if facts["wanted"] is None or (facts["reader"] == "length" and facts["wanted"] <= 0):
        raise ValueError(f"the answer {answer!r} cannot be read")
    return facts


def _read(answer: str, facts: Any) -> Any:
    match facts["reader"]:
        case "length":
            return quantity(answer, label=facts["label"])
        case "clock":
            return clock(answer)
        case "region":
            return relation(answer, facts["relation"], tuple(facts["regions"]))
    said = truth(answer)
    if said is None:
        region = relation(answer, facts["relation"], tuple(facts["regions"]))
        said = None if region is None else region == facts["regions"][0]
    return said


def _named(said: bool | int) -> str:
    return ("Yes" if said else "No") if isinstance(said, bool) else f"Region [{said}]"


def _record(value: Any) -> Any:
    """A column's record; where it is text, as Python or JSON writes it."""
    if not isinstance(value, str) or value[:1] not in ("{", "["):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return ast.literal_eval(value)


def _shown(picture: RowPicture | Path, boxes: dict[str, tuple[float, ...]]) -> Any:
    image = picture.read() if isinstance(picture, RowPicture) else load_image(picture)
    try:
        return draw_boxes(image, boxes) if boxes else image
    except ValueError as error:
        raise MediaError(f"{error} Fetch the data set again.") from error
