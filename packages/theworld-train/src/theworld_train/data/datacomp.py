"""Web pictures with captions: DataComp's parquet files of addresses, or the pictures as they were fetched.

The first have ``url`` and ``text`` (Gadre et al., arXiv 2304.14108), the second ``image`` (``bytes``, ``path``) too.
"""

from functools import partial
from typing import Any

from theworld_train.data.conversation import ask
from theworld_train.data.example import Example, digest
from theworld_train.data.lazy import packed_picture
from theworld_train.data.rows import open_table
from theworld_train.data.source import OpenSource
from theworld_train.recipe import DataCompSource


def open_datacomp(source: DataCompSource) -> OpenSource:
    """The rows of the source.

    Raises:
        UsageError: there is nothing that can be opened.
    """
    table = open_table(source.path, stream=source.stream)
    return OpenSource.of(source, table, partial(to_example, source.prompt))


def to_example(prompt: str, row: dict[str, Any]) -> Example:
    """The prompt about the row's picture, answered with its caption.

    Raises:
        ValueError: there is no caption, or neither a picture nor an address.
    """
    url, caption = row.get("url"), row.get("text")
    picture = packed_picture(row.get("image"), repr(url)) or url
    if not isinstance(caption, str) or not caption.strip() or picture is None:
        raise ValueError(f"the row has the url {url!r} and the text {caption!r}. Both are needed.")
    return Example(messages=ask(picture, prompt, caption), key=digest(url, caption), group=digest(url))
