"""The folder of an evaluation: whose it is, and records that a kill at any moment leaves usable.

``manifest.json`` says what was asked of whom; ``records.jsonl`` has a line for each item, in the task's order once all
are there; ``summary.json`` is written last. Several processes write ``records-N.jsonl``, which are merged.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from theworld_encoders.shard import sync
from theworld_train.errors import UsageError
from theworld_train.evaluate.records import Record
from theworld_train.folders import LOCK, kept_alone, unwritable

MANIFEST, RECORDS, SUMMARY = "manifest.json", "records.jsonl", "summary.json"
_PART = "records-{}.jsonl"
_PARTS = "records-*.jsonl"


class EvaluationFolder:
    """An evaluation's files.

    Args:
        batches: the keys of every batch's items, in the task's order.
    """

    def __init__(self, path: Path, batches: Sequence[Sequence[str]]) -> None:
        self.path = path
        self._batches = batches

    @contextmanager
    def begun(self, evaluation: Mapping[str, Any], facts: Mapping[str, Any], *, resume: bool) -> Iterator[bool]:
        """Make the folder, or see that the evaluation in it is this one; whether that is done already.

        While it is open, no other process evaluates into the folder; one that is done is only read.

        Args:
            evaluation: all that decides what the records are, as plain values.
            facts: what else is worth knowing: where it runs.

        Raises:
            UsageError: another evaluation is there (the message names the first field that differs), this one is there
                unfinished and ``resume`` is not set, or the folder cannot be written.
        """
        wanted = json.loads(json.dumps(evaluation, default=str))
        self._check(wanted, resume=resume)
        if self.is_done:
            yield True
            return
        with kept_alone(self.path):
            manifest = self._check(wanted, resume=resume)  # again: another process may just have left
            if not self.is_done:
                manifest["runs"].append({**facts, "start": _now(), "end": None})
                try:
                    write_whole(self.path / MANIFEST, _pretty(manifest))
                    self.merge()
                except OSError as error:
                    raise unwritable(self.path, error) from error
            yield self.is_done

    @property
    def is_done(self) -> bool:
        return (self.path / SUMMARY).is_file()

    def pending(self) -> list[int]:
        """Numbers of the batches that have no records yet."""
        done = self._done()
        return [number for number in range(len(self._batches)) if number not in done]

    def merge(self) -> None:
        """Put every whole batch into ``records.jsonl``, in order; torn lines and parts of batches are dropped."""
        done = self._done()
        write_whole(self.path / RECORDS, b"".join(line for number in sorted(done) for line in done[number]))
        for part in self.path.glob(_PARTS):
            part.unlink()

    @property
    def is_whole(self) -> bool:
        return not self.pending()

    def append(self, records: Sequence[Record], process: int, processes: int) -> None:
        """Write a batch's records, in one piece."""
        name = RECORDS if processes == 1 else _PART.format(process)
        with (self.path / name).open("ab") as file:
            file.write(b"".join(map(to_line, records)))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Say when it ended, then that it is done."""
        manifest = read_manifest(self.path)
        manifest["runs"][-1]["end"] = _now()
        write_whole(self.path / MANIFEST, _pretty(manifest))
        write_whole(self.path / SUMMARY, _pretty(summary))

    def _check(self, wanted: dict[str, Any], *, resume: bool) -> dict[str, Any]:
        """The manifest of this evaluation, a new one where none is there."""
        if not (self.path / MANIFEST).is_file():
            if self.path.is_dir() and any(path.name != LOCK for path in self.path.iterdir()):
                raise UsageError(f"{self.path} is not empty, and holds no evaluation. Give another folder (--out).")
            return {"evaluation": wanted, "runs": []}
        manifest = read_manifest(self.path)
        if (different := first_difference(manifest["evaluation"], wanted)) is not None:
            raise UsageError(f"{self.path} holds another evaluation: {different}. Give another folder (--out).")
        if not self.is_done and not resume:
            raise UsageError(
                f"{self.path} holds this evaluation, unfinished. Go on with --resume, or give another --out."
            )
        return manifest

    def _done(self) -> dict[int, list[bytes]]:
        """The lines of every batch that is whole, by its number."""
        lines: dict[str, bytes] = {}
        for file in [self.path / RECORDS, *sorted(self.path.glob(_PARTS))]:
            for key, line in _lines(file):
                lines.setdefault(key, line)
        return {
            number: [lines[key] for key in keys]
            for number, keys in enumerate(self._batches)
            if all(key in lines for key in keys)
        }


def read_records(folder: Path, *, finished: bool = True) -> list[Record]:
    """The records of an evaluation, in the task's order.

    Args:
        finished: it has to be.

    Raises:
        UsageError: there is none, it is unfinished, or a line of its records is missing or damaged.
    """
    items = read_manifest(folder)["evaluation"].get("items")
    if finished and not (folder / SUMMARY).is_file():
        raise UsageError(f"the evaluation in {folder} is unfinished. Go on with it: theworld evaluate ... --resume")
    file, records = folder / RECORDS, list[Record]()
    try:
        for line in file.read_bytes().splitlines():
            records.append(from_line(line))
    except (OSError, ValueError) as error:
        place = f"{file}, line {len(records) + 1}," if isinstance(error, ValueError) else file
        raise UsageError(f"{place} cannot be read ({error}). Evaluate again, into another folder.") from error
    if finished and len(records) != items:
        raise UsageError(
            f"{file} has {len(records)} records of {items} questions. Evaluate again, into another folder."
        )
    return records


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a folder says of the evaluation in it.

    Raises:
        UsageError: it holds none, or says it wrongly.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"{folder} holds no evaluation: it has no {MANIFEST}. Give a folder of theworld evaluate.")
    found = read_json(path)
    if not (isinstance(found.get("evaluation"), dict) and isinstance(found.get("runs"), list) and found["runs"]):
        raise UsageError(f"{path} is no manifest of an evaluation. Give a folder of theworld evaluate.")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UsageError: it is none.
    """
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}). Evaluate again, into another folder.") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} is no JSON object. Evaluate again, into another folder.")
    return found


def first_difference(one: Any, other: Any, name: str = "") -> str | None:
    """The first field of nested plain values that is not the same in both, with both values."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            found = first_difference(one.get(key), other.get(key), f"{name}.{key}" if name else str(key))
            if found is not None:
                return found
        return None
    return None if one == other else f"{name} is {one!r} there, and {other!r} here"


def to_line(record: Record) -> bytes:
    """As it stands in ``records.jsonl``; half a character of damaged text stays an escape."""
    return (json.dumps(asdict(record), ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def from_line(line: bytes) -> Record:
    """What ``to_line`` wrote.

    Raises:
        ValueError: it is no record.
    """
    try:
        record = Record(**json.loads(line))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"it is no record: {error}") from error
    texts = (record.key, record.family, record.group, record.prompt, record.wanted)
    numbers = (record.chance, 0 if record.score is None else record.score)
    if not all(isinstance(one, str) for one in texts):
        raise ValueError("it is no record: a field is no text")
    if not all(isinstance(one, int | float) and 0 <= one <= 1 for one in numbers):
        raise ValueError("it is no record: a score is not from 0 to 1")
    return record


def write_whole(path: Path, content: bytes) -> None:
    """The file is the old one or the new one, whenever the machine dies."""
    temporary = path.with_name(f".{path.name}.unfinished")
    temporary.write_bytes(content)
    sync(temporary)
    os.replace(temporary, path)


def _lines(file: Path) -> Iterator[tuple[str, bytes]]:
    """Key and line of every record of a file that is whole."""
    for line in file.read_bytes().splitlines(keepends=True) if file.is_file() else ():
        if line.endswith(b"\n"):
            try:
                yield from_line(line).key, line
            except ValueError:
                continue


def _pretty(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n").encode("utf-8", "backslashreplace")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
