"""One training or evaluation example."""

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
