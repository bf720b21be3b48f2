"""Pictures that are read when their batch is made; until then an example holds their address or their bytes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from theworld_encoders import MediaError, decode_image, load_image
from theworld_encoders.images import URLS
from theworld_fusion.processing_theworld import load_picture


@dataclass(frozen=True, slots=True, eq=False)
class LazyPicture:
    """A picture, and how to read it; ``read`` raises ``MediaError`` where it cannot be.

    Two are equal that are read in the same way of the same.
    """

    read: Callable[[], Image.Image]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LazyPicture) and _made_of(self.read) == _made_of(other.read)

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # what it is made of may have none


def _made_of(read: Callable[[], Any]) -> Any:
    return (read.func, read.args, read.keywords) if isinstance(read, partial) else read


def packed_picture(picture: Any, name: str) -> Any:
    """A picture as parquet files hold it, ``{"bytes": ..., "path": ...}``, as one for a chat; others as they are.

    Raises:
        ValueError: the bytes are none.
    """
    if not isinstance(picture, dict):
        return picture
    content = picture.get("bytes")
    if content is not None:
        if not isinstance(content, bytes):
            raise ValueError(f"the bytes of a picture are {content!r:.60}. JSON has none: give a path or a data: URL.")
        return LazyPicture(partial(decode_image, content, name))
    return picture.get("path")


def fetch_picture(url: str) -> Image.Image:
    """The picture at an address, within the limits of ``theworld data fetch``, from public addresses only.

    Raises:
        MediaError: it cannot be fetched or decoded.
    """
    if url.startswith("data:"):  # it holds the picture itself
        return load_picture(url)
    from theworld_train.data.download import download  # its libraries take time, and few need them

    return decode_image(download(url), url)


def load_chat(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same chat with its pictures read; files stay paths, which the processor and the feature cache read.

    Raises:
        MediaError: one cannot be read.
    """
    return [
        {**message, "content": [_load_block(block) for block in message["content"]]}
        if isinstance(message["content"], list)
        else message
        for message in messages
    ]


def inside(folder: Path, name: str) -> Path:
    """The file ``name`` of a folder.

    Raises:
        MediaError: the name leads out of the folder.
    """
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise MediaError(f"The name {name!r} leads out of the folder {str(folder)!r}. Name a file inside it.")
    return path


def _load_block(block: dict[str, Any]) -> dict[str, Any]:
    kind = block["type"]
    if kind not in ("image", "video"):
        return block
    value = next((block[key] for key in (kind, "path", "url") if block.get(key) is not None), None)
    if value is None:
        raise MediaError(f'A block of type "{kind}" names no {kind}. Give it a "{kind}".')
    if kind == "video" and (isinstance(value, LazyPicture) or (isinstance(value, str) and value.startswith(URLS))):
        raise MediaError("A clip is given by its URL or its bytes. Give the path of a file, or a list of frames.")
    if kind == "video" and not isinstance(value, str | Path):
        return {"type": kind, kind: [_load_frame(frame) for frame in value]}
    return {"type": kind, kind: _load(value)}


def _load(value: Any) -> Any:
    if isinstance(value, LazyPicture):
        return value.read()
    return fetch_picture(value) if isinstance(value, str) and value.startswith(URLS) else value


def _load_frame(value: Any) -> Any:
    frame = _load(value)
    return load_image(frame) if isinstance(frame, str | Path) else frame
