"""One item, from its messages to its record. What goes wrong with it alone is written down, and others are asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from theworld_encoders import preprocess
from theworld_encoders.errors import first_line
from theworld_fusion import TheWorldProcessor
from theworld_train.data.lazy import load_chat
from theworld_train.errors import UsageError
from theworld_train.evaluate.asker import Asker, Reply
from theworld_train.evaluate.prompts import Prompt, choice_tokens, make_prompt, readable
from theworld_train.evaluate.records import Record
from theworld_train.evaluate.task import Item, Task
from theworld_train.evaluate.watch import WorldIgnored

ITEM_ERRORS = (OSError, ValueError, RuntimeError, TypeError, LookupError, ArithmeticError)
"""What a damaged picture, a bad row or a model's limit raises; with these an item has an error and no answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """An item with its pictures and clips read, or why they were not."""

    item: Item
    world: Literal["on", "off"]
    chat: list[dict[str, Any]] | None = None
    other: list[Any] | None = None
    """What the world encoder sees instead of the chat's own pictures and clips."""
    error: str | None = None


def load(
    processor: TheWorldProcessor, item: Item, *, world: Literal["on", "off"], others: Mapping[str, Item]
) -> Loaded:
    """Read an item's media, and those of its partner where it has one; called by several threads."""
    try:
        chat = processor.load_media(load_chat(item.messages))
        other = None if item.key not in others else _media(processor.load_media(load_chat(others[item.key].messages)))
    except ITEM_ERRORS as error:
        return Loaded(item=item, world=world, error=reason(error))
    return Loaded(item=item, world=world, chat=chat, other=other)


def answer(asker: Asker, task: Task, batch: Sequence[Loaded]) -> list[Record]:
    """Records of a batch. Where asking all at once fails, one after the other is asked: the culprit has the error.

    Raises:
        WorldIgnored, OutOfMemoryError: nothing about an item is wrong.
    """
    asked: dict[int, tuple[Prompt, dict[str, torch.Tensor]]] = {}
    errors: dict[int, str] = {}
    for place, loaded in enumerate(batch):
        try:
            asked[place] = _prompt(asker, loaded)
        except ITEM_ERRORS as error:
            errors[place] = reason(error)
    replies = {}
    try:
        replies = _ask(asker, asked, list(asked))
    except (WorldIgnored, torch.OutOfMemoryError):
        raise
    except ITEM_ERRORS as error:
        if len(asked) == 1:
            errors |= dict.fromkeys(asked, reason(error))
            asked.clear()
        for place in asked:
            try:
                replies |= _ask(asker, asked, [place])
            except (WorldIgnored, torch.OutOfMemoryError):
                raise
            except ITEM_ERRORS as alone:
                errors[place] = reason(alone)
    return [
        _failed(loaded.item, errors[place])
        if place in errors
        else _record(asker, task, loaded.item, asked[place][0], replies[place])
        for place, loaded in enumerate(batch)
    ]


def reason(error: Exception) -> str:
    """An error's first line, with its kind where that alone says what it is about."""
    text = first_line(error) if str(error) else ""
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}".rstrip(": ")


def _prompt(asker: Asker, loaded: Loaded) -> tuple[Prompt, dict[str, torch.Tensor]]:
    if loaded.chat is None:
        raise UsageError(loaded.error or "it was not read")
    processor, item = asker.processor, loaded.item
    prompt = make_prompt(processor, loaded.chat, world=loaded.world)
    if loaded.world == "on" and not prompt.items:
        raise ValueError("the world is on, but the item has no picture or clip to make world tokens of.")
    if loaded.other is not None:
        prompt = prompt.with_world_pixels([preprocess(medium, processor.world_spec) for medium in loaded.other])
    choices = {}
    if asker.method == "likelihood":
        tokens = choice_tokens(processor, item.messages, item.choices)
        choices = dict(zip(item.choices, tokens, strict=True))
    return prompt, choices


def _ask(asker: Asker, asked: Mapping[int, tuple[Prompt, Any]], places: list[int]) -> dict[int, Reply]:
    if not places:
        return {}
    replies = asker.ask([asked[place][0] for place in places], [asked[place][1] for place in places])
    return dict(zip(places, replies, strict=True))


def _record(asker: Asker, task: Task, item: Item, prompt: Prompt, reply: Reply) -> Record:
    try:
        score = task.score(item, reply.text)
        if score.value is not None and not 0 <= score.value <= 1:
            raise ValueError(f"its score is {score.value}, not from 0 to 1")
        guesses = [task.score(item, choice).value or 0.0 for choice in item.choices]
    except ITEM_ERRORS as error:
        return _failed(item, f"its answer cannot be scored: {reason(error)}")
    ids, processor = prompt.input_ids, asker.processor
    gated = processor.world_fusion == "gated"
    image_tokens = int((ids == processor.tokenizer.image_token_id).sum())  # pyright: ignore[reportAttributeAccessIssue]
    world_tokens = int((ids == processor.world_token_id).sum())
    return Record(
        key=item.key,
        family=item.family,
        group=item.group,
        prompt=readable(processor, prompt),
        wanted=item.answer,
        answer=reply.text,
        score=score.value,
        chance=sum(guesses) / len(guesses) if guesses else 0.0,
        parsed=score.parsed,
        likelihoods=reply.likelihoods,
        prompt_tokens=len(ids),
        world_tokens=image_tokens if gated and prompt.items else world_tokens,  # each image token takes one in
        image_tokens=image_tokens,
        answer_tokens=reply.tokens,
        world_consumed=reply.consumed,
        figures=dict(score.figures),
    )


def _failed(item: Item, error: str) -> Record:
    return Record(
        key=item.key,
        family=item.family,
        group=item.group,
        prompt="",
        wanted=item.answer,
        answer=None,
        score=None,
        chance=0.0,
        error=error,
    )


def _media(chat: Sequence[dict[str, Any]]) -> list[Any]:
    blocks = [block for message in chat if isinstance(message["content"], list) for block in message["content"]]
    return [block["image"] for block in blocks if block["type"] == "image" and "image" in block]
