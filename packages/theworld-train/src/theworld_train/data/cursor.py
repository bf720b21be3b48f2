"""Where one worker is in one source: it takes its own rows, pass after pass, and can go on from its state."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import datasets
import numpy as np
from datasets.distributed import split_dataset_by_node

from theworld_train.data.rows import stream_rows
from theworld_train.data.source import Draw, OpenSource
from theworld_train.errors import UsageError

_ORDER, _FILES = 4, 5
"""What a generator is for; ``lane`` has more."""

State = dict[str, Any]
"""Plain values, as JSON has them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Which worker this is, counted over all processes, and of how many; and the seed that all have in common."""

    number: int
    of: int
    seed: int
    shuffled: bool


class Cursor(ABC):
    """The rows of one source that fall to one worker, without end: every pass has another order."""

    @abstractmethod
    def draw(self) -> Draw:
        """The next row."""

    @abstractmethod
    def state(self) -> State:
        """What a new cursor goes on from, with the row after the last one drawn."""

    @property
    @abstractmethod
    def passes(self) -> int:
        """How often as many rows were drawn as would make the whole source, or the worker's part of a stream."""


def cursor(source: OpenSource, number: int, share: Share, state: State | None) -> Cursor:
    """The cursor of the recipe's ``number``-th source.

    Raises:
        UsageError: the source has no rows, or others than when the state was taken.
    """
    kind = _StreamCursor if isinstance(source.rows, datasets.IterableDataset) else _NumberCursor
    return kind(source, number, share, state)


def order_of_pass(number: int, *seed: int) -> np.ndarray:
    """A permutation of so many rows; the same seed gives the same."""
    return np.random.default_rng((_ORDER, *seed)).permutation(number)


def grouped_by_picture(source: OpenSource) -> OpenSource:
    """The source with its rows dealt out picture by picture. All rows are read once, their pictures are not.

    A stream stays as it is: what stands together in its files comes together.
    """
    if isinstance(source.rows, datasets.IterableDataset):
        return source
    groups: dict[Any, list[int]] = {}
    for number in range(source.number_of_rows):
        groups.setdefault(numbered(source, number).group() or number, []).append(number)
    return replace(source, by_picture=tuple(groups.values()))


@final
class _NumberCursor(Cursor):
    """Of rows by number: the passes of all workers, one after the other, are dealt out like cards.

    A card is a row, or all rows about a picture, where the source knows which those are.
    """

    def __init__(self, source: OpenSource, number: int, share: Share, state: State | None) -> None:
        self._source, self._number, self._share = source, number, share
        self._rows = source.number_of_rows
        if not self._rows:
            raise UsageError(f"{source.name} has no rows. Check the path, or take it out of the recipe.")
        if state is not None and state["rows"] != self._rows:
            raise UsageError(
                f"{source.name} has {self._rows} rows, and had {state['rows']} when the run was saved. "
                "Give it the same rows to go on, or start anew."
            )
        self._cards = self._rows if source.by_picture is None else len(source.by_picture)
        self._order: tuple[int, np.ndarray | range] = (-1, range(0))
        self._taken, left = (0, 0) if state is None else (state["taken"], state["left"])
        self._left = list(self._card(self._taken - 1))[-left:] if left else []

    def draw(self) -> Draw:
        if not self._left:
            self._left = list(self._card(self._taken))
            self._taken += 1
        return numbered(self._source, self._left.pop(0))

    def state(self) -> State:
        return {"rows": self._rows, "taken": self._taken, "left": len(self._left)}

    @property
    def passes(self) -> int:
        return self._taken // max(self._cards, 64)  # few rows among many workers: one may get the same again and again

    def _card(self, number: int) -> Sequence[int]:
        """The rows of the worker's ``number``-th card."""
        turn, place = divmod(self._share.number + number * self._share.of, self._cards)
        if self._order[0] != turn:
            seed = (self._share.seed, self._number, turn)
            self._order = turn, order_of_pass(self._cards, *seed) if self._share.shuffled else range(self._cards)
        card = int(self._order[1][place])
        return (card,) if self._source.by_picture is None else self._source.by_picture[card]


@final
class _StreamCursor(Cursor):
    """Of a stream: each worker reads its own files, or every n-th row where the files cannot be shared out evenly."""

    def __init__(self, source: OpenSource, number: int, share: Share, state: State | None) -> None:
        self._source, self._number, self._share = source, number, share
        self._pass, reader = (0, None) if state is None else (state["pass"], state["reader"])
        self._begin(reader)

    def draw(self) -> Draw:
        for _ in range(2):
            row = next(self._rows, None)
            if row is not None:
                self._drawn = True
                return Draw(source=self._source, place=f"{self._source.name}: {_excerpt(row)}", row=row)
            self._pass += 1
            self._begin(None)
        raise UsageError(
            f"{self._source.name} has no rows for worker {self._share.number} of {self._share.of}. "
            "Use fewer workers or processes, more rows, or stream: false."
        )

    def state(self) -> State:
        # Before its first row, a table gives no state, not even the one that was loaded into it.
        return {"pass": self._pass, "reader": self._table.state_dict() if self._drawn else self._reader}

    @property
    def passes(self) -> int:
        return self._pass

    def _begin(self, reader: State | None) -> None:
        """Open this pass's table, and go on behind what ``reader`` has read of it."""
        self._table, self._reader, self._drawn = self._opened(), reader, False
        if reader is not None:
            self._table.load_state_dict(reader)
        self._rows = stream_rows(self._table, self._source.name)

    def _opened(self) -> datasets.IterableDataset:
        table, share, limit = self._source.rows, self._share, self._source.limit
        if not isinstance(table, datasets.IterableDataset):
            raise TypeError(f"{self._source.name} is no stream.")
        table = table if limit is None else table.take(limit)
        strategy = "auto" if limit is None else "examples"
        table = split_dataset_by_node(table, share.number, share.of, strategy=strategy)
        if share.shuffled:  # the order of the files comes of this number, which must not be 0
            seed = np.random.SeedSequence((_FILES, share.seed, self._number, self._pass))
            table.set_epoch(int(seed.generate_state(1)[0]) // 2 + 1)
        return table


def numbered(source: OpenSource, number: int) -> Draw:
    """A row by number."""
    return Draw(source=source, place=f"row {number + 1} of {source.name}", number=number)


def _excerpt(row: dict[str, Any]) -> str:
    text = str({field: value for field, value in row.items() if isinstance(value, str | int | float)})
    return text if len(text) <= 120 else f"{text[:120]}…"
