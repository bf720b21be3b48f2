"""What a recipe's caches should hold: features of all that its stages show, made with its own model and settings."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import datasets
import torch

from theworld_encoders import FeatureCache
from theworld_encoders.source import Source
from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor, fill_adapter
from theworld_train.cache import Built, Row, Tower, build, room, vision_bytes, world_bytes
from theworld_train.data.cursor import numbered
from theworld_train.data.lazy import sources_of
from theworld_train.data.rows import stream_rows
from theworld_train.data.source import UNUSABLE, Draw, OpenSource
from theworld_train.data.sources import open_source
from theworld_train.errors import UsageError
from theworld_train.jobs import Report
from theworld_train.media import media_of_chat
from theworld_train.pair import make_pair, make_tiny_pair
from theworld_train.processes import Rank
from theworld_train.recipe import Recipe, StageSettings
from theworld_train.recipe_checks import TINY
from theworld_train.vision import vision_key

_SAMPLE = 64
"""Rows by which it is guessed how many pictures and clips all have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Filled:
    """What became of a stage's inputs, and where those that are dead are listed."""

    stage: str
    built: Built
    dead_file: Path


def fill_caches(
    recipe: Recipe,
    rank: Rank,
    *,
    max_bytes: int | None = None,
    bar: Callable[[str], Report],
    say: Callable[[str], None],
) -> Iterator[Filled]:
    """Fill ``data.cache`` and ``data.vision_cache`` of every stage that has one, stage after stage.

    Args:
        bar: makes a progress bar.
        say: takes what is about to be written, before it is.

    Raises:
        UsageError: no stage has a cache, or the data cannot be opened.
        CheckpointError: a checkpoint is not there, or not what it should be.
    """
    stages = [stage for stage in recipe.stages if stage.data.cache or stage.data.vision_cache]
    if not stages:
        raise UsageError(
            f"no stage of {recipe.name} has a data.cache or data.vision_cache to fill. Name a folder, for example "
            "--set stages.0.data.vision_cache=features."
        )
    model, processor = _pair(recipe)
    device = rank.device()
    for stage in stages:
        towers = _towers(stage, model, processor, device, max_bytes)
        sources = [open_source(source, num_frames=processor.world_num_frames) for source in stage.data.sources]
        rows = None if any(map(_is_stream, sources)) else sum(source.number_of_rows for source in sources)
        folder = towers[0].cache.folder
        if rank.number == 0:
            say(f"{stage.name}: {_size(sources, rows, stage, model, processor, folder)}")
        rank.remove_old_lists(folder)
        built = build(
            rank.share(_rows(sources, processor.world_num_frames)),
            towers,
            dead_file=rank.dead_file(folder),
            total=None if rows is None else rank.number_of(rows),
            report=bar(stage.name),
            threads=rank.threads(),
        )
        yield Filled(stage=stage.name, built=built, dead_file=rank.dead_file(folder))


def _pair(recipe: Recipe) -> tuple[TheWorldForConditionalGeneration, TheWorldProcessor]:
    """The model as its first stage starts with it, all of it frozen, in the machine's memory."""
    with tempfile.TemporaryDirectory() as scratch:
        if recipe.model.vlm == TINY:
            make_tiny_pair(Path(scratch), recipe.seed)
        model, processor = make_pair(recipe, Path(scratch))
    if recipe.model.init_from:
        fill_adapter(model, recipe.model.init_from)
    return model.requires_grad_(False).eval(), processor


def _towers(
    stage: StageSettings,
    model: TheWorldForConditionalGeneration,
    processor: TheWorldProcessor,
    device: torch.device,
    max_bytes: int | None,
) -> list[Tower]:
    """Those that run alone are moved to the device; keys come of their weights before."""
    towers, parts = list[Tower](), model.model
    if stage.data.cache:
        cache = FeatureCache(stage.data.cache, parts.world_encoder, max_bytes=max_bytes)
        towers.append(Tower.of_world(cache, parts.world_encoder.to(device)))
    if stage.data.vision_cache:
        cache = FeatureCache(stage.data.vision_cache, vision_key(model, processor), max_bytes=max_bytes)
        parts.vision_tower.to(device)
        towers.append(Tower.of_vision(cache, model, processor))
    return towers


def _is_stream(source: OpenSource) -> bool:
    return isinstance(source.rows, datasets.IterableDataset)


def _draws(source: OpenSource) -> Iterator[Draw]:
    """Every row, in the order of the files, held-out ones too: evaluation reads the same caches."""
    if not isinstance(source.rows, datasets.IterableDataset):
        yield from (numbered(source, number) for number in range(source.number_of_rows))
        return
    table = source.rows if source.limit is None else source.rows.take(source.limit)
    for number, row in enumerate(stream_rows(table, source.name)):
        yield Draw(source=source, place=f"row {number + 1} of {source.name}", row=row)


def _rows(sources: Sequence[OpenSource], num_frames: int) -> Iterator[Row]:
    for source in sources:
        for draw in _draws(source):
            yield Row(label=draw.place, sources=partial(_sources, draw, num_frames))


def _sources(draw: Draw, num_frames: int) -> list[Source]:
    return sources_of(draw.example().messages, num_frames)


def _size(
    sources: Sequence[OpenSource],
    rows: int | None,
    stage: StageSettings,
    model: TheWorldForConditionalGeneration,
    processor: TheWorldProcessor,
    folder: Path,
) -> str:
    """How much is about to be written at most: some rows stand for all, and equal pictures are kept once."""
    sizes, looked_at = 0, 0
    for draw in (draw for source in sources for draw in islice(_draws(source), _SAMPLE)):
        looked_at += 1
        try:
            media = list(media_of_chat(draw.example().messages))
        except UNUSABLE:
            continue
        for kind, _ in media:
            frames = processor.world_num_frames if kind == "video" else 1
            sizes += world_bytes(model.model.world_encoder, frames) if stage.data.cache else 0
            sizes += vision_bytes(model) if stage.data.vision_cache else 0
    return room(folder, sizes / max(looked_at, 1) * (rows or 1), f"{rows:,} rows" if rows else "each row of a stream")
