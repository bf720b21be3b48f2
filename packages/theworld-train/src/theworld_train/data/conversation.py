"""Conversations as LLaVA writes them: turns ``from`` ``human`` and ``gpt``, with ``<image>`` where the picture goes."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from theworld_tokens import Gemma3Token, WorldToken

_ROLES = {"human": "user", "gpt": "assistant"}


_MARKS = tuple(token.text for token in (*Gemma3Token, *WorldToken))


def check_chat(messages: Sequence[dict[str, Any]]) -> None:
    """See that a chat can be learnt from, whatever a stranger wrote into it.

    A tokenizer takes ``<end_of_turn>`` for the mark that it is, wherever it stands: a text that holds one would end its
    turn, begin another speaker's, or claim features of a picture that is not there.

    Raises:
        ValueError: the assistant begins, an answer holds a picture, or a text is no Unicode or holds such a mark.
    """
    first = next((message["role"] for message in messages if message["role"] != "system"), None)
    if first == "assistant":
        raise ValueError("the conversation begins with the assistant. Begin with a question, or take that turn out.")
    for message in messages:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for block in blocks:
            if block["type"] != "text":
                if message["role"] == "assistant":
                    raise ValueError("an answer holds a picture or clip, and only texts are learnt. Ask about it.")
                continue
            text = block["text"]
            if half := re.search("[\ud800-\udfff]", text):  # JSON can write it, and no tokenizer reads it
                raise ValueError(f"a text holds {half[0]!r}, half of a character. Write it whole.")
            if found := [mark for mark in _MARKS if mark in text]:
                raise ValueError(f"a text holds {found[0]}, a mark of the model's own. Take it out of the text.")


def without_media(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The chat with an image block, and no more, for each picture and clip, as the processor's templates have it."""
    return with_blocks(messages, _bare)


def with_blocks(
    messages: Sequence[dict[str, Any]], change: Callable[[dict[str, Any]], dict[str, Any]]
) -> list[dict[str, Any]]:
    """The chat with each block of it changed; a turn that is only a text has none."""
    return [
        {**message, "content": [change(block) for block in message["content"]]}
        if isinstance(message["content"], list)
        else message
        for message in messages
    ]


def _bare(block: dict[str, Any]) -> dict[str, Any]:
    return {"type": "image"} if block["type"] in ("image", "video") else block


def to_messages(turns: Sequence[dict[str, Any]] | None, picture: Any) -> list[dict[str, Any]]:
    """A chat about one picture, which stands where ``<image>`` did, or first where that is nowhere.

    Raises:
        ValueError: there are no turns, one has another speaker or no text, or there are several ``<image>``.
    """
    if not turns:
        raise ValueError("the conversation has no turns.")
    messages = []
    for number, turn in enumerate(turns):
        speaker, text = turn.get("from"), turn.get("value")
        if speaker not in _ROLES or not isinstance(text, str) or not text.replace("<image>", "").strip():
            raise ValueError(
                f"turn {number} is from {speaker!r}, with the text {text!r}. Use human and gpt, and a text."
            )
        messages.append({"role": _ROLES[speaker], "content": text})
    number = sum(message["content"].count("<image>") for message in messages)
    if number > 1:
        raise ValueError(f"the conversation has {number} <image> for its one picture.")
    if number == 0:
        messages[0]["content"] = "<image>" + messages[0]["content"]
    block = {"type": "image", "image": picture}
    for message in messages:
        before, found, after = message["content"].partition("<image>")
        if found:
            message["content"] = [*_text(before), block, *_text(after)]
    return messages


def ask(picture: Any, question: str, answer: str) -> list[dict[str, Any]]:
    """A chat of one question about one picture, and its answer."""
    blocks = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    return [{"role": "user", "content": blocks}, {"role": "assistant", "content": answer}]


def _text(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text.strip()}] if text.strip() else []
