"""Prompts as a cache compares them: ids, token types, and blocks of tokens that stand for pictures and world items.

Shapes: ``b`` row, ``l`` token; of a ``PromptRow`` without padding.
"""

from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

MEDIA = {"image": ("pixel_values",), "world": ("pixel_values_world", "world_features")}
"""By their name in ``mm_encoder_outputs``, what else they are given as."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Tokens that are reused together or not at all.

    Attributes:
        start, end: where they stand in the row, without padding.
        numbers: by kind, which of the call's media stand for them.
        media: these themselves.
    """

    start: int
    end: int
    numbers: dict[str, range]
    media: tuple[Tensor, ...]

    def settled(self, known: "Block | None") -> "Block":
        """With copies of the media, for the caller may change theirs; equal ones are the known block's."""
        if known is not None and len(self.media) == len(known.media) and all(map(_is_equal, self.media, known.media)):
            return replace(self, media=known.media)
        return replace(self, media=tuple(medium.detach().clone() for medium in self.media))

    def is_same(self, known: "Block | None") -> bool:
        """After ``settled``."""
        return (
            known is not None
            and (self.start, self.end) == (known.start, known.end)
            and len(self.media) == len(known.media)
            and all(mine is theirs for mine, theirs in zip(self.media, known.media, strict=True))
        )


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """A prompt without its ``padding``, in memory of the host but for its media."""

    padding: int
    ids: Int[Tensor, " l"]
    types: Int[Tensor, " l"]
    blocks: list[Block]

    def settled(self, known: "PromptRow | None") -> "PromptRow":
        pairs = zip_longest(self.blocks, known.blocks[: len(self.blocks)] if known else [])
        return replace(self, blocks=[block.settled(other) for block, other in pairs])

    def common(self, known: "PromptRow", limit: int) -> int:
        """The longest beginning of both, of at most ``limit`` tokens, that cuts no block of either."""
        length = max(0, min(limit, len(known.ids)))
        alike = (self.ids[:length] == known.ids[:length]) & (self.types[:length] == known.types[:length])
        length = int(alike.long().cumprod(0).sum())
        for block, other in zip_longest(self.blocks, known.blocks):
            if block is None or block.start >= length:
                break
            if block.end > length or not block.is_same(other):
                return block.start
        return length


def read_rows(config: Any, input_ids: Int[Tensor, "b l"], inputs: dict[str, Any]) -> list[PromptRow]:
    """The rows of a call, with its media dealt to them.

    Raises:
        ValueError: padding is not on the left, or the media are not those of the prompts.
    """
    ids = input_ids.cpu()
    mask, types = (inputs.get(name) for name in ("attention_mask", "token_type_ids"))
    mask = torch.ones_like(ids) if mask is None else mask.cpu()
    types = torch.zeros_like(ids) if types is None else types.cpu()
    media = {kind: _media(inputs, kind) for kind in MEDIA}
    seen, rows = dict.fromkeys(MEDIA, 0), []
    for row_ids, row_mask, row_types in zip(ids, mask, types, strict=True):
        padding = int((row_mask == 0).sum())
        if not row_mask[padding:].all():
            raise ValueError("a prompt is not padded on the left. Give the processor padding_side='left'.")
        row_ids, row_types, blocks = row_ids[padding:], row_types[padding:], []
        for start, end in _spans(config, row_ids, row_types):
            numbers = {}
            for kind, count in _count(config, row_ids[start:end], bool(media["world"])).items():
                numbers[kind] = range(seen[kind], seen[kind] + count)
                seen[kind] += count
            own = [item for kind, these in numbers.items() for item in media[kind][these.start : these.stop]]
            blocks.append(Block(start=start, end=end, numbers=numbers, media=tuple(own)))
        rows.append(PromptRow(padding=padding, ids=row_ids, types=row_types, blocks=blocks))
    given = {kind: len(items) for kind, items in media.items()}
    if seen != given:
        raise ValueError(
            f"the prompts have places for {seen['image']} pictures and {seen['world']} world items, and the call gives "
            f"{given['image']} and {given['world']}. With a PrefixCache give those of the whole conversation each "
            "time, as the processor makes them: known ones are not encoded again."
        )
    return rows


def _spans(config: Any, ids: Int[Tensor, " l"], types: Int[Tensor, " l"]) -> list[tuple[int, int]]:
    """Start and end of every block: world spans with their boundaries, image tokens, what attends both ways."""
    world = torch.isin(ids, torch.tensor(config.world_token_ids))
    image, both_ways = ids == config.image_token_id, types == 1
    goes_on = torch.zeros_like(world)
    goes_on[1:] = world[1:] & world[:-1] & (ids[1:] != config.world_start_token_id)
    for kind in (image, both_ways):
        goes_on[1:] |= kind[1:] & kind[:-1]
    starts = (~goes_on).nonzero().flatten().tolist()
    bounds = zip(starts, [*starts[1:], len(ids)], strict=True)
    is_block = world | image | both_ways
    return [(start, end) for start, end in bounds if is_block[start]]


def _count(config: Any, ids: Int[Tensor, " l"], has_world: bool) -> dict[str, int]:
    """Pictures and world items that stand for a block's tokens."""
    images = int((ids == config.image_token_id).sum()) // config.mm_tokens_per_image
    if config.world_fusion == "gated":
        return {"image": images, "world": images if has_world else 0}
    return {"image": images, "world": int((ids == config.world_start_token_id).sum())}


def _media(inputs: dict[str, Any], kind: str) -> list[Tensor]:
    encoded = (inputs.get("mm_encoder_outputs") or {}).get(kind)
    given = [inputs.get(name) for name in MEDIA[kind]] + [None if encoded is None else encoded.pooler_output]
    return [item for items in given if items is not None for item in items]


def common_columns(rows: list[PromptRow], known: PromptRow, filled: int) -> int:
    """How many columns of the batch need not be run: padding, then tokens of ``known``, of which ``filled`` are there.

    Rows stand flush right, so a row that is shorter than another runs some of its tokens again.
    """
    limit = rows[0].padding + len(rows[0].ids) - 1  # generate needs a token to begin with
    while True:
        ends = [row.padding + row.common(known, min(limit - row.padding, filled)) for row in rows]
        if min(ends) >= limit:
            return limit
        limit = min(ends)


def _is_equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.to(other.device), other)
