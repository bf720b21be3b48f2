"""Where every special token of a prompt lies: the published table, or what a given tokenizer says."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self

from theworld_tokens.gemma3 import Gemma3Token
from theworld_tokens.world import WorldToken

IGNORE_INDEX = -100
"""The label of a position that carries no loss (torch's and transformers' convention)."""


class Tokenizer(Protocol):
    """What this package asks of a tokenizer; transformers' and most others have it."""

    def __len__(self) -> int: ...

    def get_vocab(self) -> Mapping[str, int]: ...

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int: ...


class TokenLayoutError(ValueError):
    """A tokenizer and a layout do not agree."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLayout:
    """The id of every special token, field by field. Field names are the texts without their angle brackets."""

    pad: int
    eos: int
    bos: int
    start_of_turn: int
    end_of_turn: int
    start_of_image: int
    end_of_image: int
    image_soft_token: int
    start_of_world: int
    end_of_world: int
    world_soft_token: int

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer) -> Self:
        """Read the ids that ``tokenizer`` has; world tokens that it lacks get its next free ids, in order.

        Raises:
            TokenLayoutError: a token of Gemma's own is missing, so this is no Gemma 3 tokenizer.
        """
        vocab = tokenizer.get_vocab()
        missing = [f"<{name}>" for name in _gemma_fields() if f"<{name}>" not in vocab]
        if missing:
            raise TokenLayoutError(
                f"the tokenizer has no {', '.join(missing)}. Use the tokenizer of a multimodal Gemma 3 checkpoint."
            )
        ids = {name: vocab[f"<{name}>"] for name in _gemma_fields()}
        free = iter(range(len(tokenizer), len(tokenizer) + len(WorldToken)))
        for name in _world_fields():
            ids[name] = vocab[f"<{name}>"] if f"<{name}>" in vocab else next(free)
        return cls(**ids)

    def to_dict(self) -> dict[str, int]:
        """The layout as a plain dictionary, ``{"bos": 2, ...}``."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _gemma_fields() -> tuple[str, ...]:
    return tuple(token.text[1:-1] for token in Gemma3Token)


def _world_fields() -> tuple[str, ...]:
    return tuple(token.text[1:-1] for token in WorldToken)


GEMMA3 = TokenLayout(**{token.text[1:-1]: int(token) for table in (Gemma3Token, WorldToken) for token in table})
"""The published table. For reference and tests: models and processors read config and tokenizer instead."""


def world_span(num_tokens: int, layout: TokenLayout) -> list[int]:
    """The ids of one image's or clip's world span: ``[SOW, WORLD x num_tokens, EOW]``.

    Raises:
        ValueError: ``num_tokens`` is below one.
    """
    if num_tokens < 1:
        raise ValueError(f"a world span of {num_tokens} tokens is empty. Ask for at least 1.")
    return [layout.start_of_world, *[layout.world_soft_token] * num_tokens, layout.end_of_world]


def world_text(num_tokens: int) -> str:
    """The same span as prompt text, for processors that expand placeholders before tokenising.

    Raises:
        ValueError: ``num_tokens`` is below one.
    """
    if num_tokens < 1:
        raise ValueError(f"a world span of {num_tokens} tokens is empty. Ask for at least 1.")
    return WorldToken.START_OF_WORLD.text + WorldToken.WORLD_SOFT.text * num_tokens + WorldToken.END_OF_WORLD.text


def register_world_tokens(tokenizer: Tokenizer, layout: TokenLayout) -> None:
    """Add the world tokens that ``tokenizer`` lacks, as special tokens, and check every id against ``layout``.

    Nothing is added when the ids would differ, so a failed call leaves the tokenizer as it was.

    Raises:
        TokenLayoutError: an id differs; the message names each token with both ids.
    """
    found = TokenLayout.from_tokenizer(tokenizer).to_dict()
    wanted = layout.to_dict()
    differing = [f"<{name}> is {found[name]}, not {wanted[name]}" for name in wanted if found[name] != wanted[name]]
    if differing:
        raise TokenLayoutError(
            f"the tokenizer's ids differ from the layout's: {'; '.join(differing)}. "
            "Use TokenLayout.from_tokenizer(tokenizer), or the tokenizer that the layout was made for."
        )
    vocab = tokenizer.get_vocab()
    new = [token.text for token in WorldToken if token.text not in vocab]
    if new:
        tokenizer.add_tokens(new, special_tokens=True)
    vocab = tokenizer.get_vocab()
    wrong = [f"<{name}> became {vocab.get(f'<{name}>')}, not {wanted[name]}"
             for name in _world_fields() if vocab.get(f"<{name}>") != wanted[name]]  # fmt: skip
    if wrong:
        raise TokenLayoutError(
            f"the tokenizer gave other ids than its next free ones: {'; '.join(wrong)}. "
            "Its length does not equal its highest id plus one: remove the gap before adding tokens."
        )
