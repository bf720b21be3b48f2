"""Rows to a finished batch: pictures read, features looked up, every example collated and held to the limits."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from theworld_encoders import FeatureCache
from theworld_encoders.source import Source
from theworld_fusion import TheWorldProcessor
from theworld_train.data.collator import Collator, join
from theworld_train.data.conversation import check_chat
from theworld_train.data.example import Example
from theworld_train.data.lazy import load_chat, sources_of
from theworld_train.data.source import UNUSABLE, Draw
from theworld_train.errors import UsageError
from theworld_train.media import media_of_chat
from theworld_train.recipe import DataSettings
from theworld_train.vision import seen


@dataclass(kw_only=True, slots=True)
class Made:
    """What became of some rows; there are no ``inputs`` where all were skipped."""

    inputs: dict[str, Any] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    cache_misses: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    """A row's example, and what the caches have of its items, by kind."""

    example: Example
    features: dict[str, list[Tensor | None]]

    def misses(self, kind: str) -> int:
        return sum(one is None for one in self.features.get(kind, ()))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ready:
    """A row that was made, and which kinds of features it has instead of pixels."""

    key: str
    row: dict[str, Any]
    kinds: set[str]


class BatchMaker:
    """Makes batches as a recipe's section on data has it. Nothing random happens here."""

    def __init__(
        self,
        data: DataSettings,
        processor: TheWorldProcessor,
        *,
        world: Literal["on", "off"] = "on",
        encoder_key: str | None = None,
        vision_key: str | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """Args:
            encoder_key: of the encoder whose features ``data.cache`` holds.
            vision_key: of the vision tower whose features ``data.vision_cache`` holds.
            max_tokens: of a conversation, where it is less than ``data.max_tokens``.

        Raises:
            UsageError: there is no such cache, or what it holds features of is not known.
        """
        self._data, self._processor = data, processor
        self._collate = Collator(processor, world=world)
        self._limit = min(data.max_tokens, max_tokens or data.max_tokens)
        self._remembered: dict[tuple[int, int], _Ready] = {}
        self._folders: dict[str, tuple[str, str]] = {}
        """Folder and key by kind of features."""
        self._opened: dict[str, FeatureCache] = {}  # by the process that reads them
        world_folder = data.cache if world == "on" else None
        for kind, name, folder, key in (
            ("world_features", "encoder_key", world_folder, encoder_key),
            ("image_features", "vision_key", data.vision_cache, vision_key),
        ):
            if folder is None:
                continue
            if key is None:
                raise UsageError(f"{kind} of {folder} are asked for, and not whose they are. Give {name}.")
            if not Path(folder).is_dir():
                raise UsageError(f"{folder} is no folder. Fill it with `theworld cache build`, or leave it out.")
            self._folders[kind] = folder, key

    def __call__(self, draws: Sequence[Draw]) -> Made:
        """The rows as one batch, padded on the right; those that cannot be used are left out, and named.

        Raises:
            UsageError: one cannot be used, and the recipe does not skip such.
        """
        made = Made()
        found = [(draw, self._recall(draw) or self._load(draw, made)) for draw in draws]
        misses = {kind: sum(one.misses(kind) for _, one in found if isinstance(one, _Loaded)) for kind in self._folders}
        made.cache_misses = sum(misses.values())
        whole = {kind for kind in misses if not misses[kind]}
        rows = []
        for draw, one in found:
            if isinstance(one, _Ready) and not one.kinds <= whole:
                one = self._load(draw, made)
            ready = self._row(draw, one, whole, made) if isinstance(one, _Loaded) else one
            if ready is not None:
                rows.append(ready.row)
                made.keys.append(ready.key)
        if rows:
            made.inputs = join(rows, self._processor.tokenizer.pad_token_id)
        return made

    def example(self, draw: Draw) -> Example:
        """The row's example, with features of each kind that the caches have of all its items.

        Raises:
            ValueError, OSError: it cannot be used.
        """
        example = draw.example()
        loaded = self._with_features(example)
        return _featured(replace(loaded, example=example), {kind for kind in self._folders if not loaded.misses(kind)})

    def num_tokens(self, draw: Draw) -> int:
        """Tokens of the row's conversation, world and image tokens included, without reading its pictures.

        A clip's file counts as if it had all frames that are taken of one. 0 where the row cannot be used.
        """
        try:
            messages = draw.example().messages
            check_chat(messages)
            frames = [
                len(value) if isinstance(value, Sequence) and not isinstance(value, str) else self._frames(kind)
                for kind, value in media_of_chat(messages)
            ]
            text: Any = self._processor.apply_chat_template(_bare(messages))  # pyright: ignore[reportArgumentType]
            return self._processor.num_tokens(text, frames, world=self._collate.world)
        except UNUSABLE:
            return 0

    def _frames(self, kind: str) -> int:
        return self._processor.world_num_frames if kind == "video" else 1

    def _load(self, draw: Draw, made: Made) -> _Loaded | None:
        """The row's example, and features that are there of it."""
        key = ""
        try:
            example = draw.example()
            key = example.key
            return self._with_features(example)
        except UNUSABLE as error:
            self._skip(draw, key, error, made)
            return None

    def _recall(self, draw: Draw) -> _Ready | None:
        return None if draw.number is None else self._remembered.get((id(draw.source), draw.number))

    def _row(self, draw: Draw, loaded: _Loaded, whole: set[str], made: Made) -> _Ready | None:
        """The row, with features of the kinds that no row of its batch lacks."""
        example = loaded.example
        try:
            row = self._collate([_featured(loaded, whole)])
        except UNUSABLE as error:
            self._skip(draw, example.key, error, made)
            return None
        if row["input_ids"].shape[1] <= self._limit:
            has = {kind for kind in loaded.features if loaded.features[kind]}
            ready = _Ready(key=example.key, row=row, kinds=has & whole)
            keep = has <= whole  # with pixels only for want of another row's features: not to be kept
            if keep and draw.number is not None and len(self._remembered) < self._data.remember:
                self._remembered[id(draw.source), draw.number] = ready  # sources live as long as the batches
            return ready
        reason = f"it makes {row['input_ids'].shape[1]} tokens, and {self._limit} are allowed."
        if self._data.on_long == "error":
            raise UsageError(f"{draw.place} is too long: {reason} Raise max_tokens, or set on_long: skip.")
        made.skipped.append({"key": example.key, "reason": f"{draw.place}: {reason}"})
        return None

    def _skip(self, draw: Draw, key: str, error: Exception, made: Made) -> None:
        reason = " ".join(str(error).split())
        if self._data.on_broken == "error":
            raise UsageError(f"{draw.place} cannot be used: {reason} Mend it, or set on_broken: skip.") from error
        made.skipped.append({"key": key, "reason": f"{draw.place}: {reason}"})

    def _with_features(self, example: Example) -> _Loaded:
        if not self._folders:
            return _Loaded(example=replace(example, messages=load_chat(example.messages)), features={})
        # What has features is not decoded; what is known by its pixels alone is, once.
        example = replace(example, messages=load_chat(example.messages, packed=False))
        sources = sources_of(example.messages, self._processor.world_num_frames)
        loaded = _Loaded(example=example, features={kind: self._look_up(kind, sources) for kind in self._folders})
        if any(loaded.misses(kind) for kind in self._folders):
            # Now, so that a broken one is left out before all of its batch are made of pixels for its sake.
            messages = self._processor.load_media(load_chat(example.messages))
            loaded = replace(loaded, example=replace(example, messages=messages))
        return loaded

    def _look_up(self, kind: str, sources: Sequence[Source]) -> list[Tensor | None]:
        if kind not in self._opened:
            self._opened[kind] = FeatureCache(*self._folders[kind])
        cache = self._opened[kind]
        return [cache.get(cache.key(seen(source) if kind == "image_features" else source)) for source in sources]


def _featured(loaded: _Loaded, kinds: set[str]) -> Example:
    """The example with features of these kinds, as far as they were looked up."""
    features = {kind: tuple(loaded.features[kind]) for kind in kinds & loaded.features.keys()}
    return replace(loaded.example, **features)  # pyright: ignore[reportArgumentType]


def _bare(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The chat without its pictures and clips: one image block each, as the processor's own templates have it."""
    return [
        {**message, "content": [_bare_block(block) for block in message["content"]]}
        if isinstance(message["content"], list)
        else message
        for message in messages
    ]


def _bare_block(block: dict[str, Any]) -> dict[str, Any]:
    return {"type": "image"} if block["type"] in ("image", "video") else block
