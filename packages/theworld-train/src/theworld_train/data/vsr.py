"""Visual Spatial Reasoning (Liu et al., arXiv 2205.00363): is a statement about a COCO picture true?

A row has ``image``, ``image_link``, ``caption`` and ``label`` (1: true). Training and evaluation ask in the same words.
"""

from functools import partial
from pathlib import Path
from typing import Any

from theworld_train.data.conversation import ask
from theworld_train.data.example import Example, digest
from theworld_train.data.lazy import inside
from theworld_train.data.rows import Table, open_table
from theworld_train.data.source import OpenSource
from theworld_train.recipe import VsrSource

PROMPT = "Is this statement about the picture true or false? {caption} Answer True or False."
ANSWERS = ("False", "True")
"""By label."""


def open_vsr(source: VsrSource) -> OpenSource:
    """The rows of the source.

    Raises:
        UsageError: there is nothing that can be opened.
    """
    table = open_split(source.path, source.split)
    return OpenSource.of(source, table, partial(to_example, Path(source.images)))


def open_split(path: str, split: str) -> Table:
    """The rows of a split; in a folder, the files whose names begin with it (``dev`` is ``validation``).

    Raises:
        UsageError: there is nothing that can be opened.
    """
    names = (split, "dev") if split == "validation" else (split,)
    return open_table(path, split=split, of_split=names)


def to_example(images: Path, row: dict[str, Any]) -> Example:
    """The row's statement as a question, and the answer that its label says.

    Raises:
        ValueError: a field is missing, or the label is neither 0 nor 1.
    """
    name, caption, label = row.get("image"), row.get("caption"), row.get("label")
    if not isinstance(name, str) or not isinstance(caption, str) or label not in (0, 1):
        raise ValueError(
            f"the row has the image {name!r}, caption {caption!r} and label {label!r}; labels are 0 and 1."
        )
    messages = ask(str(_find(images, name, row.get("image_link"))), PROMPT.format(caption=caption), ANSWERS[label])
    return Example(messages=messages, key=digest(name, caption), group=digest(name))


def _find(images: Path, name: str, link: Any) -> Path:
    """In the folder itself, or in the one of COCO's that the address names (``train2017``)."""
    path = inside(images, name)
    if isinstance(link, str) and not path.exists():
        beside = inside(images, "/".join(link.split("/")[-2:]))
        return beside if beside.exists() else path
    return path
