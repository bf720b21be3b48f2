"""The folder of a fetch: shards of pictures, manifests of outcomes, and one moment at which both count."""

import hashlib
import json
import os
import tempfile
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Self

import datasets
import filelock
import pyarrow as pa
import pyarrow.parquet as pq

from theworld_encoders.shard import sync
from theworld_train.data.download import Download, without_credentials
from theworld_train.errors import UsageError
from theworld_train.processes import Rank

_MANIFEST = pa.schema(
    [
        ("row", pa.int64()),
        ("key", pa.string()),
        ("url", pa.string()),
        ("outcome", pa.string()),
        ("message", pa.string()),
        ("transient", pa.bool_()),
        ("attempts", pa.int32()),
        ("status", pa.int32()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("format", pa.string()),
        ("content_type", pa.string()),
        ("shard", pa.string()),
    ]
)
_GROUP_BYTES = 16 << 20
_GROUP_ROWS = 1000
"""A row group of a shard is as large as one of these: it is what writers and readers hold in memory."""

_CARD = """---
configs:
- config_name: default
  data_files: shard-*.parquet
- config_name: manifest
  data_files: manifest-*.parquet
---
Pictures fetched by `theworld data fetch`, and a manifest with the outcome of every URL of the list.
"""


class Block:
    """Consecutive rows of the list: what becomes of them is one shard and one manifest.

    Args:
        index: which block of the list.
        start: its first row in the list.
        table: its rows, as ``UrlList.blocks`` has them.
        earlier: its manifest, where it was committed; then only what failed for a reason that may pass is open.
    """

    def __init__(
        self, index: int, start: int, table: pa.Table, folder: Path, earlier: list[dict[str, Any]] | None
    ) -> None:
        self.index = index
        self.start = start
        self.table = table
        self.earlier = earlier
        self.urls: list[str | None] = table["url"].to_pylist()
        self.open: dict[str | None, list[int]] = {}
        """Positions in the block of every URL that is to be fetched, each URL once."""
        for position, url in enumerate(self.urls):
            if earlier is None or earlier[position]["transient"]:
                self.open.setdefault(url, []).append(position)
        self.downloads: dict[str | None, Download] = {}
        self._places: dict[str | None, tuple[int, int]] = {}
        self._lock = threading.Lock()
        # Bodies arrive in any order and leave in the list's. The file has no name: it dies with the process.
        self._bodies = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._end = weakref.finalize(self, self._bodies.close)

    def keep(self, url: str | None, body: BinaryIO) -> None:
        """Store the bytes of a picture until the commit; callable from any thread."""
        with self._lock:
            begin = self._bodies.seek(0, os.SEEK_END)
            while chunk := body.read(1 << 20):
                self._bodies.write(chunk)
            self._places[url] = (begin, self._bodies.tell() - begin)

    def body(self, url: str | None) -> bytes:
        """What was kept."""
        begin, size = self._places[url]
        self._bodies.seek(begin)
        return self._bodies.read(size)

    def key(self, position: int) -> str:
        """An id of the row that no other row of the list has, made of its number and its URL."""
        return hashlib.sha256(f"{self.start + position}\n{self.urls[position]}".encode()).hexdigest()[:32]

    def close(self) -> None:
        """Let go of what was kept; so does the end of the block, when a job is broken off."""
        self._end()


class FetchFolder:
    """Where a fetch puts everything; a context manager that keeps processes of other fetches out.

    ``manifest-000000.parquet`` commits a block of the list: it names the shard that holds the block's pictures, which
    was brought to disk before. A shard that no manifest names does not count, and the next run removes it.

    Args:
        rank: which of the processes of this fetch it is; every ``rank.of``-th block is its own, and it looks at no
            other.

    Raises:
        UsageError: the folder holds something else, or a process of another fetch writes to it.
    """

    def __init__(self, folder: Path, rank: Rank) -> None:
        self.folder, self.rank = folder, rank
        self.job: dict[str, Any] | None = None
        """What the folder was begun with; none if it is new."""
        self.outcomes: dict[int, Counter[str]] = {}
        """Of committed blocks."""
        folder.mkdir(parents=True, exist_ok=True)
        self._moment = filelock.FileLock(folder / ".lock")
        """Held while something is decided that concerns all processes."""
        self._lock = filelock.FileLock(folder / f".lock-{rank.number}-of-{rank.of}")
        """Held from beginning to end."""

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            with self._moment:
                self._keep_others_out()
                undo.callback(self._lock.release)
                self._read_job()
            self._recover()
            undo.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def _keep_others_out(self) -> None:
        """One process of each number, and all of as many: else two would have the same block."""
        ours = f"-of-{self.rank.of}"
        try:
            self._lock.acquire(timeout=0)
            for path in self.folder.glob(".lock-*"):
                if not path.name.endswith(ours):
                    with filelock.FileLock(path).acquire(timeout=0):
                        pass
        except filelock.Timeout:
            self._lock.release()
            raise UsageError(f"Another process fetches into {self.folder}. Wait for it, or take another one.") from None

    def begin(self, job: dict[str, Any]) -> None:
        """Start a fetch, or go on with the one that was started with the same ``job``.

        Raises:
            UsageError: it was another one.
        """
        with self._moment:
            self._read_job()  # another process may have begun by now
            if self.job is None:
                self._write("fetch.json", lambda file: file.write(json.dumps(job, indent=2).encode()))
            elif changed := [name for name in job if job[name] != self.job.get(name)]:
                texts = [f"{name} {json.dumps(self.job.get(name))}, not {json.dumps(job[name])}" for name in changed]
                raise UsageError(
                    f"{self.folder} was begun with {'; '.join(texts)}. Give the same arguments, or another folder."
                )
            self._write("README.md", lambda file: file.write(_CARD.encode()))

    def manifest(self, index: int) -> list[dict[str, Any]]:
        """What became of the rows of a committed block."""
        return pq.read_table(self.folder / _manifest_name(index)).to_pylist()

    def commit(self, block: Block) -> None:
        """Make the outcomes of a block count, all at once. Every URL of it must have its download."""
        kept = [
            position
            for url, positions in block.open.items()
            if block.downloads[url].outcome == "ok"
            for position in positions
        ]
        shard = self._shard_name(block) if kept else None
        if shard is not None:
            self._write(shard, lambda file: _write_shard(file, block, sorted(kept)))
        rows = _manifest_rows(block, shard)
        table = pa.Table.from_pylist(rows, schema=_MANIFEST)
        self._write(_manifest_name(block.index), lambda file: pq.write_table(table, file))
        self.outcomes[block.index] = Counter(row["outcome"] for row in rows)
        block.close()

    def _read_job(self) -> None:
        job = self.folder / "fetch.json"
        if job.exists():
            self.job = json.loads(job.read_text(encoding="utf-8"))
        elif others := [path for path in self.folder.iterdir() if not path.name.startswith(".")]:
            raise UsageError(f"{self.folder} holds other files ({others[0].name}). Give --out a new folder.")

    def _recover(self) -> None:
        """Read what is committed of this process's blocks, and remove what a killed process left of them."""
        named = set()
        for path in self._own("manifest-*.parquet"):
            table = pq.read_table(path, columns=["outcome", "shard"])
            self.outcomes[_index(path)] = Counter(table["outcome"].to_pylist())
            shards = set(table["shard"].unique().to_pylist()) - {None}
            if missing := sorted(shard for shard in shards if not (self.folder / shard).exists()):
                raise UsageError(f"{missing[0]}, which {path} names, is gone. Bring it back, or remove {path.name}.")
            named |= shards
        for path in [*self._own("shard-*.parquet"), *self._own(".shard-*.partial"), *self._own(".manifest-*.partial")]:
            if path.name not in named:
                path.unlink()

    def _own(self, pattern: str) -> list[Path]:
        """Files of blocks that are this process's."""
        return [path for path in sorted(self.folder.glob(pattern)) if self.rank.has(_index(path))]

    def _shard_name(self, block: Block) -> str:
        """Of the shard to write; what a retry adds to a block goes into a shard of its own."""
        if block.earlier is None:
            return f"shard-{block.index:06d}.parquet"
        used = {row["shard"] for row in block.earlier}
        number = 1
        while f"shard-{block.index:06d}-{number}.parquet" in used:
            number += 1
        return f"shard-{block.index:06d}-{number}.parquet"

    def _write(self, name: str, write: Any) -> None:
        """A file that is there whole or not at all, also after a power cut."""
        partial = self.folder / f".{name}.partial"
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.folder / name)
        sync(self.folder)


def _manifest_name(index: int) -> str:
    return f"manifest-{index:06d}.parquet"


def _index(path: Path) -> int:
    """Which block's shard or manifest it is, whole or partial."""
    return int(path.name.split("-")[1].partition(".")[0])


def _manifest_rows(block: Block, shard: str | None) -> list[dict[str, Any]]:
    rows = [] if block.earlier is None else list(block.earlier)
    for position, url in enumerate(block.urls):
        if url not in block.downloads or (block.earlier is not None and not block.earlier[position]["transient"]):
            continue
        found = block.downloads[url]
        row = {
            "row": block.start + position,
            "key": block.key(position),
            "url": None if url is None else without_credentials(url),
            "outcome": found.outcome,
            "message": found.message,
            "transient": found.transient,
            "attempts": found.attempts,
            "status": found.status,
            "bytes": found.size,
            "sha256": found.sha256,
            "format": found.format,
            "content_type": found.content_type,
            "shard": shard if found.outcome == "ok" else None,
        }
        if block.earlier is None:
            rows.append(row)
        else:
            rows[position] = row
    return rows


def _write_shard(file: BinaryIO, block: Block, kept: list[int]) -> None:
    """The rows at these positions, with their pictures, a row group at a time."""
    carried = block.table.drop_columns(["url"])
    others = datasets.Features.from_arrow_schema(carried.schema)
    ours = dict.fromkeys(("key", "url", "sha256"), datasets.Value("string"))
    features = datasets.Features({"image": datasets.Image(), **ours, **others})
    # Pictures are compressed as they are, and no two alike.
    with pq.ParquetWriter(file, features.arrow_schema, use_dictionary=False, write_statistics=False) as writer:
        for group in _groups(block, kept):
            urls = [block.urls[position] for position in group]
            keys = [block.key(position) for position in group]
            images = [
                {"bytes": block.body(url), "path": f"{key}.{(block.downloads[url].format or '').lower()}"}
                for url, key in zip(urls, keys, strict=True)
            ]
            columns = [
                pa.array(images, type=features.arrow_schema.field("image").type),
                pa.array(keys, pa.string()),
                pa.array(urls, pa.string()),
                pa.array([block.downloads[url].sha256 for url in urls], pa.string()),
            ]
            columns += [column.cast(type_) for column, type_ in _carried(carried.take(group), features.arrow_schema)]
            writer.write_table(pa.Table.from_arrays(columns, schema=features.arrow_schema))


def _carried(table: pa.Table, schema: pa.Schema) -> Iterator[tuple[pa.ChunkedArray, pa.DataType]]:
    for name in table.column_names:
        yield table[name], schema.field(name).type


def _groups(block: Block, kept: list[int]) -> Iterator[list[int]]:
    """The positions in row groups of bounded size."""
    group: list[int] = []
    size = 0
    for position in kept:
        group.append(position)
        size += block.downloads[block.urls[position]].size or 0
        if size >= _GROUP_BYTES or len(group) == _GROUP_ROWS:
            yield group
            group, size = [], 0
    if group:
        yield group
