"""One file of the feature cache: safetensors that are written once, and whose every byte is checked when read.

The file's name holds a digest of the header, and the header a digest of each item. So the headers of all shards are the
cache's index: there is no second file that could disagree with them.
"""

import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, uint8

from theworld_encoders.errors import DamagedFeatures
from theworld_encoders.source import blake2b

_NAME = re.compile(r"\d{20}-[0-9a-f]{32}\.safetensors")
_TEMPORARY = re.compile(r"\.\d{20}-[0-9a-f]{32}\.tmp")
_ENCODER = "__encoder__"
_ABANDONED = 3600.0
"""Seconds. A shard is written in a few: an older temporary file has lost its writer."""


class Shard:
    """A shard that is open for reading, with its header checked.

    Attributes:
        encoder: key of the encoder whose features it holds.
        checksums: what each item's digest has to be; the keys are the items'.
    """

    def __init__(self, path: Path) -> None:
        """Open ``path``.

        Raises:
            FileNotFoundError: it was evicted.
            DamagedFeatures: its header or its length is not what was written.
        """
        self.path = path
        metadata = _checked_header(path)
        self.encoder = metadata.pop(_ENCODER)
        self.checksums = metadata
        try:
            self._file = safe_open(path, framework="pt")
        except RuntimeError as error:  # torch's, which opens the file once more by its name
            if path.exists():
                raise
            raise FileNotFoundError(f"{path} was removed while it was being opened. Encode its items again.") from error

    def read(self, key: str) -> Tensor:
        """One item, in memory of its own: what a caller does to it reaches neither the file nor the next reader.

        Raises:
            DamagedFeatures: its bytes are not what was written.
        """
        tensor = self._file.get_tensor(key).clone()
        if (found := checksum(key, tensor)) != self.checksums[key]:
            raise _damaged(f"item {key} of the shard {self.path} has the checksum {found}, not {self.checksums[key]}")
        return tensor


def shard_paths(folder: Path) -> list[Path]:
    """The shards in ``folder``, oldest first; files of other names are nobody's."""
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def write_shard(folder: Path, encoder: str, items: Mapping[str, Tensor]) -> Path:
    """Commit ``items`` as a new shard: it is there as a whole and on disk, or not at all."""
    data = save(dict(items), {_ENCODER: encoder, **{key: checksum(key, item) for key, item in items.items()}})
    header = data[: 8 + int.from_bytes(data[:8], "little")]
    name = f"{time.time_ns():020d}-{blake2b(header).hexdigest()}"
    path, temporary = folder / f"{name}.safetensors", folder / f".{name}.tmp"
    while True:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            now = os.stat(file.fileno()).st_mtime  # by the clock of the disk, which may be another machine's
        try:
            temporary.replace(path)
            break
        except FileNotFoundError:  # this process slept so long that another one cleaned up after it
            continue
    sync(folder)
    _clean(folder, now)
    return path


def evict(folder: Path, max_bytes: int, keep: Path | None = None) -> None:
    """Remove the oldest shards until ``max_bytes`` hold the rest; the newest and the one to ``keep`` stay.

    A process that has one of them open reads on: the disk frees it when the last reader lets go.
    """
    sizes: dict[Path, int] = {}
    for path in shard_paths(folder):
        try:
            sizes[path] = path.stat().st_size
        except FileNotFoundError:  # another process evicts too
            continue
    total = sum(sizes.values())
    for path in list(sizes)[:-1]:
        if total <= max_bytes:
            break
        if path != keep:
            path.unlink(missing_ok=True)
            total -= sizes[path]


def checksum(key: str, tensor: Tensor) -> str:
    """A digest of an item's name, dtype, shape and bytes."""
    digest = blake2b(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(uint8).numpy().data)  # numpy has no bfloat16
    return digest.hexdigest()


def _checked_header(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        size = os.stat(file.fileno()).st_size
        length = file.read(8)
        header = file.read(min(int.from_bytes(length, "little"), size))
    if (found := blake2b(length + header).hexdigest()) != path.stem.rpartition("-")[2]:
        raise _damaged(f"the header of the shard {path} has the checksum {found}, not the one in its name")
    entries = json.loads(header)
    metadata = entries.pop("__metadata__")
    wanted = 8 + len(header) + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if size != wanted:
        raise _damaged(f"the shard {path} has {size} bytes, not {wanted}")
    return metadata


def _damaged(fact: str) -> DamagedFeatures:
    return DamagedFeatures(f"{fact}. It is left out, and the next build encodes it again.")


def _clean(folder: Path, now: float) -> None:
    """Remove what writers left that died between write and commit."""
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            try:
                abandoned = path.stat().st_mtime < now - _ABANDONED
            except FileNotFoundError:  # committed meanwhile
                continue
            if abandoned:
                path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to disk, where folders can be opened for that."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
