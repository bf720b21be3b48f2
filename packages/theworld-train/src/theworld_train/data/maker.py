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
from theworld_train.data.conversation import check_chat, without_media
from theworld_train.data.example import Example
from theworld_train.data.lazy import load_chat, sources_of
from theworld_train.data.packing import Outline, Rows, answer_mark, pack, row_limit
from theworld_train.data.source import UNUSABLE, Draw
from theworld_train.errors import UsageError
from theworld_train.media import media_of_chat
from theworld_train.recipe import BatchSettings, DataSettings, Packing
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
    """A row's example, what its pictures were called before they were read, and by kind what caches have of them."""

    example: Example
    media: tuple[Any, ...]
    features: dict[str, list[Tensor | None]]

    def misses(self, kind: str) -> int:
        return sum(one is None for one in self.features[kind])

    def featured(self, kinds: set[str]) -> Example:
        """The example with features of these kinds, of which none is missing."""
        return replace(self.example, **{kind: tuple(self.features[kind]) for kind in kinds})


@dataclass(frozen=True, kw_only=True, slots=True)
class _Alike:
    """A row's example that shows what an earlier row of the batch does, the ``place``-th."""

    example: Example
    media: tuple[Any, ...]
    place: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ready:
    """A row that was made, what it shows, and which kinds of features it has instead of pixels."""

    key: str
    media: tuple[Any, ...]
    row: dict[str, Any]
    kinds: set[str]


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
        vision_key: str | None = None,
    ) -> None:
        """Args:
            batch: how rows are packed, and how long they may be at most; default: as ``data`` has it, one by one.
            encoder_key: of the encoder whose features ``data.cache`` holds.
            vision_key: of the vision tower whose features ``data.vision_cache`` holds.

        Raises:
            UsageError: there is no such cache, or what it holds features of is not known.
        """
        self._data, self._processor = data, processor
        self._collate, self._answer = Collator(processor, world=world), answer_mark(processor)
        self._packing: Packing = "none" if batch is None else batch.packing
        self._row_limit = data.max_tokens if batch is None else row_limit(batch, data)
        self._limit = min(data.max_tokens, self._row_limit)
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
        made, found = Made(), []
        for draw in draws:
            found.append(self._recall(draw) or self._alike(draw, found) or self._load(draw, made))
        loaded = [one for one in found if isinstance(one, _Loaded)]
        misses = {kind: sum(one.misses(kind) for one in loaded) for kind in self._folders}
        made.cache_misses = sum(misses.values())
        whole = {kind for kind in misses if not misses[kind]}
        ready = list[_Ready | None]()
        for draw, one in zip(draws, found, strict=True):
            if isinstance(one, _Alike):
                one = self._again(draw, one, ready[one.place], made)
            if isinstance(one, _Ready) and not one.kinds <= whole:
                one = self._load(draw, made)
            if isinstance(one, _Loaded):
                one = self._row(draw, one, whole, made)
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

    def example(self, draw: Draw) -> Example:
        """The row's example, with features of each kind that the caches have of all its items.

        Raises:
            ValueError, OSError: it cannot be used.
        """
        example = draw.example()
        loaded = replace(self._with_features(example), example=example)
        return loaded.featured({kind for kind in self._folders if not loaded.misses(kind)})

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
            return self._with_features(example)
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
        return self._checked(draw, replace(first, key=one.example.key, row=row), made)

    def _row(self, draw: Draw, loaded: _Loaded, whole: set[str], made: Made) -> _Ready | None:
        """The row, with features of the kinds that no row of its batch lacks."""
        try:
            row = self._collate([loaded.featured(whole)])
        except UNUSABLE as error:
            self._skip(draw, loaded.example.key, error, made)
            return None
        kinds = whole if loaded.media else set[str]()
        return self._checked(draw, _Ready(key=loaded.example.key, media=loaded.media, row=row, kinds=kinds), made)

    def _checked(self, draw: Draw, ready: _Ready, made: Made) -> _Ready | None:
        """The row if it is not too long; it is remembered if it has no pixels only for want of another's features."""
        tokens = ready.row["input_ids"].shape[1]
        if tokens <= self._limit:
            keep = not ready.media or ready.kinds == self._folders.keys()
            if keep and draw.number is not None and len(self._remembered) < self._data.remember:
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

    def _with_features(self, example: Example) -> _Loaded:
        media, messages = tuple(media_of_chat(example.messages)), example.messages
        if not self._folders:
            return _Loaded(example=replace(example, messages=load_chat(messages)), media=media, features={})
        # What has features is not decoded; what is known by its pixels alone is, once.
        example = replace(example, messages=load_chat(messages, packed=False))
        sources = sources_of(example.messages, self._processor.world_num_frames)
        features = {kind: self._look_up(kind, sources) for kind in self._folders}
        loaded = _Loaded(example=example, media=media, features=features)
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
