"""Conversations of one's own: a row has ``messages``, as the ``messages`` of transformers' chat templates."""

from functools import partial
from pathlib import Path
from typing import Any

from theworld_encoders.images import URLS
from theworld_train.data.example import Example, digest
from theworld_train.data.lazy import LazyPicture, packed_picture
from theworld_train.data.rows import Table, open_table, parse_json
from theworld_train.data.source import OpenSource
from theworld_train.recipe import ChatSource

_ROLES = ("system", "user", "assistant")


def open_chat(source: ChatSource) -> OpenSource:
    """The rows of the source.

    Raises:
        UsageError: there is nothing that can be opened.
    """
    table = open_table(source.path, split=source.split, stream=source.stream)
    return OpenSource.of(source, table, partial(to_example, table))


def to_example(table: Table, row: dict[str, Any]) -> Example:
    """The conversation of a row. Relative paths start at the folder of the row's file.

    Raises:
        ValueError: it is no conversation.
    """
    messages = row.get("messages")
    if isinstance(messages, str):  # parquet files hold it as text where its parts differ in type
        messages = parse_json(messages)
    if not isinstance(messages, list) or not messages:
        raise ValueError('the row has no list of "messages".')
    # TRL's layout: blocks of type "image" without a picture take these in turn.
    if not isinstance(images := row.get("images") or [], list):
        raise ValueError(f'"images" is {images!r:.60}. Give a list of pictures.')
    pictures = list(images)
    media: list[Any] = []  # what they are known by
    chat = [_message(message, table, pictures, media) for message in messages]
    if pictures:
        raise ValueError(f"the row has {len(pictures)} images more than its messages have blocks for.")
    content = [[message["role"], _words(message["content"])] for message in chat]
    return Example(messages=chat, key=digest(content, media), group=digest(media[0] if media else content))


def _message(message: Any, table: Table, pictures: list[Any], media: list[Any]) -> dict[str, Any]:
    role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
    if role not in _ROLES or not isinstance(content, str | list):
        raise ValueError(f"a message has the role {role!r} and the content {content!r:.60}. Use {', '.join(_ROLES)}.")
    if isinstance(content, str):
        return {"role": role, "content": content}
    return {"role": role, "content": [_block(block, table, pictures, media) for block in content]}


def _block(block: Any, table: Table, pictures: list[Any], media: list[Any]) -> dict[str, Any]:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind == "text" and isinstance(block.get("text"), str):
        return {"type": kind, "text": block["text"]}
    if kind not in ("image", "video"):
        raise ValueError(f"a block is {block!r:.60}. Use the types text, image and video.")
    value = next((block[key] for key in (kind, "path", "url") if block.get(key) is not None), None)
    if value is None and kind == "image" and pictures:
        value = pictures.pop(0)
    if value is None:
        raise ValueError(f'a block of type "{kind}" names no {kind}.')
    media.append(_identity(value))
    frames = isinstance(value, list)
    return {"type": kind, kind: [_placed(frame, table) for frame in value] if frames else _placed(value, table)}


def _placed(value: Any, table: Table) -> str | LazyPicture:
    value = packed_picture(value, f"of {table.name}")
    if isinstance(value, str) and not value.startswith(URLS):
        return str(table.folder / Path(value))
    if not isinstance(value, str | LazyPicture):
        raise ValueError(f"a picture or clip is {value!r:.60}. Give a path, a URL or the bytes of a file.")
    return value


def _identity(value: Any) -> Any:
    """The bytes, or the name as the row has it: it does not change where the data are moved."""
    if isinstance(value, list):
        return [_identity(frame) for frame in value]
    if isinstance(value, dict):
        return value["bytes"] if value.get("bytes") is not None else value.get("path")
    return value


def _words(content: str | list[dict[str, Any]]) -> Any:
    return content if isinstance(content, str) else [block.get("text", block["type"]) for block in content]
