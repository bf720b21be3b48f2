"""What the published benchmarks' rows have in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from PIL import Image

from theworld_encoders import load_image
from theworld_train.data.example import digest
from theworld_train.data.lazy import LazyPicture, packed_picture
from theworld_train.data.rows import Table
from theworld_train.errors import UsageError
from theworld_train.evaluate.task import Item, Score


@dataclass(frozen=True, slots=True)
class RowPicture:
    """A picture in a table's row; its bytes are read when it is, so that items hold none."""

    table: Table
    number: int
    column: str

    def identity(self) -> str | None:
        """Digest of its bytes, or of its name where the row holds that alone; ``None`` where there is no picture."""
        packed = self._packed()
        if packed is None:
            return None
        return digest(packed["bytes"] if packed.get("bytes") is not None else packed.get("path"))

    def read(self) -> Image.Image:
        """Decode it.

        Raises:
            MediaError: it cannot be read.
        """
        picture = packed_picture(self._packed(), f"{self.column} of row {self.number} of {self.table.name}")
        return picture.read() if isinstance(picture, LazyPicture) else load_image(self.table.folder / picture)

    def _packed(self) -> dict[str, Any] | None:
        return row_of(self.table, self.number).get(self.column)


def lazily(picture: RowPicture) -> LazyPicture:
    """As a chat's block holds it."""
    return LazyPicture(partial(RowPicture.read, picture))


def numbered(table: Table) -> Iterator[dict[str, Any]]:
    """The rows of a table, which is none that is streamed, one at a time: they may hold pictures."""
    rows: Any = table.rows
    return (row_of(table, number) for number in range(len(rows)))


def row_of(table: Table, number: int) -> dict[str, Any]:
    """One of them."""
    rows: Any = table.rows
    return table.decode(rows[number])


class Published(ABC):
    """A benchmark whose rows are read once, when its items are first asked for."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What reports call it."""

    @abstractmethod
    def _read(self) -> list[Item]:
        """All items, in the order of the rows.

        Raises:
            UsageError: there is nothing that can be opened, or a row is not as published.
        """

    @property
    def fingerprint(self) -> str:
        """Digest of who the items are, what is asked, shown and wanted; pictures count by their item's group."""
        return digest(
            self.name,
            [
                [item.key, item.family, item.group, item.answer, list(item.choices), text_of(item), dict(item.facts)]
                for item in self.items()
            ],
        )

    def items(self) -> Sequence[Item]:
        """All of them, always in one order.

        Raises:
            UsageError: there is nothing that can be opened, a row is not as published, or two share a key.
        """
        return self._items

    @cached_property
    def _items(self) -> list[Item]:
        items = self._read()
        if not items:
            raise UsageError(f"{self.name} has no items. Check its path and split.")
        seen = set[str]()
        for item in items:
            if item.key in seen:
                raise UsageError(f"two items of {self.name} have the key {item.key!r}. Give each row once.")
            seen.add(item.key)
        return items


def text_of(item: Item) -> str:
    """The item's question: all text of its messages."""
    blocks = [
        block
        for message in item.messages
        for block in (
            [{"type": "text", "text": message["content"]}]
            if isinstance(message["content"], str)
            else message["content"]
        )
    ]
    return "\n".join(block["text"] for block in blocks if block["type"] == "text")


def outcome(said: object, wanted: object, parsed: str | None = None) -> Score:
    """Right or wrong where something was said, ``None`` where nothing was."""
    if said is None:
        return Score(value=None)
    return Score(value=float(said == wanted), parsed=str(said) if parsed is None else parsed)
