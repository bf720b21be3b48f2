"""LLaVA's pre-training data: ``chat.json``, an array of ``id``, ``image``, ``conversations``, and ``images.zip``.

The pictures are read out of the archive one by one; nothing is unpacked. A folder ``images`` serves as well.
"""

import os
import zipfile
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from theworld_encoders import MediaError, decode_image
from theworld_train.data.conversation import to_messages
from theworld_train.data.example import Example, digest
from theworld_train.data.lazy import LazyPicture, inside
from theworld_train.data.rows import open_array, published_file
from theworld_train.data.source import OpenSource
from theworld_train.recipe import LlavaCc3mSource

_FEATURES = datasets.Features(
    {
        "image": datasets.Value("string"),
        "conversations": [{"from": datasets.Value("string"), "value": datasets.Value("string")}],
    }
)
_MOST_BYTES = 2**27
"""Of one picture's file; what is larger is no photograph."""


def open_llava_cc3m(source: LlavaCc3mSource) -> OpenSource:
    """The rows of the source.

    Raises:
        UsageError: a file is missing.
    """
    table = open_array(published_file(source.path, "chat.json"), _FEATURES)
    folder = table.folder / "images"
    pictures = folder if folder.is_dir() else published_file(source.path, "images.zip")
    return OpenSource.of(source, table, partial(to_example, pictures))


def to_example(pictures: Path, row: dict[str, Any]) -> Example:
    """The row's conversation about its picture.

    Raises:
        ValueError: it is no conversation, or names no picture of the folder or archive.
    """
    name, turns = row["image"], row["conversations"]
    if not name:
        raise ValueError("the row names no image.")
    if pictures.suffix == ".zip":
        picture: Any = LazyPicture(partial(read_picture, pictures, name), content=partial(read_member, pictures, name))
    else:
        picture = str(inside(pictures, name))
    return Example(messages=to_messages(turns, picture), key=digest(name, turns), group=digest(name))


def read_picture(archive: Path, name: str) -> Image.Image:
    """A picture of a zip archive.

    Raises:
        MediaError: there is none of that name, or it cannot be decoded.
    """
    return decode_image(read_member(archive, name), f"{archive}:{name}")


def read_member(archive: Path, name: str) -> bytes:
    """The bytes of a picture in a zip archive; its members stand at the top or in ``images/``.

    Raises:
        MediaError: there is none of that name, or it is damaged.
    """
    opened = _opened(archive, os.getpid())
    for member in (name, f"images/{name}"):
        if member in opened.NameToInfo:
            if opened.getinfo(member).file_size > _MOST_BYTES:
                raise MediaError(f"{member!r} of {str(archive)!r} has more than {_MOST_BYTES} bytes. Take it out.")
            try:
                return opened.read(member)
            except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
                raise MediaError(f"{member!r} of {str(archive)!r} is damaged ({error}). Fetch it again.") from error
    raise MediaError(f"{str(archive)!r} has no member {name!r}. Fetch the archive that belongs to the conversations.")


@lru_cache(2)
def _opened(archive: Path, process: int) -> zipfile.ZipFile:
    """By process: forked ones would share the place in the file that is read next."""
    return zipfile.ZipFile(archive)
