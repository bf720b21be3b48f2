"""Rows to a finished batch: pictures read, features looked up, every example collated and held to the limits."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from theworld_encoders import FeatureCache
from theworld_fusion import TheWorldProcessor
from theworld_train.data.collator import Collator, join
from theworld_train.data.conversation import check_chat
from theworld_train.data.example import Example
from theworld_train.data.lazy import load_chat
from theworld_train.data.source import UNUSABLE, Draw
from theworld_train.errors import UsageError
from theworld_train.media import Medium, media_of_chat
from theworld_train.recipe import DataSettings


@dataclass(kw_only=True, slots=True)
class Made:
    """What became of some rows; there are no ``inputs`` where all were skipped."""

    inputs: dict[str, Any] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    cache_misses: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ready:
    """A row that was made, and whether with features instead of pixels."""

    key: str
    row: dict[str, Any]
    has_features: bool


class BatchMaker:
    """Makes batches as a recipe's section on data has it. Nothing random happens here."""

    def __init__(
        self,
        data: DataSettings,
        processor: TheWorldProcessor,
        *,
        world: Literal["on", "off"] = "on",
        encoder_key: str | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """Args:
            encoder_key: of the encoder whose features ``data.cache`` holds.
            max_tokens: of a conversation, where it is less than ``data.max_tokens``.

        Raises:
            UsageError: there is no such cache, or its encoder is not known.
        """
        self._data, self._processor = data, processor
        self._collate = Collator(processor, world=world)
        self._limit = min(data.max_tokens, max_tokens or data.max_tokens)
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
        made = Made()
        found = [(draw, self._recall(draw) or self._load(draw, made)) for draw in draws]
        made.cache_misses = sum(tensor is None for _, one in found if isinstance(one, tuple) for tensor in one[1])
        rows = []
        for draw, one in found:
            if isinstance(one, _Ready) and one.has_features and made.cache_misses:
                one = self._load(draw, made)
            ready = self._row(draw, *one, made) if isinstance(one, tuple) else one
            if ready is not None:
                rows.append(ready.row)
                made.keys.append(ready.key)
        if rows:
            made.inputs = join(rows, self._processor.tokenizer.pad_token_id)
        return made

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

    def _load(self, draw: Draw, made: Made) -> tuple[Example, list[Tensor | None]] | None:
        """The row's example with its pictures, and features that are there of them."""
        key = ""
        try:
            example = draw.example()
            key = example.key
            example = replace(example, messages=load_chat(example.messages))
            return example, self._features(example) if self._cached else []
        except UNUSABLE as error:
            self._skip(draw, key, error, made)
            return None

    def _recall(self, draw: Draw) -> _Ready | None:
        return None if draw.number is None else self._remembered.get((id(draw.source), draw.number))

    def _row(self, draw: Draw, example: Example, features: Sequence[Tensor | None], made: Made) -> _Ready | None:
        has_features = bool(features) and not made.cache_misses
        if has_features:
            example = replace(example, world_features=tuple(one for one in features if one is not None))
        try:
            row = self._collate([example])
        except UNUSABLE as error:
            self._skip(draw, example.key, error, made)
            return None
        if row["input_ids"].shape[1] <= self._limit:
            ready = _Ready(key=example.key, row=row, has_features=has_features)
            whole = has_features or not features  # with pixels only for want of another row's features: not to be kept
            if whole and draw.number is not None and len(self._remembered) < self._data.remember:
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

    def _features(self, example: Example) -> list[Tensor | None]:
        if self._cache is None:
            self._cache = FeatureCache(self._data.cache or "", self._encoder_key or "")
        frames = self._processor.world_num_frames
        sources = [Medium("", kind, value).source(frames) for kind, value in media_of_chat(example.messages)]
        return [self._cache.get(self._cache.key(source)) for source in sources]


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
