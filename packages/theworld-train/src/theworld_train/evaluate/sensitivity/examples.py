"""Conversations to measure: from a file, from a benchmark, or one question about a picture or clip."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from theworld_train.answer import Media
from theworld_train.data import Example
from theworld_train.data.chat import open_chat
from theworld_train.data.source import UNUSABLE
from theworld_train.errors import UsageError
from theworld_train.evaluate.task import Task
from theworld_train.recipe import ChatSource


def of_file(path: Path, limit: int) -> list[Example]:
    """The first conversations of a JSONL or parquet file.

    Raises:
        UsageError: it cannot be opened, or one of its rows is no conversation.
    """
    source = open_chat(ChatSource(kind="chat", path=str(path)))
    rows: Any = source.rows  # by number: it is no stream
    found = []
    for number in range(min(limit, source.number_of_rows)):
        try:
            found.append(source.to_example(rows[number]))
        except UNUSABLE as error:
            raise UsageError(f"row {number} of {path} is no conversation ({error}) Mend it or leave it out.") from error
    return found


def of_task(task: Task, limit: int) -> list[Example]:
    """At most ``limit`` items from all over a benchmark, with the answers that it wants."""
    items = task.items()
    places = sorted({number * len(items) // limit for number in range(limit)}) if limit < len(items) else None
    return [
        Example(
            messages=[*item.messages, {"role": "assistant", "content": item.answer}], key=item.key, group=item.group
        )
        for item in (items if places is None else (items[place] for place in places))
    ]


def of_media(media: Media, question: str, answer: str | None) -> list[Example]:
    """One question about pictures and clips; without an answer it gets the model's own."""
    blocks = [{"type": "image", "image": image} for image in media.images]
    blocks += [{"type": "video", "video": clip.frames} for clip in media.videos]
    turns: Sequence[dict] = [{"role": "user", "content": [*blocks, {"type": "text", "text": question}]}]
    given = [] if answer is None else [{"role": "assistant", "content": answer}]
    return [Example(messages=[*turns, *given], key="question", group="question")]
