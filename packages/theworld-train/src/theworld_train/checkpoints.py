"""A run's checkpoints: each is whole or not there, the newest whole one is found again, old ones go."""

import json
import logging
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from theworld_encoders.errors import first_line
from theworld_encoders.shard import sync
from theworld_train.errors import UsageError

logger = logging.getLogger(__name__)

CONTENTS = "contents.json"
"""Of every other file of a checkpoint: its size in bytes, and the CRC-32 of its content."""
_NAME = re.compile(r"checkpoint-(\d+)")
_UNFINISHED = ".unfinished-checkpoint"
_REMOVED = ".removed-checkpoint"


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """Step and folder of every whole checkpoint of a run, oldest first."""
    found = ((_NAME.fullmatch(path.name), path) for path in run.iterdir()) if run.is_dir() else ()
    numbered = sorted((int(match[1]), path) for match, path in found if match)
    whole = [(step, path) for step, path in numbered if _is_whole(path)]
    for step, path in numbered:
        if (step, path) not in whole:
            logger.warning("%s is not whole, and left out", path)
    return whole


def newest(run: Path) -> tuple[int, Path] | None:
    """The last one, or ``None``."""
    return max(checkpoints(run), default=None)


def record(folder: Path) -> None:
    """Write down what the folder holds, which makes it whole."""
    contents = {name: [size, _crc(folder / name)] for name, size in _sizes(folder).items()}
    (folder / CONTENTS).write_text(json.dumps(contents), encoding="utf-8")


def check_content(checkpoint: Path) -> None:
    """See that every byte of a checkpoint is the one that was written.

    Raises:
        UsageError: a file was changed.
    """
    written = json.loads((checkpoint / CONTENTS).read_text(encoding="utf-8"))
    for name, (_, checksum) in written.items():
        if _crc(checkpoint / name) != checksum:
            raise UsageError(
                f"{checkpoint / name} is damaged: its content is not what was written. "
                f"Remove {checkpoint} to go on from the checkpoint before it, or restore the file."
            )


def replace_text(path: Path, text: str) -> None:
    """Give a file another content: whenever the process dies, it has the old one or the new one, whole."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


@contextmanager
def writing(run: Path, *, clear: bool = True) -> Iterator[Path]:
    """A folder to write a checkpoint into, not made yet; ``commit`` makes it one. One process of several clears it.

    Raises:
        UsageError: the files cannot be written; the checkpoints that there are stay as they are.
    """
    folder = run / _UNFINISHED
    if clear:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save raises the last on a full disk
        shutil.rmtree(folder, ignore_errors=True)
        last = newest(run)
        raise UsageError(
            f"the checkpoint in {run} cannot be written ({first_line(error)}); {last[1].name if last else 'none'} is "
            "the newest. Make room, then go on with --resume."
        ) from error


def commit(written: Path, run: Path, step: int, keep: int) -> Path:
    """Make what was written the checkpoint of ``step``, and remove all but the ``keep`` newest.

    Files reach the disk before the folder gets its name, and the name before an older one goes: whenever the process
    or the machine dies, the newest folder with a checkpoint's name is whole.
    """
    record(written)
    for path in [*written.rglob("*"), written]:
        sync(path)
    final = run / f"checkpoint-{step}"
    if final.exists():  # only one that is not whole: its step is done again
        _remove(final)
    os.rename(written, final)
    sync(run)
    for _, folder in checkpoints(run)[:-keep]:
        _remove(folder)
    return final


def _is_whole(folder: Path) -> bool:
    try:
        written = json.loads((folder / CONTENTS).read_text(encoding="utf-8"))
        return {name: size for name, (size, _) in written.items()} == _sizes(folder)
    except (OSError, ValueError, TypeError, AttributeError):  # gone, no JSON, or JSON of another kind
        return False


def _sizes(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CONTENTS)
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def _crc(file: Path) -> int:
    checksum = 0
    with file.open("rb") as content:
        while chunk := content.read(1 << 24):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


def _remove(folder: Path) -> None:
    """Under another name first: a kill midway leaves no part of it under a checkpoint's name."""
    going = folder.parent / _REMOVED
    shutil.rmtree(going, ignore_errors=True)
    os.rename(folder, going)
    shutil.rmtree(going)
