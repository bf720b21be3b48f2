"""Pictures that are read when their batch is made; until then an example holds their address or their bytes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from theworld_encoders import MediaError, decode_image, load_image
from theworld_encoders.images import URLS
from theworld_encoders.source import Source
from theworld_fusion.picture import load_picture
from theworld_fusion.processing_theworld import STAND_IN
from theworld_train.data.conversation import with_blocks
from theworld_train.data.example import Example
from theworld_train.media import Medium, media_of_chat


@dataclass(frozen=True, slots=True, eq=False)
class LazyPicture:
    """A picture, and how to read it. Two are equal that are read in the same way of the same.

    Attributes:
        read: raises ``MediaError`` where it cannot be.
        content: the bytes of its file, where there is one: features are known by them, without decoding; as ``read``.
    """

    read: Callable[[], Image.Image]
    content: Callable[[], bytes] | None = None

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
        return LazyPicture(partial(decode_image, content, name), content=partial(bytes, content))
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


def load_chat(messages: Sequence[dict[str, Any]], *, packed: bool = True) -> list[dict[str, Any]]:
    """The same chat with its pictures read; files stay paths, which the processor and the feature cache read.

    Args:
        packed: read pictures too whose file's bytes can be had.

    Raises:
        MediaError: one cannot be read.
    """
    return with_blocks(messages, lambda block: _load_block(block, packed))


def shown_chat(example: Example, world: Literal["on", "off"]) -> list[dict[str, Any]]:
    """Its chat for the processor: with what can be read without a file read, or where there are features of all
    pictures and clips, with a stand-in for each.

    Raises:
        MediaError: one cannot be read.
    """
    if example.needs_media(world):
        return load_chat(example.messages)
    return with_blocks(example.messages, _stand_in)


def sources_of(messages: Sequence[dict[str, Any]], num_frames: int) -> list[Source]:
    """What features of a chat's pictures and clips are made of and known by, in order; files are not decoded.

    Args:
        num_frames: that are taken of a video file.

    Raises:
        MediaError: one cannot be read.
    """
    media = media_of_chat(load_chat(messages, packed=False))
    return [
        value.content()
        if isinstance(value, LazyPicture) and value.content
        else Medium("", kind, value).source(num_frames)
        for kind, value in media
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


def _stand_in(block: dict[str, Any]) -> dict[str, Any]:
    return {"type": "image", "image": STAND_IN} if block["type"] in ("image", "video") else block


def _load_block(block: dict[str, Any], packed: bool) -> dict[str, Any]:
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
    if not packed and isinstance(value, LazyPicture) and value.content is not None:
        return block
    return {"type": kind, kind: _load(value)}


def _load(value: Any) -> Any:
    if isinstance(value, LazyPicture):
        return value.read()
    return fetch_picture(value) if isinstance(value, str) and value.startswith(URLS) else value


def _load_frame(value: Any) -> Any:
    frame = _load(value)
    return load_image(frame) if isinstance(frame, str | Path) else frame
