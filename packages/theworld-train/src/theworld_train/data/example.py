"""One training or evaluation example."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Example:
    """A conversation in chat format, with its pictures and clips inside.

    Attributes:
        messages: ``{"role": "user" | "assistant" | "system", "content": str | list of blocks}``; a block is
            ``{"type": "text", "text": ...}``, ``{"type": "image", "image": ...}`` or
            ``{"type": "video", "video": ...}``.
        world_features: the frozen encoder's output for each item, ``[t', r, s, c]``, where it was computed before.
    """

    messages: list[dict[str, Any]]
    world_features: tuple[Tensor, ...] | None = None


def cached_features(examples: Sequence[Example]) -> list[Tensor] | None:
    """World features of a batch's items, in order; ``None`` where they were not computed before.

    Raises:
        ValueError: some examples have them and some do not.
    """
    cached = [example.world_features for example in examples]
    if all(features is None for features in cached):
        return None
    if any(features is None for features in cached):
        raise ValueError("some examples of a batch have world_features and some do not. Encode all or none.")
    return [item for features in cached for item in features or ()]
