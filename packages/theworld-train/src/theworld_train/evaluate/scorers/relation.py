"""Which of two regions is left, above, behind, taller, wider or bigger, from sentences that compare them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from theworld_train.evaluate.scorers.text import concluded, plain, sentences, stated

RELATIONS = {
    "left": "right",
    "right": "left",
    "above": "below",
    "below": "above",
    "behind": "front",
    "front": "behind",
    "tall": "short",
    "short": "tall",
    "wide": "thin",
    "thin": "wide",
    "big": "small",
    "small": "big",
}
"""Opposites."""
_MORE, _LESS = r"greater|larger|bigger|more|higher|exceeds?|surpass(?:es)?", r"less|lesser|smaller|lower"
_OF_SIZE = {"tall": _MORE, "wide": _MORE, "short": _LESS, "thin": _LESS}
"""Words that speak of height or width in a sentence that names it."""
_SIZE = {"tall": r"\b(?:height|tall)\b", "wide": r"\b(?:width|wide)\b"}
_SIZE |= {"short": _SIZE["tall"], "thin": _SIZE["wide"]}
_WORDS = {
    "left": r"left|leftmost",
    "right": r"right|rightmost",
    "above": r"above|over|higher|on\s+top|atop",
    "below": r"below|under|underneath|beneath|lower",
    "behind": r"behind|further|farther|(?:more|most)\s+distant|at\s+the\s+back|(?:more\s+)?backward",
    "front": r"(?:in\s+)?front|closer|nearer|less\s+distant|(?:more\s+)?forward",
    "tall": r"taller",
    "short": r"shorter",
    "wide": r"wider|broader",
    "thin": r"thinner|narrower|slimmer",
    "big": r"bigger|larger|greater|more\s+space",
    "small": r"smaller|lesser|less\s+space",
}
_REGION = re.compile(r"\bregions?\s*\[?\s*(\d{1,4})\b\s*\]?|\[(\d{1,4})\]", re.IGNORECASE)
_NOT = re.compile(r"\bnot\b|n't\b|\bnever\b", re.IGNORECASE)
_AS_AS = re.compile(r"(?:\b(?:is|are)n't|\bnot)\s+(?:quite\s+)?as\s+(tall|wide|big|large|high)\s+as\b", re.IGNORECASE)
_EQUAL = re.compile(r"\b(?:same|equal(?:ly)?|neither|similar|identical|as\s+\w+\s+as)\b", re.IGNORECASE)
_OWN = re.compile(r"(?:(?:\d|\])'s|\bits)\s+$", re.IGNORECASE)
"""Before a side: "Region [0]'s left" is where the other one is."""
_HAS = re.compile(r"\b(?:has|have|with)\b", re.IGNORECASE)
"""Before "its left": the side is that of who has something there, and not of the last one named."""
_OF = re.compile(r"\s*(?:of|from|than|to)?\s*(?:the\s+)?", re.IGNORECASE)
"""After a word and before a region, where that is what the next one is compared with: "Left of [0] is [1]"."""
_PIECE = re.compile(r"[,;]|\b(?:and|while|whereas|but)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Reading:
    """Of a sentence: ``subject`` is, or is not, in the asked relation to ``other``."""

    subject: int
    holds: bool
    other: int | None


def relation(answer: str, asked: str, regions: tuple[int, int]) -> int | None:
    """The region of the two that is ``asked``, a key of ``RELATIONS``, relative to the other, by what the answer says.

    Read are sentences with one word for the relation or its opposite and the names of regions (``Region [0]``,
    ``Region 0``, ``[0]``); denials turn them round. An answer that names one region and compares nothing, or whose
    first line is a region's name, means that region. ``None`` where sentences contradict each other, or there is none.
    """
    text = plain(answer)
    for part in (". ".join(stated(text)), concluded(text), text):
        if part and (found := _found(part, asked, regions) or _named(part, regions)):
            return found.pop() if len(found) == 1 else None
    return None


def _named(text: str, regions: tuple[int, int]) -> set[int]:
    """The one region that the text names, or that its first line is."""
    first = text.partition("\n")[0]
    for part in (text, first if _REGION.fullmatch(first.strip(" .:")) else ""):
        named = {_number(match) for match in _REGION.finditer(part)}
        if len(named) == 1 and named <= set(regions) and not (_NOT.search(part) or _EQUAL.search(part)):
            return named
    return set()


def _found(text: str, asked: str, regions: tuple[int, int]) -> set[int]:
    found = set[int]()
    for reading in _readings(text, asked):
        if reading.subject not in regions or reading.other not in (None, *regions) or reading.subject == reading.other:
            continue
        other = regions[1] if reading.subject == regions[0] else regions[0]
        found.add(reading.subject if reading.holds else other)
    return found


def _readings(text: str, asked: str) -> Iterator[_Reading]:
    for sentence in sentences(text):
        if sentence.endswith("?"):
            continue
        short = _AS_AS.search(sentence)
        if short:
            sentence = f"{sentence[: short.start()]}{_SMALLER[short[1].lower()]} than{sentence[short.end() :]}"
        elif _EQUAL.search(sentence):
            continue
        positive, negative = _word(asked, sentence), _word(RELATIONS[asked], sentence)
        word = positive or negative
        if word is None:
            continue
        if positive and negative:
            pieces = _PIECE.split(sentence)
            if len(pieces) > 1:
                yield from _readings(".\n".join(pieces), asked)
            continue
        before = [_number(match) for match in _REGION.finditer(sentence, 0, word.start())]
        named = list(_REGION.finditer(sentence, word.end()))
        after = [_number(match) for match in named]
        holds = (positive is not None) is not bool(_NOT.search(sentence[: word.start()]))
        if before and _OWN.search(sentence, 0, word.start()) and not _HAS.search(sentence, 0, word.start()):
            whose, others = before[-1], [*before[:-1], *after]
            if len(set(others)) == 1:
                yield _Reading(others[0], holds, whose)
        elif before and len(set(after)) <= 1:
            yield _Reading(before[-1], holds, after[0] if after else None)
        elif not before and len(set(after)) == 1:
            yield _Reading(after[0], holds, None)
        elif not before and len(after) == 2 and _OF.fullmatch(sentence, word.end(), named[0].start()):
            yield _Reading(after[1], holds, after[0])


def _word(name: str, sentence: str) -> re.Match[str] | None:
    words = _WORDS[name]
    if name in _SIZE and re.search(_SIZE[name], sentence, re.IGNORECASE):
        words = f"{words}|{_OF_SIZE[name]}"
    return re.search(rf"\b(?:{words})\b", sentence, re.IGNORECASE)


_SMALLER = {"tall": "shorter", "high": "shorter", "wide": "thinner", "big": "smaller", "large": "smaller"}


def _number(match: re.Match[str]) -> int:
    return int(match[1] or match[2])
