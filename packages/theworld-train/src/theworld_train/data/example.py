"""A training or evaluation example: a conversation, and who it is."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

FEATURES = ("world_features", "image_features")
"""Fields that hold them."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A conversation in chat format, with its pictures and clips inside.

    Attributes:
        messages: ``{"role": "user" | "assistant" | "system", "content": str | list of blocks}``; a block is
            ``{"type": "text", "text": ...}``, ``{"type": "image", "image": ...}`` or
            ``{"type": "video", "video": ...}``.
        world_features: the frozen encoder's output for each item, ``[t', r, s, c]``, where it was computed before.
        image_features: the frozen vision tower's pooled output for each item, ``[n, p, c]``, likewise.
        key: who it is: a digest of what tells it from others in its data set, the same on every machine.
        group: what it shares with others that must not be on both sides of a split: a digest of its picture.
    """

    messages: list[dict[str, Any]]
    world_features: tuple[Tensor, ...] | None = None
    image_features: tuple[Tensor, ...] | None = None
    key: str = ""
    group: str = ""

    def needs_media(self, world: Literal["on", "off"]) -> bool:
        """Whether its pictures and clips have to be read, features of them being incomplete."""
        return self.image_features is None or (world == "on" and self.world_features is None)

    def is_held_out(self, share: float) -> bool:
        """Whether it is in the ``share`` (0 to 1) of all groups that evaluation gets, whatever else there is."""
        return int(digest(self.group)[:16], 16) < share * 2**64


def digest(*identity: Any) -> str:
    """32 hexadecimal digits of plain values: strings, numbers, lists and dicts of them, and bytes."""
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False, default=lambda content: sha(content))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def sha(content: bytes) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(content).hexdigest()


def cached_features(
    examples: Sequence[Example], kind: Literal["world_features", "image_features"] = "world_features"
) -> list[Tensor] | None:
    """Features of a batch's items, in order; ``None`` where they were not computed before.

    Raises:
        ValueError: some examples have them and some do not.
    """
    cached = [getattr(example, kind) for example in examples]
    if all(features is None for features in cached):
        return None
    if any(features is None for features in cached):
        raise ValueError(f"some examples of a batch have {kind} and some do not. Encode all or none.")
    return [item for features in cached for item in features or ()]


def alike(examples: Sequence[Example]) -> list[Example]:
    """The same examples, with features of a kind only where all have them: others are made of pixels."""
    for kind in FEATURES:
        if any(getattr(example, kind) is None for example in examples):
            examples = [replace(example, **{kind: None}) for example in examples]
    return list(examples)
