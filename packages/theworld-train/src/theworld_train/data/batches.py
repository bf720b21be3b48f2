"""Endless training batches that go on exactly where a run stopped, whatever was prefetched."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from theworld_fusion import TheWorldProcessor
from theworld_train.data.cursor import Share, grouped_by_picture
from theworld_train.data.example import digest
from theworld_train.data.lane import Lane
from theworld_train.data.maker import BatchMaker
from theworld_train.data.packing import row_limit
from theworld_train.data.sources import open_source
from theworld_train.errors import UsageError
from theworld_train.recipe import BatchSettings, DataSettings

Position = dict[str, Any]
"""Plain values, as JSON has them: how many batches were taken, and from where each worker goes on."""


class Batches(IterableDataset[dict[str, Any]]):
    """One rank's batches, pass after pass over the data, each in another order; no global random state is touched.

    The data are dealt out to ``ranks`` times ``workers`` workers, which make a rank's batches in turn: after ``n``
    batches it is the turn of worker ``n % workers``, in whatever process. So a new run goes on with any batch, once it
    knows where every worker was; each batch says where its own is, and ``merge`` keeps the newest of each.

    A batch is a dict: ``inputs`` (as ``Collator`` gives them), ``keys`` of its examples, ``skipped`` (``key`` and
    ``reason`` of what was left out since the worker's last batch), ``cache_misses`` (features that are not in
    ``data.cache`` and ``data.vision_cache``; where one is missing, the whole batch has pixels for its encoder),
    ``position``. From another process than the one that
    iterates, a ``UsageError`` comes as ``{"error": ...}``; ``load`` raises it.
    """

    def __init__(
        self,
        data: DataSettings,
        batch: BatchSettings,
        processor: TheWorldProcessor,
        *,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        world: Literal["on", "off"] = "on",
        encoder_key: str | None = None,
        vision_key: str | None = None,
        start: Position | None = None,
    ) -> None:
        """Open the sources.

        Args:
            rank, ranks: which process of a distributed run this is.
            encoder_key: of the encoder whose features ``data.cache`` holds; see ``theworld_encoders.features``.
            vision_key: of the vision tower whose features ``data.vision_cache`` holds; see ``theworld_train.vision``.
            start: of the last batch that the run to go on with has used, on this rank, merged with all before it.

        Raises:
            UsageError: a source cannot be opened, settings exclude each other, or ``start`` is of other data.
        """
        _check(batch, data)
        self.workers = data.workers
        self._lanes = max(1, data.workers)
        self._data, self._batch, self._seed, self._rank, self._ranks = data, batch, seed, rank, ranks
        self._sources = [open_source(source, num_frames=processor.world_num_frames) for source in data.sources]
        if batch.packing == "shared_prefix":
            self._sources = [grouped_by_picture(source) for source in self._sources]
        keys = {"encoder_key": encoder_key, "vision_key": vision_key}
        self._make = BatchMaker(data, processor, batch=batch, world=world, **keys)
        self._order = self._digest(world)
        self.start = start or {"order": self._order, "batches": 0, "lanes": {}}
        if self.start["order"] != self._order:
            raise UsageError(
                "the saved position is of another order: sources, shuffle, holdout, workers, batch size, seed, world "
                "or the number of processes differ. Set them as they were to go on with the run, or start a new one."
            )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches without end.

        Raises:
            UsageError: a row cannot be used and is not to be skipped, or no row can; or there are other processes than
                ``data.workers``.
        """
        info = get_worker_info()
        if info is None:
            yield from self._batches(0, 1)
            return
        try:
            yield from self._batches(info.id, info.num_workers)
        except UsageError as error:  # a DataLoader would bury it in the trace of another process
            yield {"error": str(error)}

    def _batches(self, process: int, processes: int) -> Iterator[dict[str, Any]]:
        if processes != self._lanes:
            raise UsageError(f"{processes} processes make batches, and data.workers is {self.workers}. Use as many.")
        number = self.start["batches"] + process
        role = str(number % self._lanes)
        share = Share(
            number=self._rank * self._lanes + int(role),
            of=self._ranks * self._lanes,
            seed=self._seed,
            shuffled=self._data.shuffle > 1,
        )
        state = self.start["lanes"].get(role)
        lane = Lane(self._sources, self._data, self._batch, share, self._make.outline, state)
        skipped, passes = list[dict[str, str]](), lane.passes
        for plan in lane.plans():
            made = self._make(plan.draws)
            skipped += made.skipped
            if made.keys:
                position = {"order": self._order, "batches": number + 1, "lanes": {role: plan.state}}
                yield {
                    "inputs": made.inputs,
                    "keys": made.keys,
                    "skipped": skipped,
                    "cache_misses": made.cache_misses,
                    "position": position,
                }
                skipped, passes, number = [], lane.passes, number + self._lanes
            elif lane.finished_passes > passes + 1:
                why = f"the last one skipped: {skipped[-1]['reason']}" if skipped else "all rows are held out."
                raise UsageError(f"two passes over the data gave no batch; {why}")

    def _digest(self, world: str) -> str:
        """Of all that the order depends on, and nothing else: policies and folders of features may change in a run."""
        data = self._data.model_dump(mode="json", include={"sources", "shuffle", "holdout", "workers"})
        batch = self._batch.model_dump(mode="json", include={"size", "tokens", "group_by_length", "packing"})
        if self._batch.packing != "none":
            batch["row_limit"] = row_limit(self._batch, self._data)
        return digest(data | {"workers": self._lanes}, batch, self._seed, self._rank, self._ranks, world)


def merge(position: Position | None, newer: Position) -> Position:
    """Where a run is once it has used the batch of ``newer``: every worker's newest state."""
    lanes = {} if position is None else position["lanes"]
    return {**newer, "lanes": {**lanes, **newer["lanes"]}}


def load(batches: Batches, **options: Any) -> Iterator[dict[str, Any]]:
    """The batches, made by ``data.workers`` processes ahead of time; ``position`` is all that a new run needs.

    Args:
        options: of ``torch.utils.data.DataLoader``, such as ``prefetch_factor`` or ``pin_memory``.

    Raises:
        UsageError: as ``Batches`` does, wherever it happened.
    """
    loader = DataLoader(
        batches,
        batch_size=None,
        num_workers=batches.workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # without one it draws from the global state
        **options,
    )
    position = batches.start
    for batch in loader:
        if "error" in batch:
            raise UsageError(batch["error"])
        position = merge(position, batch["position"])
        yield {**batch, "position": position}


def _as_it_is(batch: Any) -> Any:
    return batch


def _check(batch: BatchSettings, data: DataSettings) -> None:
    if (batch.size is None) == (batch.tokens is None):
        raise UsageError(f"batch.size is {batch.size} and batch.tokens {batch.tokens}. Give one of the two.")
    if batch.group_by_length and data.shuffle <= (batch.size or 1):
        raise UsageError(
            f"batch.group_by_length groups {data.shuffle} rows at a time (data.shuffle) into batches of "
            f"{batch.size or 'some'}. Raise data.shuffle."
        )
