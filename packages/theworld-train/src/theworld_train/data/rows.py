"""Rows of data sets as they lie on the disk, undecoded: memory-mapped and by number, or streamed in order."""

import glob
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import ijson
import pyarrow as pa
from datasets.exceptions import DatasetsError
from huggingface_hub import hf_hub_download

from theworld_train.errors import UsageError

_BUILDERS = {".jsonl": "text", ".ndjson": "text", ".parquet": "parquet", ".arrow": "arrow"}
"""A line of JSON stays text until it is needed: lines may differ in their fields and types, columns may not."""


_UNREADABLE = (OSError, ValueError, DatasetsError)
"""What ``datasets`` raises of files, names and networks."""


class ArrowRows(Sequence[dict[str, Any]]):
    """A memory-mapped data set whose pictures stay bytes."""

    def __init__(self, table: datasets.Dataset) -> None:
        self._table = table.with_format("arrow")

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: Any) -> Any:
        row: Any = self._table[int(index)]
        return _plain(row)


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows, and where they come from.

    Attributes:
        name: what errors call it.
        rows: by number, or a stream in ``datasets``' ``arrow`` format.
        lines: each row is ``{"text": a line of JSON}``.
        folder: where relative paths start.
    """

    name: str
    rows: Sequence[dict[str, Any]] | datasets.IterableDataset
    lines: bool = False
    folder: Path = Path()

    def decode(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row's fields.

        Raises:
            ValueError: the line holds no JSON object.
        """
        if not self.lines:
            return row
        text = row["text"].removeprefix("\ufeff")  # some editors begin a file with it
        if not text.strip():
            raise ValueError("the line is empty. Take it out.")
        fields = parse_json(text)
        if not isinstance(fields, dict):
            raise ValueError("the line holds no JSON object. Write one JSON object a line.")
        return fields


def parse_json(text: str) -> Any:
    """What a text of JSON holds.

    Raises:
        ValueError: it is no JSON, or lists stand in lists too often.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("the JSON has lists in lists without end. Write it anew.") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"the text is no JSON ({error.msg}, at character {error.pos + 1}).") from error


def open_table(
    path: str,
    *,
    split: str = "train",
    of_split: Sequence[str] | None = None,
    stream: bool = False,
    config: str | None = None,
) -> Table:
    """A JSONL, parquet or Arrow file, a folder of them, or a data set of the hub.

    Args:
        split: of a data set of the hub.
        of_split: the first words of the names of the files to take of a folder; default: all files.
        config: part of a data set of the hub; of a folder, the folder in it that is called so.

    Raises:
        UsageError: there is nothing that can be opened.
    """
    place = Path(path)
    if not place.exists():
        return Table(name=path, rows=_loaded(path, path, name=config, split=split, streaming=stream))
    if config is not None and not (place := place / config).is_dir():
        raise UsageError(f"the folder {path} has no folder {config}. Give the folder that holds it, or a hub id.")
    files = [place] if place.is_file() else sorted(file for file in place.iterdir() if file.suffix in _BUILDERS)
    if of_split is not None and place.is_dir():
        files = [file for file in files if file.stem.partition("-")[0] in of_split]
    kinds = {file.suffix for file in files}
    if len(kinds) != 1 or not kinds <= _BUILDERS.keys():
        found = ", ".join(sorted(kinds)) or "none"
        raise UsageError(f"{path} should hold files of one kind of {', '.join(_BUILDERS)}; there are {found}.")
    builder = _BUILDERS[kinds.pop()]
    names = [glob.escape(str(file)) for file in files]
    rows = _loaded(path, builder, data_files=names, split="train", streaming=stream)
    folder = place if place.is_dir() else place.parent
    return Table(name=path, rows=rows, lines=builder == "text", folder=folder)


def stream_rows(table: datasets.IterableDataset, name: str) -> Iterator[dict[str, Any]]:
    """The rows of a stream in ``datasets``' ``arrow`` format; ``name`` is what errors call it.

    Not ``iter(table)``: in a process of a DataLoader that would share out the files once more.

    Raises:
        UsageError: it cannot be read to its end.
    """
    try:
        for batch in table.iter(batch_size=1):
            row: Any = batch
            yield _plain(row)
    except (*_UNREADABLE, TypeError) as error:  # the last where a file's columns have other types than the first's
        raise UsageError(f"{name} cannot be read to its end ({_reason(error)}). Mend its files.") from error


def open_array(file: Path, features: datasets.Features) -> Table:
    """A JSON file that is one array of objects, of any size: it is copied once, to ``datasets``' cache, as Arrow.

    Args:
        features: the fields that are copied.

    Raises:
        UsageError: it is none, or its fields have other types.
    """
    status = file.stat()
    arguments = {
        "file": str(file.absolute()),
        "fields": tuple(features),
        "version": f"{status.st_size} {status.st_mtime_ns}",  # a file that changed is read again
    }
    try:
        table = datasets.Dataset.from_generator(_elements, features=features, gen_kwargs=arguments)
    except _UNREADABLE as error:
        raise UsageError(f"{file} is no array of conversations ({_reason(error)}). Fetch it again.") from error
    return Table(name=str(file), rows=ArrowRows(table), folder=file.parent)


def published_file(path: str, name: str) -> Path:
    """A file of a folder, or of a data set of the hub, which is fetched once; ``path`` may be the file itself.

    Raises:
        UsageError: the folder has no such file.
    """
    place = Path(path)
    if place.is_file():
        return place
    if not place.is_dir():
        return Path(hf_hub_download(path, name, repo_type="dataset"))
    if not (place / name).exists():
        raise UsageError(f"{path} has no {name}. Give the folder that holds it, or a data set of the hub.")
    return place / name


def _plain(row: pa.Table) -> dict[str, Any]:
    """A table of one row as plain values. Pictures stay bytes; columns of mixed types, kept as JSON, are parsed."""
    return {field.name: _parsed(row.column(field.name)[0].as_py(), field.type) for field in row.schema}


def _parsed(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if isinstance(kind, pa.JsonType):
        return parse_json(value)
    if isinstance(kind, pa.StructType):
        return {field.name: _parsed(value[field.name], field.type) for field in kind}
    if isinstance(kind, pa.ListType | pa.LargeListType):
        return [_parsed(element, kind.value_type) for element in value]
    return value


def _loaded(path: str, loader: str, **options: Any) -> Sequence[dict[str, Any]] | datasets.IterableDataset:
    try:
        table = datasets.load_dataset(loader, **options)
    except _UNREADABLE as error:  # of a hub id: no such data set, split or network
        raise UsageError(
            f"the data {path} cannot be opened ({_reason(error)}). Check the path or the hub's name, and what is there."
        ) from error
    if isinstance(table, datasets.Dataset):
        return ArrowRows(table)
    if isinstance(table, datasets.IterableDataset):
        return table.with_format("arrow")
    raise UsageError(f"{path} has several splits ({', '.join(map(str, table))}). Name one.")


def _reason(error: BaseException) -> str:
    """In one line, as the library below ``datasets`` said it."""
    while isinstance(error, DatasetsError) and error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


def _elements(file: str, fields: Sequence[str], version: str) -> Iterator[dict[str, Any]]:
    with open(file, "rb") as array:
        for element in ijson.items(array, "item", use_float=True):
            if not isinstance(element, dict):
                raise ValueError(f"an element is {element!r:.60}")
            yield {field: element.get(field) for field in fields}
