"""Conversations as LLaVA writes them: turns ``from`` ``human`` and ``gpt``, with ``<image>`` where the picture goes."""

from collections.abc import Sequence
from typing import Any

_ROLES = {"human": "user", "gpt": "assistant"}


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
