"""Lists of URLs, read piece by piece: local files, or a data set of the hub."""

import csv
import glob
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from theworld_train.errors import UsageError

_LOADERS = {".parquet": "parquet", ".jsonl": "json", ".ndjson": "json", ".csv": "csv"}
"""Of files, by suffix."""

COLUMNS = ("image", "key", "url", "text", "sha256")
"""Columns of a shard that are ours; a column of the list that has one of these names is carried as ``list_NAME``."""


@dataclass(frozen=True, slots=True)
class UrlList:
    """A list of URLs.

    Attributes:
        identity: what tells it from every other list, as JSON has it.
        total: its rows, where that is known before they are read. Of CSV it is a guess: a text may hold line ends.
        rows: the stream.
    """

    identity: dict[str, Any]
    total: int | None
    rows: datasets.IterableDataset

    def blocks(self, size: int, *, url_column: str, text_column: str) -> Iterator[pa.Table]:
        """Tables of ``size`` rows (the last may be smaller), of which one is in memory at a time.

        The columns are ``url`` and, unless ``text_column`` is empty, ``text``; then all others.

        Raises:
            UsageError: a column is not there, or holds no text where it must.
        """
        for table in self.rows.with_format("arrow").iter(batch_size=size):
            yield _arrange(table, url_column, text_column)


def open_list(urls: str, *, split: str, recorded: dict[str, Any] | None = None) -> UrlList:
    """Open a file, the files of a folder, or a data set of the hub.

    Args:
        urls: a path, or an id of the hub.
        split: of a data set of the hub.
        recorded: the ``identity`` of an earlier opening: the same revision of the hub's data set is taken.

    Raises:
        UsageError: there is nothing of this name, or a folder holds no list or several kinds of them.
    """
    path = Path(urls)
    if path.exists():
        return _open_files(_files(path))
    if path.suffix.lower() in _LOADERS or not re.fullmatch(r"[\w.-]+/[\w.-]+", urls):
        raise UsageError(
            f"There is no file or folder {urls}. Check the path, or give the id of a data set, OWNER/NAME."
        )
    return _open_hub(urls, split, recorded)


def _files(path: Path) -> list[Path]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in files if file.suffix.lower() in _LOADERS]
    kinds = {_LOADERS[file.suffix.lower()] for file in files}
    if len(kinds) != 1:
        raise UsageError(
            f"{path} holds {' and '.join(sorted(kinds)) or 'no list'}. Give files of one kind: {', '.join(_LOADERS)}."
        )
    return files


def _open_files(files: list[Path]) -> UrlList:
    loader = _LOADERS[files[0].suffix.lower()]
    digests, lines = zip(*map(_digest, files), strict=True)
    options: dict[str, Any] = {}
    total = sum(lines)
    if loader == "parquet":
        total = sum(pq.read_metadata(file).num_rows for file in files)
    if loader == "csv":
        # CSV has no types: everything stays the text that it is, and "NA" or "null" is a text like others.
        names = _csv_header(files[0])
        options = {
            "features": datasets.Features(dict.fromkeys(names, datasets.Value("string"))),
            "keep_default_na": False,
        }
        total -= len(files)
    paths = [glob.escape(str(file.resolve())) for file in files]
    rows = datasets.load_dataset(loader, data_files=paths, split="train", streaming=True, **options)
    return UrlList({"files": list(digests)}, total, rows)


def _open_hub(name: str, split: str, recorded: dict[str, Any] | None) -> UrlList:
    from huggingface_hub import HfApi

    same = recorded is not None and (recorded.get("dataset"), recorded.get("split")) == (name, split)
    revision = recorded["revision"] if recorded is not None and same else HfApi().dataset_info(name).sha
    rows = datasets.load_dataset(name, split=split, revision=revision, streaming=True)
    splits = rows.info.splits
    total = splits[split].num_examples if splits and split in splits else None
    return UrlList({"dataset": name, "split": split, "revision": revision}, total or None, rows)


def _arrange(table: pa.Table, url_column: str, text_column: str) -> pa.Table:
    """Our two columns first, under our names."""
    for name in filter(None, (url_column, text_column)):
        if name not in table.column_names:
            option = "--url-column" if name == url_column else "--text-column"
            known = ", ".join(table.column_names)
            raise UsageError(f"The list has no column {name!r}, only {known}. Name the right one with {option}.")
    url_type = table.schema.field(url_column).type
    if not (pa.types.is_string(url_type) or pa.types.is_large_string(url_type)):
        raise UsageError(f"The column {url_column!r} holds {url_type}, not text. Name the URLs' with --url-column.")
    columns = {"url": url_column} | ({"text": text_column} if text_column else {})
    for name in table.column_names:
        if name not in (url_column, text_column):
            new = f"list_{name}" if name in COLUMNS else name
            if new in columns or (new != name and new in table.column_names):
                raise UsageError(f"The list has the columns {name!r} and {new!r}. Rename one of them.")
            columns[new] = name
    schema = pa.schema([table.schema.field(name).with_name(new) for new, name in columns.items()])
    return pa.Table.from_arrays([table[name] for name in columns.values()], schema=schema)


def _digest(file: Path) -> tuple[str, int]:
    """Of a file's content, with the number of its lines."""
    digest, lines, end = hashlib.sha256(), 0, b"\n"
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
            lines, end = lines + chunk.count(b"\n"), chunk
    return digest.hexdigest(), lines + (not end.endswith(b"\n"))


def _csv_header(file: Path) -> list[str]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        return next(csv.reader(stream), [])
