"""The job behind ``theworld data fetch``: every URL of a list downloaded once, many at a time, in order on disk."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from theworld_train.data.address import is_public
from theworld_train.data.download import Downloader, Limits
from theworld_train.data.fetch_folder import Block, FetchFolder
from theworld_train.data.url_list import open_list
from theworld_train.errors import UsageError
from theworld_train.jobs import Report
from theworld_train.processes import ALONE, Rank

T = TypeVar("T")

_OPEN_BLOCKS = 3
"""Blocks that are not committed: while one waits for its slowest URLs, the next ones go on."""
_AHEAD = 16
"""URLs under way for each connection: most wait for the turn of a busy host, or for another try."""


def fetch(
    urls: str,
    out: Path,
    *,
    limits: Limits,
    report: Report,
    url_column: str = "url",
    text_column: str = "text",
    split: str = "train",
    shard_size: int = 10_000,
    retry_failed: bool = False,
    allow: Callable[[str], bool] = is_public,
    rank: Rank = ALONE,
) -> Counter[str]:
    """Download every URL of a list that the folder has no outcome of yet.

    The list is cut into blocks of ``shard_size`` rows. A block becomes one shard, with its pictures in the order of the
    list, and one manifest, with the outcome of each row; both count from one moment on, and a block that counts is not
    looked at again. A URL that a block has several times is downloaded once, and every row gets the picture.

    Several processes deal the blocks out among them, into one folder; afterwards it is that of one process.

    Args:
        urls: a list, as ``url_list.open_list`` takes it.
        out: a new folder, or that of an earlier fetch with the same list, columns and ``shard_size``.
        limits: what one URL may cost.
        report: is told how many rows of those that were left are done, of this process's.
        url_column, text_column: of the list; without a text, the latter is empty.
        split: of a data set of the hub.
        retry_failed: also try again what failed before for a reason that may pass.
        allow: whether a numeric address may be connected to.
        rank: which process this is of how many.

    Returns:
        Rows of this process's blocks by outcome, those of earlier runs included.

    Raises:
        UsageError: the list or the folder cannot be used as they are asked for.
    """
    with FetchFolder(out, rank) as folder:
        source = open_list(urls, split=split, recorded=(folder.job or {}).get("list"))
        blocks = source.blocks(shard_size, url_column=url_column, text_column=text_column)
        first = next(blocks, None)
        if first is None:
            raise UsageError(f"{urls} has no rows. Give a list with some.")
        folder.begin(
            {
                "version": 1,
                "list": source.identity,
                "url_column": url_column,
                "text_column": text_column,
                "shard_size": shard_size,
            }
        )
        progress = _Progress(report, None if source.total is None else _rows(source.total, shard_size, rank))
        tables = ((n, table) for n, table in enumerate(itertools.chain([first], blocks)) if rank.has(n))
        job = _Job(folder, tables, limits, allow, progress, retry_failed=retry_failed)
        try:
            asyncio.run(job.run(shard_size))
        except ExceptionGroup as group:
            raise _first(group) from group
        return sum(folder.outcomes.values(), Counter())


def _rows(total: int, shard_size: int, rank: Rank) -> int:
    """How many of so many rows are in the blocks of one process."""
    starts = range(rank.number * shard_size, total, rank.of * shard_size)
    return sum(min(shard_size, total - start) for start in starts)


class _Progress:
    """Counts rows for the bar; what earlier runs did is no progress, and would spoil the estimate."""

    def __init__(self, report: Report, total: int | None) -> None:
        self._report = report
        self._left = total
        self._done = 0
        self._kept = 0

    def skip(self, rows: int) -> None:
        self._left = None if self._left is None else self._left - rows
        self._tell()

    def count(self, rows: int, outcome: str) -> None:
        self._done += rows
        self._kept += rows if outcome == "ok" else 0
        self._tell()

    def _tell(self) -> None:
        self._report(self._done, self._left, f"{self._kept:,} kept, {self._done - self._kept:,} dead")


class _Job:
    """One run of a fetch over the blocks of a list."""

    def __init__(
        self,
        folder: FetchFolder,
        tables: Iterator[tuple[int, pa.Table]],
        limits: Limits,
        allow: Callable[[str], bool],
        progress: _Progress,
        *,
        retry_failed: bool,
    ) -> None:
        self._folder = folder
        self._tables = tables
        self._limits = limits
        self._allow = allow
        self._progress = progress
        self._retry_failed = retry_failed
        self._open_blocks = asyncio.Semaphore(_OPEN_BLOCKS)
        self._under_way = asyncio.Semaphore(_AHEAD * limits.connections)

    async def run(self, shard_size: int) -> None:
        with ThreadPoolExecutor(1, thread_name_prefix="shards") as writer:
            async with Downloader(self._limits, allow=self._allow) as downloader, asyncio.TaskGroup() as tasks:
                while True:
                    await self._open_blocks.acquire()
                    block = await _in(writer, self._next_block, shard_size)
                    if block is None:
                        break
                    downloads = []
                    for url in block.open:
                        await self._under_way.acquire()
                        downloads.append(tasks.create_task(self._download(downloader, block, url)))
                    tasks.create_task(self._finish(writer, block, downloads))

    def _next_block(self, shard_size: int) -> Block | None:
        """The next one of which something is to be fetched."""
        for index, table in self._tables:
            committed = index in self._folder.outcomes
            if not committed or self._retry_failed:
                earlier = self._folder.manifest(index) if committed else None
                block = Block(index, index * shard_size, table, self._folder.folder, earlier)
                if block.open:
                    self._progress.skip(table.num_rows - sum(map(len, block.open.values())))
                    return block
                block.close()
            self._progress.skip(table.num_rows)
        return None

    async def _download(self, downloader: Downloader, block: Block, url: str | None) -> None:
        try:
            block.downloads[url] = found = await downloader.fetch(url, partial(block.keep, url))
            self._progress.count(len(block.open[url]), found.outcome)
        finally:
            self._under_way.release()

    async def _finish(self, writer: ThreadPoolExecutor, block: Block, downloads: list[asyncio.Task[None]]) -> None:
        await asyncio.gather(*downloads)
        await _in(writer, self._folder.commit, block)
        self._open_blocks.release()


async def _in(thread: ThreadPoolExecutor, function: Callable[..., T], *args: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(thread, function, *args)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of the errors that ended a job, the one that came first."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
