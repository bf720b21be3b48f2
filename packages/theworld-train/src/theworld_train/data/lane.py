"""Which rows make a worker's batches, and in what order: a pure function of settings, seed and the worker's number."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from theworld_train.data.cursor import Cursor, Share, State, cursor
from theworld_train.data.packing import Outline, Rows, row_limit
from theworld_train.data.source import UNUSABLE, Draw, OpenSource
from theworld_train.recipe import BatchSettings, DataSettings

_MIXTURE, _SHUFFLING, _GROUPING = 1, 2, 3
"""What a generator is for; ``cursor`` has more."""

Look = Callable[[Draw], Outline]


@dataclass(frozen=True, slots=True)
class Plan:
    """The rows of one batch, and the state from which the batch behind it is planned; there may be no rows."""

    draws: list[Draw]
    state: State


class Lane:
    """The endless plan of one worker. Rows are drawn, shuffled and grouped in blocks, so a state is small.

    It holds where the block began, and how much of it was used; going on reads the block's rows once more.
    """

    def __init__(
        self,
        sources: Sequence[OpenSource],
        data: DataSettings,
        batch: BatchSettings,
        share: Share,
        look: Look,
        state: State | None = None,
    ) -> None:
        """Go on from ``state``, or start.

        Args:
            look: gives the outline of a row's conversation.

        Raises:
            UsageError: a source has no rows, or others than when the state was taken.
        """
        self._sources, self._data, self._batch, self._share, self._look = sources, data, batch, share, look
        weights = np.array([source.weight for source in sources])
        self._weights = weights / weights.sum()
        self._block, self._used = (0, 0) if state is None else (state["block"], state["used"])
        starts = [None] * len(sources) if state is None else state["sources"]
        self._draws: list[Draw] = []
        self._start: list[State] = []
        self.finished_passes = 0
        """As ``passes``, without that block: small data sets come many times in one."""
        self._cursors: list[Cursor] = [
            cursor(source, number, share, start)
            for number, (source, start) in enumerate(zip(sources, starts, strict=True))
        ]

    @property
    def passes(self) -> int:
        """How often the slowest source was gone through, the whole block of the last plan included."""
        return min(cursor.passes for cursor in self._cursors)

    def plans(self) -> Iterator[Plan]:
        """Batches without end. Where all of a block is held out there is a plan with no rows."""
        self._read_block()
        return self._grouped() if self._batch.group_by_length else self._in_order()

    def _in_order(self) -> Iterator[Plan]:
        """Batches across the borders of blocks, so that all are full."""
        while True:
            chosen, rows = list[Draw](), Rows(self._batch.packing, row_limit(self._batch, self._data))
            while len(chosen) != self._batch.size:
                if self._used == len(self._draws):
                    self._block, self._used = self._block + 1, 0
                    self._read_block()
                if not self._draws:
                    if chosen:
                        continue
                    break
                draw = self._draws[self._used]
                if self._batch.tokens is not None:
                    rows.add(self._look(draw))
                    if chosen and rows.padded > self._batch.tokens:
                        break
                chosen.append(draw)
                self._used += 1
            yield self._plan(chosen)

    def _grouped(self) -> Iterator[Plan]:
        """Batches of about one length, inside a block; the block's last one may be small."""
        while True:
            lengths = [self._look(draw).tokens for draw in self._draws]
            batches = list[list[int]]()
            for number in sorted(range(len(lengths)), key=lengths.__getitem__):  # each is the longest so far
                last = batches[-1] if batches else []
                if last and len(last) != self._batch.size and self._fits(len(last) + 1, lengths[number]):
                    last.append(number)
                else:
                    batches.append([number])
            order = self._generator(_GROUPING).permutation(len(batches))
            for place in order[self._used :]:
                self._used += 1
                yield self._plan([self._draws[number] for number in batches[place]])
            if not batches:
                yield self._plan([])
            self._block, self._used = self._block + 1, 0
            self._read_block()

    def _fits(self, rows: int, longest: int) -> bool:
        return self._batch.tokens is None or rows * longest <= self._batch.tokens

    def _plan(self, draws: list[Draw]) -> Plan:
        return Plan(draws, {"block": self._block, "used": self._used, "sources": self._start})

    def _read_block(self) -> None:
        """Draw the block's rows from the sources in the proportion of their weights, and shuffle them."""
        self._start, self.finished_passes = [cursor.state() for cursor in self._cursors], self.passes
        size = self._data.shuffle
        chosen = self._generator(_MIXTURE).choice(len(self._cursors), size, p=self._weights)
        draws = [self._cursors[number].draw() for number in chosen]
        if self._share.shuffled:
            draws = [draws[number] for number in self._generator(_SHUFFLING).permutation(size)]
        draws = [draw for draw in draws if not self._held_out(draw)]
        self._draws = _gathered(draws) if self._batch.packing == "shared_prefix" else draws

    def _held_out(self, draw: Draw) -> bool:
        if not self._data.holdout:
            return False
        try:
            return draw.example().is_held_out(self._data.holdout)
        except UNUSABLE:  # its batch will say why
            return False

    def _generator(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng((purpose, self._share.seed, self._share.number, self._block))


def _gathered(draws: Sequence[Draw]) -> list[Draw]:
    """The rows about a picture behind the first of them."""
    groups: dict[Any, list[Draw]] = {}
    for number, draw in enumerate(draws):
        groups.setdefault(draw.group() or number, []).append(draw)
    return list(chain.from_iterable(groups.values()))
