"""Rows to a finished batch: pictures read, features looked up, every example collated and held to the limits."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from theworld_encoders import FeatureCache
from theworld_fusion import TheWorldProcessor
from theworld_train.data.collator import Collator, join
from theworld_train.data.conversation import check_chat, without_media
from theworld_train.data.example import Example
from theworld_train.data.lazy import load_chat
from theworld_train.data.packing import Outline, Rows, answer_mark, pack, row_limit
from theworld_train.data.source import UNUSABLE, Draw
from theworld_train.errors import UsageError
from theworld_train.media import Medium, media_of_chat
from theworld_train.recipe import BatchSettings, DataSettings, Packing


@dataclass(kw_only=True, slots=True)
class Made:
    """What became of some rows; there are no ``inputs`` where all were skipped."""

    inputs: dict[str, Any] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    cache_misses: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    """A row's example with its pictures, what these were called before, and features that are there of them."""

    example: Example
    media: tuple[Any, ...]
    features: list[Tensor | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Alike:
    """A row's example that shows what an earlier row of the batch does, the ``place``-th."""

    example: Example
    media: tuple[Any, ...]
    place: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ready:
    """A row that was made, what it shows, and whether with features instead of pixels."""

    key: str
    media: tuple[Any, ...]
    row: dict[str, Any]
    has_features: bool


class BatchMaker:
    """Makes batches as a recipe's section on data has it. Nothing random happens here."""

    def __init__(
        self,
        data: DataSettings,
        processor: TheWorldProcessor,
        *,
        batch: BatchSettings | None = None,
        world: Literal["on", "off"] = "on",
        encoder_key: str | None = None,
    ) -> None:
        """Args:
            batch: how rows are packed, and how long they may be at most; default: as ``data`` has it, one by one.
            encoder_key: of the encoder whose features ``data.cache`` holds.

        Raises:
            UsageError: there is no such cache, or its encoder is not known.
        """
        self._data, self._processor = data, processor
        self._collate, self._answer = Collator(processor, world=world), answer_mark(processor)
        self._packing: Packing = "none" if batch is None else batch.packing
        self._row_limit = data.max_tokens if batch is None else row_limit(batch, data)
        self._limit = min(data.max_tokens, self._row_limit)
        self._cached = data.cache is not None and world == "on"
        self._encoder_key = encoder_key
        self._cache: FeatureCache | None = None  # opened by the process that reads it
        self._remembered: dict[tuple[int, int], _Ready] = {}
        if self._cached and encoder_key is None:
            raise UsageError(f"features of {data.cache} are asked for, of an encoder without a key. Give encoder_key.")
        if self._cached and not Path(data.cache or "").is_dir():
            raise UsageError(
                f"{data.cache} is no folder. Fill it with `theworld cache build`, or leave data.cache out."
            )

    def __call__(self, draws: Sequence[Draw]) -> Made:
        """The rows as one batch, padded on the right; those that cannot be used are left out, and named.

        Raises:
            UsageError: one cannot be used, and the recipe does not skip such.
        """
        made, found = Made(), []
        for draw in draws:
            found.append(self._recall(draw) or self._alike(draw, found) or self._load(draw, made))
        loaded = [one for one in found if isinstance(one, _Loaded)]
        made.cache_misses = sum(tensor is None for one in loaded for tensor in one.features)
        ready = list[_Ready | None]()
        for draw, one in zip(draws, found, strict=True):
            if isinstance(one, _Alike):
                one = self._again(draw, one, ready[one.place], made)
            if isinstance(one, _Ready) and one.has_features and made.cache_misses:
                one = self._load(draw, made)
            if isinstance(one, _Loaded):
                one = self._row(draw, one, made)
            ready.append(one)
        usable = [one for one in ready if one is not None]
        made.keys = [one.key for one in usable]
        if usable:
            made.inputs = self._join(usable)
        return made

    def _join(self, ready: Sequence[_Ready]) -> dict[str, Any]:
        samples = [one.row for one in ready]
        if self._packing == "none":
            return join(samples, self._processor.tokenizer.pad_token_id)
        rows = Rows(self._packing, self._row_limit)
        for one in ready:
            rows.add(Outline.of(one.row["input_ids"][0].numpy(), self._answer, one.media))
        return pack(samples, rows, self._processor)

    def outline(self, draw: Draw) -> Outline:
        """The row's conversation, world and image tokens included, without reading its pictures.

        A clip's file counts as if it had all frames that are taken of one. Empty where the row cannot be used.
        """
        try:
            messages = draw.example().messages
            check_chat(messages)
            media = list(media_of_chat(messages))
            text: Any = self._processor.apply_chat_template(without_media(messages))  # pyright: ignore[reportArgumentType]
            ids = self._processor.without_pixels(text, self._frames(media), world=self._collate.world)["input_ids"]
        except UNUSABLE:
            ids, media = [], []
        return Outline.of(ids, self._answer, media)

    def _frames(self, media: Sequence[tuple[str, Any]]) -> list[int]:
        of_file = {"video": self._processor.world_num_frames, "image": 1}
        return [
            len(value) if isinstance(value, Sequence) and not isinstance(value, str) else of_file[kind]
            for kind, value in media
        ]

    def _alike(self, draw: Draw, earlier: Sequence[Any]) -> _Alike | None:
        """The row, where an earlier one shows the same: packing reads and prepares it once for all of them."""
        if self._packing != "shared_prefix":
            return None
        try:
            example = draw.example()
            media = tuple(media_of_chat(example.messages))
        except UNUSABLE:  # loading it will say why
            return None
        for place, one in enumerate(earlier):
            if media and isinstance(one, _Loaded | _Ready) and one.media == media:
                return _Alike(example=example, media=media, place=place)
        return None

    def _load(self, draw: Draw, made: Made) -> _Loaded | None:
        key = ""
        try:
            example = draw.example()
            key = example.key
            media = tuple(media_of_chat(example.messages))
            example = replace(example, messages=load_chat(example.messages))
            return _Loaded(example=example, media=media, features=self._features(example) if self._cached else [])
        except UNUSABLE as error:
            self._skip(draw, key, error, made)
            return None

    def _recall(self, draw: Draw) -> _Ready | None:
        return None if draw.number is None else self._remembered.get((id(draw.source), draw.number))

    def _again(self, draw: Draw, one: _Alike, first: _Ready | None, made: Made) -> _Ready | _Loaded | None:
        """The row with the pixels or features of the one before it; loaded where that cannot give them."""
        try:
            row = first and self._collate.again(one.example, first.row, self._frames(one.media))
        except UNUSABLE as error:
            self._skip(draw, one.example.key, error, made)
            return None
        if first is None or row is None:
            return self._load(draw, made)
        whole = first.has_features or not self._cached
        return self._checked(draw, replace(first, key=one.example.key, row=row), made, whole=whole)

    def _row(self, draw: Draw, loaded: _Loaded, made: Made) -> _Ready | None:
        example, features = loaded.example, loaded.features
        has_features = bool(features) and not made.cache_misses
        if has_features:
            example = replace(example, world_features=tuple(one for one in features if one is not None))
        try:
            row = self._collate([example])
        except UNUSABLE as error:
            self._skip(draw, example.key, error, made)
            return None
        ready = _Ready(key=example.key, media=loaded.media, row=row, has_features=has_features)
        whole = has_features or not features  # with pixels only for want of another row's features: not to be kept
        return self._checked(draw, ready, made, whole=whole)

    def _checked(self, draw: Draw, ready: _Ready, made: Made, *, whole: bool) -> _Ready | None:
        """The row if it is not too long; it is remembered if it is as it would be made in any batch."""
        tokens = ready.row["input_ids"].shape[1]
        if tokens <= self._limit:
            if whole and draw.number is not None and len(self._remembered) < self._data.remember:
                self._remembered[id(draw.source), draw.number] = ready  # sources live as long as the batches
            return ready
        reason = f"it makes {tokens} tokens, and {self._limit} are allowed."
        if self._data.on_long == "error":
            raise UsageError(f"{draw.place} is too long: {reason} Raise max_tokens, or set on_long: skip.")
        made.skipped.append({"key": ready.key, "reason": f"{draw.place}: {reason}"})
        return None

    def _skip(self, draw: Draw, key: str, error: Exception, made: Made) -> None:
        reason = " ".join(str(error).split())
        if self._data.on_broken == "error":
            raise UsageError(f"{draw.place} cannot be used: {reason} Mend it, or set on_broken: skip.") from error
        made.skipped.append({"key": key, "reason": f"{draw.place}: {reason}"})

    def _features(self, example: Example) -> list[Tensor | None]:
        if self._cache is None:
            self._cache = FeatureCache(self._data.cache or "", self._encoder_key or "")
        frames = self._processor.world_num_frames
        sources = [Medium("", kind, value).source(frames) for kind, value in media_of_chat(example.messages)]
        return [self._cache.get(self._cache.key(source)) for source in sources]
