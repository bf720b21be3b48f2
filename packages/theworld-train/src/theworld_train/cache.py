"""Filling a feature cache from a data set, alone or as one of several processes."""

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from theworld_encoders import FeatureCache, preprocess
from theworld_encoders.features import encode_pixels
from theworld_encoders.source import load_source
from theworld_train.errors import UsageError
from theworld_train.jobs import Report
from theworld_train.media import Medium

A = TypeVar("A")
B = TypeVar("B")

_AHEAD = 8
"""Inputs that are decoded while others are encoded."""


@dataclass(frozen=True, slots=True)
class Rank:
    """Which process this is of how many, as ``torchrun`` and ``accelerate launch`` say it in the environment."""

    number: int
    of: int
    local: int

    @classmethod
    def of_this_process(cls) -> "Rank":
        names = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        return cls(*(int(os.environ.get(name, default)) for name, default in names.items()))

    def device(self) -> torch.device:
        """The accelerator that this process has for itself, or the CPU."""
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        if accelerator is None:
            return torch.device("cpu")
        return torch.device(accelerator.type, self.local % torch.accelerator.device_count())

    def share(self, media: Sequence[Medium]) -> Sequence[Medium]:
        """This process's part: every input is in one of them."""
        return media[self.number :: self.of]

    def dead_file(self, folder: Path) -> Path:
        """Where this process lists what it could not read."""
        return folder / ("dead.jsonl" if self.of == 1 else f"dead-{self.number}-of-{self.of}.jsonl")

    def remove_old_lists(self, folder: Path) -> None:
        """Of builds with another number of processes; no process of this build writes to them."""
        current = {replace(self, number=number).dead_file(folder) for number in range(self.of)}
        for path in folder.glob("dead*.jsonl"):
            if path not in current:
                path.unlink(missing_ok=True)


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
    media: Sequence[Medium], cache: FeatureCache, *, num_frames: int, dead_file: Path, report: Report, threads: int = 2
) -> Built:
    """Encode what the cache does not have; what is damaged there counts as missing.

    Args:
        num_frames: frames that are taken of a video file.
        dead_file: lists what could not be read, by path and reason; there is none where all could.
        threads: how many inputs are decoded at a time.

    Raises:
        ValueError: the cache was opened without its encoder.
    """
    encoder = cache.encoder
    if encoder is None:
        raise ValueError(f"{cache.folder} was opened with the key {cache.encoder_key}. Open it with the encoder.")

    def prepare(medium: Medium) -> tuple[str, Tensor | None] | str:
        """Key, and pixels where they are needed; or why there are none."""
        try:
            source = medium.source(num_frames)
            key = cache.key(source)
            found = cache.get(key) is not None  # which checks its bytes
            return key, None if found else preprocess(load_source(source), encoder.spec)
        except (ValueError, OSError) as error:
            return " ".join(str(error).split())

    built = Built()
    with ThreadPoolExecutor(threads) as pool, cache, dead_file.open("w", encoding="utf-8") as dead:
        for medium, prepared in zip(media, _ahead(pool, prepare, media), strict=True):
            if isinstance(prepared, str):
                built.dead += 1
                dead.write(json.dumps({"path": medium.label, "reason": prepared}, ensure_ascii=False) + "\n")
                dead.flush()
            else:
                key, pixels = prepared
                if pixels is None or key in cache:  # another input with the same content came first
                    built.cached += 1
                else:
                    cache.put(key, encode_pixels(encoder, pixels))
                    built.encoded += 1
            report(built.total, len(media), f"{built.dead} dead" if built.dead else "")
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


def _ahead(pool: ThreadPoolExecutor, function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """Results in order, a few of them computed ahead: ``pool.map`` would hold the pixels of a whole data set."""
    futures: deque[Future[B]] = deque()
    for item in items:
        futures.append(pool.submit(function, item))
        if len(futures) > _AHEAD:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()
