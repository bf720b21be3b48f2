"""SpatialRGPT's OpenSpatial (Cheng et al., arXiv 2406.01584): conversations about regions of OpenImages' pictures.

``result_10_depth_convs.json`` is an array of ``filename`` (without extension), ``conversations``, ``bbox`` and ``rle``.
The k-th ``<mask>`` of a conversation stands for ``bbox[k]``. Equal boxes are one region; regions are numbered as they
come up, and the answers' numbers, which count the masks of their own question, are changed to these.
"""

import re
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from theworld_encoders import load_image
from theworld_train.data.boxes import draw_boxes
from theworld_train.data.conversation import to_messages
from theworld_train.data.example import Example, digest
from theworld_train.data.lazy import LazyPicture, inside
from theworld_train.data.rows import open_array, published_file
from theworld_train.data.source import OpenSource
from theworld_train.recipe import SpatialRgptSource

_FEATURES = datasets.Features(  # without the masks, which are nearly all of its 32 GB
    {
        "filename": datasets.Value("string"),
        "conversations": [{"from": datasets.Value("string"), "value": datasets.Value("string")}],
        "bbox": [[datasets.Value("float64")]],
    }
)
_MASK = re.compile(r"<mask>(?:\s*<depth>)?")
_REGION = re.compile(r"Region \[(\d+)\]")
_Box = tuple[float, ...]


def open_spatial_rgpt(source: SpatialRgptSource) -> OpenSource:
    """The rows of the source.

    Raises:
        UsageError: a file is missing.
    """
    table = open_array(published_file(source.path, "result_10_depth_convs.json"), _FEATURES)
    return OpenSource.of(source, table, partial(to_example, Path(source.images), source.draw_boxes))


def to_example(images: Path, draw: bool, row: dict[str, Any]) -> Example:
    """The row's conversation, with its regions by number, and drawn on its picture.

    Raises:
        ValueError: it is no conversation, a mask has no box, or an answer speaks of a region that its question has not.
    """
    name, turns = row["filename"], row["conversations"]
    if not name:
        raise ValueError("the row has no filename.")
    path = inside(images, f"{name}.jpg")
    named, regions = name_regions(turns or [], [tuple(box) for box in row["bbox"] or ()])
    boxes = {f"Region [{number}]": box for number, box in enumerate(regions)}
    picture = LazyPicture(partial(_drawn, path, boxes)) if draw and boxes else str(path)
    return Example(messages=to_messages(named, picture), key=digest(name, turns), group=digest(name))


def name_regions(turns: list[dict[str, Any]], boxes: list[_Box]) -> tuple[list[dict[str, Any]], list[_Box]]:
    """The turns with ``Region [number]`` for every mask, from left to right, and the regions' boxes by number.

    Raises:
        ValueError: there are more masks than boxes, or an answer speaks of a region that its question has not.
    """
    regions: list[_Box] = []
    named, asked, count = [], list[int](), 0
    for turn in turns:
        text = turn.get("value") or ""
        if turn.get("from") == "human":
            masks = len(_MASK.findall(text))
            if count + masks > len(boxes):
                raise ValueError(f"the conversation has more masks than its {len(boxes)} boxes.")
            mentioned = boxes[count : count + masks]
            regions += [box for box in dict.fromkeys(mentioned) if box not in regions]
            asked, count = [regions.index(box) for box in mentioned], count + masks
        numbers = iter(asked)
        text = _REGION.sub(partial(_renumbered, asked), text)
        text = _MASK.sub(lambda _, numbers=numbers: f"Region [{next(numbers)}]", text)
        named.append({**turn, "value": " ".join(text.replace("<depth>", " ").split(" "))})
    return named, regions


def _renumbered(asked: list[int], found: re.Match[str]) -> str:
    number = int(found[1])
    if number >= len(asked):
        raise ValueError(f"an answer speaks of {found[0]}, and its question has {len(asked)} masks.")
    return f"Region [{asked[number]}]"


def _drawn(path: Path, boxes: dict[str, _Box]) -> Image.Image:
    return draw_boxes(load_image(path), boxes)
