"""The pictures and clips that a folder, a JSONL file or a chat names."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from theworld_encoders import MediaError, VideoFile
from theworld_encoders.images import URLS
from theworld_encoders.source import Source
from theworld_train.errors import UsageError

PICTURES = frozenset({".avif", ".bmp", ".gif", ".heic", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
CLIPS = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv"})


@dataclass(frozen=True, slots=True)
class Medium:
    """A picture or a clip, as it was named.

    Attributes:
        label: what people know it by.
        kind: ``image`` or ``video``; with ``unreadable``, ``value`` says why.
        value: a path, a URL, or the thing itself.
    """

    label: str
    kind: str
    value: Any

    def source(self, num_frames: int) -> Source:
        """What an encoder's features are made of; ``num_frames`` are taken of a video file.

        Raises:
            MediaError: the line that should have named it cannot be read, or its URL.
        """
        if self.kind == "unreadable":
            raise MediaError(self.value)
        if self.kind == "video":
            return VideoFile(Path(self.value), num_frames) if isinstance(self.value, str | Path) else list(self.value)
        if isinstance(self.value, str) and self.value.startswith(URLS):
            from theworld_fusion.picture import load_picture  # it takes seconds, and few need it

            return load_picture(self.value)
        return Path(self.value) if isinstance(self.value, str) else self.value


def media_of_chat(messages: Sequence[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Kind and value of every picture and clip of a chat, in order."""
    for message in messages:
        for block in message["content"] if isinstance(message.get("content"), list) else ():
            if isinstance(block, dict) and block.get("type") in ("image", "video"):
                values = (block.get(key) for key in (block["type"], "path", "url"))
                value = next((value for value in values if value is not None), None)
                if value is not None:
                    yield block["type"], value


def find_media(data: Path) -> list[Medium]:
    """Every picture and clip under a folder, or named by a JSONL file, each once, always in the same order.

    Raises:
        UsageError: there are none.
    """
    media = list(_of_folder(data) if data.is_dir() else _of_lines(data))
    if not media:
        known = ", ".join(sorted(PICTURES | CLIPS)) if data.is_dir() else 'lines with "image", "video" or "messages"'
        raise UsageError(f"{data} names no picture and no clip. Give a folder or JSONL file with some ({known}).")
    return list({(medium.kind, str(medium.value)): medium for medium in media}.values())


def _of_folder(folder: Path) -> Iterator[Medium]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in PICTURES | CLIPS:
            yield Medium(str(path), "image" if path.suffix.lower() in PICTURES else "video", path)


def _of_lines(file: Path) -> Iterator[Medium]:
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        label = f"{file}:{number}"
        try:
            entry = json.loads(line) if line.strip() else {}
            found = [(kind, entry[kind]) for kind in ("image", "video") if kind in entry]
            found += media_of_chat(entry.get("messages", ()))
        except (ValueError, TypeError, AttributeError) as error:
            yield Medium(
                label, "unreadable", f"The line {label} is no example ({error}). Write one JSON object a line."
            )
            continue
        for kind, value in found:
            if isinstance(value, str) and not value.startswith(URLS):
                yield Medium(str(file.parent / value), kind, file.parent / value)
            else:
                yield Medium(label, kind, value)
