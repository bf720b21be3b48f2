"""Filling feature caches from a data set, alone or as one of several processes."""

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from theworld_encoders import Encoder, FeatureCache, preprocess
from theworld_encoders.features import encode_pixels
from theworld_encoders.preprocess import Item
from theworld_encoders.source import Source, load_source
from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_train.data.source import UNUSABLE
from theworld_train.errors import UsageError
from theworld_train.jobs import Report
from theworld_train.vision import picture_features, picture_pixels, seen

A = TypeVar("A")
B = TypeVar("B")

_AHEAD = 4
"""Rows for each thread that are decoded while others are encoded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Some pictures and clips that are read together.

    Attributes:
        label: what people know them by.
        sources: gives them; raises ``UNUSABLE`` where they cannot be had.
    """

    label: str
    sources: Callable[[], Sequence[Source]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tower:
    """What makes features for a cache.

    Attributes:
        seen: what of a source it sees, by which its features are known.
        pixels: what it takes of an item that was read.
        encode: pixels to features, on the CPU.
    """

    cache: FeatureCache
    seen: Callable[[Source], Source]
    pixels: Callable[[Item], Tensor]
    encode: Callable[[Tensor], Tensor]

    def key(self, source: Source) -> str:
        return self.cache.key(self.seen(source))

    @classmethod
    def of_world(cls, cache: FeatureCache, encoder: Encoder) -> "Tower":
        return cls(
            cache=cache,
            seen=lambda source: source,
            pixels=lambda item: preprocess(item, encoder.spec),
            encode=lambda pixels: encode_pixels(encoder, pixels),
        )

    @classmethod
    def of_vision(
        cls, cache: FeatureCache, model: TheWorldForConditionalGeneration, processor: TheWorldProcessor
    ) -> "Tower":
        return cls(
            cache=cache,
            seen=seen,
            pixels=lambda item: picture_pixels(processor, item),
            encode=lambda pixels: picture_features(model, pixels),
        )


@dataclass(kw_only=True, slots=True)
class Built:
    """What became of the inputs."""

    encoded: int = 0
    cached: int = 0
    dead: int = 0

    @property
    def total(self) -> int:
        return self.encoded + self.cached + self.dead


def build(
    rows: Iterable[Row],
    towers: Sequence[Tower],
    *,
    dead_file: Path,
    report: Report,
    total: int | None,
    threads: int,
) -> Built:
    """Encode what the caches do not have; what is damaged there counts as missing.

    Args:
        dead_file: lists what could not be read, by path and reason; there is none where all could.
        total: rows that there are, where that is known.
        threads: how many rows are decoded at a time.
    """

    def prepare(row: Row) -> list[list[tuple[Tower, str, Tensor]]] | str:
        """Of each input the towers that have to encode it, with keys and pixels; or why there is none."""
        try:
            return [_missing(source, towers) for source in row.sources()]
        except UNUSABLE as error:
            return " ".join(str(error).split())

    built, done = Built(), 0
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        for tower in towers:
            stack.enter_context(tower.cache)
        dead = stack.enter_context(dead_file.open("w", encoding="utf-8"))
        for row, prepared in _ahead(pool, prepare, rows, _AHEAD * threads):
            done += 1
            if isinstance(prepared, str):
                built.dead += 1
                dead.write(json.dumps({"path": row.label, "reason": prepared}, ensure_ascii=False) + "\n")
                dead.flush()
            for missing in () if isinstance(prepared, str) else prepared:
                wanted = [one for one in missing if one[1] not in one[0].cache]  # another input may have come first
                for tower, key, pixels in wanted:
                    tower.cache.put(key, tower.encode(pixels))
                built.encoded += bool(wanted)
                built.cached += not wanted
            report(done, total, f"{built.dead} dead" if built.dead else "")
    if not built.dead:
        dead_file.unlink()
    return built


def check_built(built: Built, dead_file: Path) -> None:
    """Fail where nothing could be done.

    Raises:
        UsageError: there were inputs, and all are dead.
    """
    if built.dead and built.dead == built.total:
        reason = json.loads(dead_file.read_text(encoding="utf-8").splitlines()[0])["reason"]
        raise UsageError(f"none of {built.total} inputs can be read; the first: {reason} {dead_file} has them all.")


def world_bytes(encoder: Encoder, frames: int) -> int:
    """Of the features of an item of so many frames."""
    spec = encoder.spec
    like: Any = next(encoder.parameters(), torch.zeros(()))  # some controls have no parameters
    return prod(spec.grid(frames, spec.frame_size, spec.frame_size)) * spec.width * like.dtype.itemsize


def vision_bytes(model: TheWorldForConditionalGeneration) -> int:
    """Of the features of a picture without crops."""
    tower: Any = model.model.vision_tower
    return model.config.mm_tokens_per_image * tower.config.hidden_size * next(tower.parameters()).dtype.itemsize


def room(folder: Path, size: float, rows: str) -> str:
    """What is to be written, and what there is room for."""
    free = shutil.disk_usage(folder).free
    return f"{rows} make about {size / 1e9:,.3g} GB of features; {folder} has room for {free / 1e9:,.0f} GB"


def _missing(source: Source, towers: Sequence[Tower]) -> list[tuple[Tower, str, Tensor]]:
    keys = [(tower, tower.key(source)) for tower in towers]
    missing = [(tower, key) for tower, key in keys if tower.cache.get(key) is None]  # which checks its bytes
    if not missing:
        return []
    item = load_source(source)
    return [(tower, key, tower.pixels(item)) for tower, key in missing]


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[A], B], items: Iterable[A], number: int
) -> Iterator[tuple[A, B]]:
    """Items with their results in order, a few computed ahead: ``pool.map`` would hold the pixels of a whole set."""
    futures: deque[tuple[A, Future[B]]] = deque()
    for item in items:
        futures.append((item, pool.submit(function, item)))
        if len(futures) > number:
            first, future = futures.popleft()
            yield first, future.result()
    while futures:
        first, future = futures.popleft()
        yield first, future.result()
