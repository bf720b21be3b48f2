"""Features of frozen encoders, computed once and kept on disk: any number of processes may read and write at a time."""

import json
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from theworld_encoders.encoder import Encoder
from theworld_encoders.errors import DamagedFeatures, EncoderError
from theworld_encoders.preprocess import preprocess
from theworld_encoders.shard import Shard, checksum, evict, shard_paths, write_shard
from theworld_encoders.source import Source, blake2b, load_source, source_digest

_SHARD_BYTES = 64 * 2**20
_SHARD_SECONDS = 60.0
_OPEN_SHARDS = 128
_PIXELS = 1
"""Raise it when decoding or preprocessing makes other pixels of the same file: what was cached then counts no more."""


def encoder_key(encoder: Encoder) -> str:
    """The encoder's name, and a digest of all that its features depend on: weights, dtype, configuration and spec.

    Raises:
        EncoderError: its weights may change, or are not in memory.
    """
    return module_key(encoder.spec.name, encoder, asdict(encoder.spec), encoder.config)


def module_key(name: str, module: nn.Module, *settings: Any) -> str:
    """The name, and a digest of a frozen module's weights, their dtype, and all settings that its features depend on.

    Raises:
        EncoderError: its weights may change, or are not in memory.
    """
    weights = module.state_dict()
    if any(parameter.requires_grad for parameter in module.parameters()):
        raise EncoderError(f"{name} is being trained, so its features change. Freeze it first.")
    if any(tensor.is_meta for tensor in weights.values()):
        raise EncoderError(f"weights of {name} are offloaded. Load it without a device_map.")
    digest = blake2b(json.dumps([_PIXELS, *settings], sort_keys=True, default=str).encode())
    for key, tensor in sorted(weights.items()):
        digest.update(checksum(key, tensor).encode())
    return f"{name}-{digest.hexdigest()}"


def encode_source(encoder: Encoder, source: Source) -> Float[Tensor, "tt r s c"]:
    """Features of one picture or clip, encoded alone: in a batch, sums are rounded as the batch's size has it.

    Raises:
        MediaError: the file cannot be read, or the item is no picture or clip.
    """
    return encode_pixels(encoder, preprocess(load_source(source), encoder.spec))


def encode_pixels(encoder: Encoder, pixels: Float[Tensor, "t 3 h w"]) -> Float[Tensor, "tt r s c"]:
    """Features of one preprocessed item, encoded alone, on the CPU; some controls have no parameters."""
    with torch.no_grad():
        return encoder(pixels.to(next(encoder.parameters(), pixels))[None])[0].cpu()


class FeatureCache:
    """Features in a folder, by content: of an item's bytes, and of everything about its encoder.

    Items are committed some at a time, as whole files; what was committed survives any end of the process. Leaving the
    ``with`` block commits the rest. An instance may be shared by threads; another process makes its own.
    """

    def __init__(
        self,
        folder: str | Path,
        encoder: Encoder | str,
        *,
        max_bytes: int | None = None,
        shard_bytes: int = _SHARD_BYTES,
    ) -> None:
        """Open the cache of one encoder, or make it.

        Args:
            encoder: a frozen encoder, or its ``encoder_key`` where nothing has to be computed.
            max_bytes: size of the folder, other encoders' shards included, above which the oldest shards go.
            shard_bytes: how much is committed at a time.

        Raises:
            EncoderError: the encoder is being trained.
        """
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.encoder = None if isinstance(encoder, str) else encoder
        self.encoder_key = encoder if isinstance(encoder, str) else encoder_key(encoder)
        self.max_bytes = max_bytes
        self.shard_bytes = shard_bytes
        self._lock = threading.RLock()
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0
        self._pending_since = 0.0
        self._shards: dict[Path, list[str]] = {}
        self._where: dict[str, list[Path]] = {}
        self._useless: set[Path] = set()
        self.others: set[str] = set()
        """Keys of other encoders whose features were seen in the folder."""
        self._read_last: Path | None = None
        self._open = lru_cache(_OPEN_SHARDS)(Shard)
        self.refresh()

    def key(self, source: Source) -> str:
        """The key of a picture's path, of a ``VideoFile``, or of a picture or clip in memory.

        Raises:
            MediaError: there is no such file, or the item is no picture or clip.
        """
        return blake2b(self.encoder_key.encode() + source_digest(source)).hexdigest()

    def features(self, sources: Sequence[Source]) -> list[Float[Tensor, "_ _ _ c"]]:
        """Features of every item, in order, on the CPU; what is missing is encoded and put.

        Each is encoded alone, so that it equals the live encoder's for that item bit by bit, whatever is missing.

        Raises:
            MediaError: an item cannot be read.
            EncoderError: one is missing, and the cache was opened with a key.
        """
        found: dict[str, Tensor] = {}
        keys = [self.key(source) for source in sources]
        for key, source in zip(keys, sources, strict=True):
            if key not in found:
                features = self.get(key)
                if features is None:
                    if self.encoder is None:
                        raise EncoderError(
                            f"{self.folder} has no features with the key {key}. Open it with the encoder itself."
                        )
                    features = encode_source(self.encoder, source)
                    self.put(key, features)
                found[key] = features
        return [found[key] for key in keys]

    def get(self, key: str) -> Tensor | None:
        """What was put under ``key``, bit by bit, or nothing.

        Warns:
            DamagedFeatures: it was there, and its bytes have changed since.
        """
        with self._lock:
            if key in self._pending:
                return self._pending[key].clone()
            while key in self._where:
                path = self._where[key][-1]
                try:
                    self._read_last = path
                    return self._open(path).read(key)
                except FileNotFoundError:  # evicted by another process
                    self._forget(key, path)
                except DamagedFeatures as damage:
                    self._forget(key, path)
                    warnings.warn(damage, stacklevel=2)
            return None

    def put(self, key: str, features: Tensor) -> None:
        """Keep ``features``; they are on disk after the next commit, which comes by itself from time to time."""
        with self._lock:
            if not self._pending:
                self._pending_bytes, self._pending_since = 0, time.monotonic()
            self._pending[key] = features.detach().to("cpu", copy=True).contiguous()
            self._pending_bytes += features.nbytes
            if self._pending_bytes >= self.shard_bytes or time.monotonic() - self._pending_since >= _SHARD_SECONDS:
                self.flush()

    def flush(self) -> None:
        """Commit what was put, remove what is too old or of no use, and see what other processes did."""
        with self._lock:
            if self._pending:
                write_shard(self.folder, self.encoder_key, self._pending)
                self._pending = {}
            while self._useless:
                self._useless.pop().unlink(missing_ok=True)
            if self.max_bytes is not None:
                evict(self.folder, self.max_bytes, keep=self._read_last)
            self.refresh()

    def refresh(self) -> None:
        """See what other processes committed and evicted since.

        Warns:
            DamagedFeatures: a shard is damaged as a whole.
        """
        with self._lock:
            there = shard_paths(self.folder)
            for path in self._shards.keys() - set(there):
                for key in self._shards.pop(path):
                    self._forget(key, path)
            for path in there:
                if path not in self._shards:
                    self._index(path)

    def __contains__(self, key: str) -> bool:
        """Whether it is there; only ``get`` finds damage."""
        return key in self._pending or key in self._where

    def __len__(self) -> int:
        """How many items there are of this encoder."""
        return len(self._where.keys() | self._pending.keys())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self.flush()

    def _index(self, path: Path) -> None:
        try:
            shard = Shard(path)
        except FileNotFoundError:  # evicted by another process
            return
        except DamagedFeatures as damage:
            self._shards[path] = []
            self._useless.add(path)
            warnings.warn(damage, stacklevel=4)
            return
        if shard.encoder != self.encoder_key:
            self.others.add(shard.encoder)
        self._shards[path] = list(shard.checksums) if shard.encoder == self.encoder_key else []
        for key in self._shards[path]:
            self._where.setdefault(key, []).append(path)

    def _forget(self, key: str, path: Path) -> None:
        if path in (paths := self._where.get(key, [])):
            paths.remove(path)
            if not paths:
                del self._where[key]
