"""Several conversations in one row: which go together, and the row that they become.

Each sees itself alone, at the positions that it has in a row of its own; ``theworld_fusion.packing`` makes the mask.
Conversations about the same pictures can also share what they begin with: the pictures' tokens are then computed once,
and every question goes on behind them. Loss and gradients are those of separate rows, up to rounding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from theworld_fusion import TheWorldProcessor
from theworld_tokens import Gemma3Token, WorldToken
from theworld_train.data.collator import join
from theworld_train.recipe import BatchSettings, DataSettings, Packing

_PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "labels")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Outline:
    """What decides where a conversation goes.

    Attributes:
        ids: its tokens; none where it cannot be used.
        prompt: tokens before the turn of its first answer: no more are ever shared, so that labels stay apart.
        media: its pictures and clips by name or content, in order; equal ones look the same.
    """

    ids: Int[np.ndarray, " l"]
    prompt: int
    media: tuple[Any, ...] = ()

    @classmethod
    def of(cls, ids: Sequence[int] | np.ndarray, answer: Sequence[int], media: Sequence[Any]) -> "Outline":
        """The outline of a conversation of ``ids``, in which ``answer_mark`` begins each answer's turn."""
        ids = np.asarray(ids, dtype=np.int64)
        prompt = 0
        if len(ids) >= len(answer):
            found = (np.lib.stride_tricks.sliding_window_view(ids, len(answer)) == answer).all(1)
            prompt = int(found.argmax())  # 0 where another template marks answers otherwise: nothing is shared then
        return cls(ids=ids, prompt=prompt, media=tuple(media))

    @property
    def tokens(self) -> int:
        """At least 1: a batch of none but conversations that cannot be used has to come to its end, too."""
        return max(1, len(self.ids))


def answer_mark(processor: TheWorldProcessor) -> list[int]:
    """The tokens that begin the turn of an answer in Gemma's format."""
    return processor.tokenizer(f"{Gemma3Token.START_OF_TURN.text}model", add_special_tokens=False)["input_ids"]


@dataclass(slots=True)
class Tree:
    """Conversations, by number, whose first ``shared`` tokens stand in the row once."""

    members: list[int]
    outlines: list[Outline]
    shared: int

    @property
    def tokens(self) -> int:
        return self.shared + sum(outline.tokens - self.shared for outline in self.outlines)

    def shared_with(self, outline: Outline) -> int:
        """How many tokens all would share with one more; 0 where it shows something else."""
        first = self.outlines[0]
        if first.media != outline.media:
            return 0
        most = min(self.shared, outline.prompt)
        differ = np.flatnonzero(first.ids[:most] != outline.ids[:most])
        return int(differ[0]) if len(differ) else most


@dataclass(slots=True)
class Rows:
    """Conversations to rows by first fit: each goes into the first row that has room, or into a new one.

    Attributes:
        packing: as in a recipe; with ``none`` every conversation has a row of its own.
        most: tokens of a row.
    """

    packing: Packing
    most: int
    rows: list[list[Tree]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    number: int = 0

    def add(self, outline: Outline) -> None:
        """Find the next conversation its row."""
        member, self.number = self.number, self.number + 1
        if self.packing == "shared_prefix" and outline.media and self._join(member, outline):
            return
        tree = Tree([member], [outline], outline.prompt)
        for row, size in enumerate(self.sizes if self.packing != "none" else ()):
            if size + tree.tokens <= self.most:
                self.rows[row].append(tree)
                self.sizes[row] += tree.tokens
                return
        self.rows.append([tree])
        self.sizes.append(tree.tokens)

    @property
    def padded(self) -> int:
        """Tokens of all rows, each padded to the longest."""
        return len(self.sizes) * max(self.sizes, default=0)

    def _join(self, member: int, outline: Outline) -> bool:
        """Put it under the first beginning that it shares, if the row has room and becomes shorter by it."""
        for row, trees in enumerate(self.rows):
            for tree in trees:
                shared = tree.shared_with(outline)
                grown = shared + sum(one.tokens - shared for one in (*tree.outlines, outline))
                size = self.sizes[row] - tree.tokens + grown
                if size <= self.most and grown < tree.tokens + outline.tokens:
                    tree.members.append(member)
                    tree.outlines.append(outline)
                    tree.shared, self.sizes[row] = shared, size
                    return True
        return False


def row_limit(batch: BatchSettings, data: DataSettings) -> int:
    """Tokens that a row may have, and therefore a conversation."""
    limits = (batch.row_tokens or data.max_tokens, batch.tokens)
    return min(limit for limit in limits if limit is not None)


def pack(samples: Sequence[dict[str, Any]], rows: Rows, processor: TheWorldProcessor) -> dict[str, Any]:
    """Conversations that were collated one by one, as a batch of the rows that they were given.

    Besides what ``Collator`` gives, the batch has ``position_ids`` and ``visible_until``, ``[b, l]`` each, from which
    the model makes its masks. Pictures of a shared beginning are in it once.
    """
    return join([_row(samples, trees, processor) for trees in rows.rows], processor.tokenizer.pad_token_id)


def _row(samples: Sequence[dict[str, Any]], trees: Sequence[Tree], processor: TheWorldProcessor) -> dict[str, Any]:
    pieces = list(_pieces(trees))
    row: dict[str, Any] = {
        name: torch.cat([samples[one.member][name][:, one.start : one.stop] for one in pieces], dim=1)
        for name in _PER_TOKEN
    }
    row["position_ids"] = torch.cat([torch.arange(one.start, one.stop) for one in pieces])[None]
    row["visible_until"] = torch.cat([torch.full((one.stop - one.start,), one.visible_until) for one in pieces])[None]
    for piece in pieces:
        sample = samples[piece.member]
        ids = sample["input_ids"][0]
        before, through = (_items(ids[:place], processor) for place in (piece.start, piece.stop))
        for name in sample.keys() & through.keys():
            row.setdefault(name, []).extend(sample[name][before[name] : through[name]])
    return {name: value for name, value in row.items() if len(value)}


@dataclass(frozen=True, slots=True)
class _Piece:
    """Tokens of one conversation that stand together in a row, and the place behind the last that sees them."""

    member: int
    start: int
    stop: int
    visible_until: int


def _pieces(trees: Sequence[Tree]) -> Iterator[_Piece]:
    end = 0
    for tree in trees:
        if tree.shared:
            yield _Piece(tree.members[0], 0, tree.shared, end + tree.tokens)
        end += tree.shared
        for member, outline in zip(tree.members, tree.outlines, strict=True):
            end += outline.tokens - tree.shared
            yield _Piece(member, tree.shared, outline.tokens, end)


def _items(ids: torch.Tensor, processor: TheWorldProcessor) -> dict[str, int]:
    """Pictures, and items of the world, whose tokens are among these."""
    images = int((ids == processor.tokenizer.image_token_id).sum()) // processor.image_seq_length
    start = processor.tokenizer.convert_tokens_to_ids(WorldToken.START_OF_WORLD.text)
    # Gated fusion has no tokens for the world: an item is where its picture is.
    world = images if processor.world_fusion == "gated" else int((ids == start).sum())
    return {
        "pixel_values": images,
        "image_features": images,
        "pixel_values_world": world,
        "world_features": world,
    }
