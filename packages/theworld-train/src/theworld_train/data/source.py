"""A data set that is open: its rows, and how a row becomes an example."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import datasets
from jinja2 import TemplateError

from theworld_train.data.example import Example
from theworld_train.data.rows import Table
from theworld_train.recipe import Source

UNUSABLE = (ValueError, OSError, TemplateError)
"""What a row raises that is no example, or whose picture, clip or conversation cannot be used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenSource:
    """Rows by number, or a stream of them in ``datasets``' ``arrow`` format.

    Attributes:
        name: what errors call it.
        weight: its share, relative to the other sources'.
        limit: how many of its rows count.
        to_example: makes an example of a row, reading no picture; raises ``ValueError`` where it is none.
        by_picture: numbers of rows, those about the same picture together; ``None``: each row is dealt out alone.
    """

    name: str
    weight: float
    limit: int | None
    rows: Sequence[Any] | datasets.IterableDataset
    to_example: Callable[[Any], Example]
    by_picture: Sequence[Sequence[int]] | None = None

    @classmethod
    def of(cls, source: Source, table: Table, to_example: Callable[[dict[str, Any]], Example]) -> Self:
        """A table that was opened for ``source``."""
        return cls(
            name=table.name,
            weight=source.weight,
            limit=source.limit,
            rows=table.rows,
            to_example=_Decoding(table, to_example),
        )

    @property
    def number_of_rows(self) -> int:
        """Of one that is no stream."""
        if isinstance(self.rows, datasets.IterableDataset):
            raise TypeError(f"{self.name} is a stream: nobody knows how long.")
        return len(self.rows) if self.limit is None else min(self.limit, len(self.rows))


@dataclass(frozen=True, slots=True)
class _Decoding:
    table: Table
    to_example: Callable[[dict[str, Any]], Example]

    def __call__(self, row: dict[str, Any]) -> Example:
        return self.to_example(self.table.decode(row))


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """A row that was drawn. Rows by number are read only when they are needed, a stream's are kept, undecoded.

    Attributes:
        place: what errors call it.
        number: of a row by number.
        row: of a stream.
    """

    source: OpenSource
    place: str
    number: int | None = None
    row: Any = None

    def group(self) -> str | None:
        """Its example's, ``None`` where it is none."""
        try:
            return self.example().group
        except UNUSABLE:
            return None

    def example(self) -> Example:
        """Its example.

        Raises:
            ValueError: it is none.
        """
        rows: Any = self.source.rows
        return self.source.to_example(self.row if self.number is None else rows[self.number])
