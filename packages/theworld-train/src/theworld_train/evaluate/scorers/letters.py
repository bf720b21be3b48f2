"""Which of several lettered choices an answer takes."""

import re
from collections.abc import Mapping, Sequence

from theworld_train.evaluate.scorers.text import concluded, plain, stated
from theworld_train.evaluate.scorers.truth import truth

_OPENING = (
    r"[\"'\[]*(?:(?:it'?s|it\s+is|i(?:'d|\s+would)?\s+(?:choose|pick|say|select|go\s+with|think(?:\s+it'?s)?))\s+)?"
)
_NAMED = r"(?:(?:the\s+)?(?:option|choice|letter)\s*:?\s*)?"
_VERBS = (
    r"is|are|was|has|have|looks?|appears?|seems?|because|since|as|which|where|being|would|and|or|but|for|than|to|in|on"
    r"|at|with"
)
_NEGATION = re.compile(r"\b(?:not|never|neither|nor|cannot|unlikely|\w+n't|no)\b", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\b(?:neither|none\s+of|both|either|cannot|can't|can\s+not|unable|sorry|not\s+(?:sure|certain|possible|clear)|impossible|"
    r"unclear|(?:don't|do\s+not)\s+know)\b",
    re.IGNORECASE,
)


_QUESTION = re.compile(r"[^.!?\n]*\?")
_DENIED = re.compile(r"\s*(?:is|are|was)?\s*(?:not|n't|wrong|incorrect|false)\b", re.IGNORECASE)
_ASIDE = re.compile(r",\s+(?:which|where|who|located|marked|labell?ed|circled)\b[^,.]*,")
_FAR = re.compile(r"\b(?:f[au]rther|f[au]rthest|(?:more|most)\s+distant)\b", re.IGNORECASE)
"""Of one of two points it says that the other one is meant, where the nearer one is asked for."""
_AGREEING = re.compile(
    r"^(?:that|this|you)(?:'s|'re|\s+is|\s+are)\s+right(?:\s+to\s+\w+)?[,.!:]\s+(?=\S)", re.IGNORECASE
)
"""To the user, before an answer: no choice's text."""
_INSTEAD = re.compile(
    r",?\s+(?:rather\s+than|instead\s+of|as\s+opposed\s+to)\b[^.,;!?\n]*"
    r"|,\s+(?:and\s+)?not\s+(?!(?:sure|certain|possible|clear)\b)[^.,;!?\n]*(?=[.;!?\n]|$)",
    re.IGNORECASE,
)
"""What is turned down in passing: "the left one, not the right one"."""
_SEEMING = re.compile(r"\b(?:appears?|seems?|looks?)(?:\s+to\s+be)?\b", re.IGNORECASE)


def letters(answer: str, choices: Mapping[str, str]) -> str | None:
    """The letter that the answer takes, of ``choices``, which are texts by upper-case letter.

    In this order: what follows ``The answer is``; a letter that begins the answer (``(B)``, ``B.``, ``Option B``); the
    text of one choice, whole words; the one letter in brackets; the one letter that stands alone and is no article.
    ``None`` where these name several, where letter and text contradict each other, or where there is none.
    """
    text = plain(answer)
    text = _QUESTION.sub(" ", text).strip() or text
    text = _INSTEAD.sub("", _AGREEING.sub("", text))
    for parts in (stated(text), [concluded(text) or ""], [text]):
        if found := {letter for part in parts for letter in _taken(part, choices)}:
            return found.pop() if len(found) == 1 else None
    return None


def _taken(text: str, choices: Mapping[str, str]) -> set[str]:
    for read in (_leading, _worded, _bracketed, _alone):
        if found := read(text, choices):
            closing = re.search(rf"\(([{''.join(choices)}])\)[\s.!]*$", text)  # "Yes (B)", where B is no
            return found | ({closing[1]} if closing and read is _worded else set())
    return set()


def _leading(text: str, choices: Mapping[str, str]) -> set[str]:
    known = "".join(choices)
    if re.fullmatch(rf"\W*[{known}]\W*", text, re.IGNORECASE):
        return {re.sub(r"\W", "", text).upper()}
    start = _OPENING + _NAMED
    bracketed = re.match(rf"{start}(?:\(([{known}])\)|([{known}])[).\]])(?!\w)", text, re.IGNORECASE)
    bare = re.match(rf"(?i:{start})([{known}])(?=\s*(?:[:,;\n\"'\]]|-\s|$)|\s+(?:{_VERBS})\b|\s*/)", text)
    named = re.match(rf"(?i:{_OPENING}(?:the\s+)?(?:option|choice|letter)\s*:?\s*\(?)([{known}])(?i:\b)", text)
    match = bracketed or bare or named
    if match is None:
        return set()
    letter = next(group for group in match.groups() if group).upper()
    rest = text[match.end() :]
    if _DENIED.match(rest):
        return set()
    also = re.match(rf"\s*(?:,|/|&|and\b|or\b)\s*(?:{_NAMED})\(?([{known}])\b\)?", rest)
    also = also or re.fullmatch(rf"[\W_]*([{known}])\W*", rest)
    if also and also[1] != letter:
        return {letter, also[1]}
    if not bracketed and not named and re.match(r"\s+(?:is|are|was|has|have|looks?|appears?|seems?)\b", rest):
        return _worded(text, choices) or _sole(letter, text, choices)  # "B is closer" says what B is, not that it is B
    return {letter, *_equal(rest, choices)}


def _sole(letter: str, text: str, choices: Mapping[str, str]) -> set[str]:
    """A letter that a sentence is about: the answer, if no other is named and nothing is denied."""
    first = re.split(r"[.!?\n]", text)[0]
    if _NEGATION.search(first) or _FAR.search(first) or len(_standing(first, choices)) > 1:
        return set()
    return {letter}


def _equal(text: str, choices: Mapping[str, str]) -> set[str]:
    """Choices that the text, up to the first mark, is word by word."""
    said = _words(re.split(r"[.,;!?\n]", text.strip(" ,:-.)"))[0])
    return {letter for letter, choice in choices.items() if said and said == _words(choice)}


def _worded(text: str, choices: Mapping[str, str]) -> set[str]:
    """Choices whose text stands in a sentence that denies nothing; one inside a longer choice's counts as that one."""
    texts = {letter: _words(choice) for letter, choice in choices.items()}
    if {" ".join(words) for words in texts.values()} <= {"yes", "no", "true", "false"}:
        said = truth(text)
        return {letter for letter, words in texts.items() if said is not None and (words[0] in ("yes", "true")) is said}
    if whole := {letter for letter, words in texts.items() if _words(text) == words}:
        return whole
    found = set[str]()
    for sentence in re.split(r"[.!?;\n]", _SEEMING.sub("is", _ASIDE.sub(" ", text))):
        words = _words(sentence)
        spans = {letter: _places(words, wanted) for letter, wanted in texts.items()}
        for letter, places in spans.items():
            length = len(texts[letter])
            longer = [
                (place, place + len(texts[other]))
                for other, others in spans.items()
                if len(texts[other]) > length
                for place in others
            ]
            outside = [p for p in places if not any(start <= p and p + length <= end for start, end in longer)]
            if outside and not _NEGATION.search(sentence) and not _REFUSAL.search(sentence):
                found.add(letter)
    return found


def _bracketed(text: str, choices: Mapping[str, str]) -> set[str]:
    if _REFUSAL.search(text):
        return set()
    return {match[1] for match in re.finditer(rf"\(([{''.join(choices)}])\)", text)}


def _alone(text: str, choices: Mapping[str, str]) -> set[str]:
    if _REFUSAL.search(text) or _NEGATION.search(text) or _FAR.search(text):
        return set()
    return _standing(text, choices)


def _standing(text: str, choices: Mapping[str, str]) -> set[str]:
    """Upper-case letters that are words of their own; an ``A`` before a word that is no verb is an article."""
    found = {match[1] for match in re.finditer(rf"(?<![\w'])([{''.join(choices)}])(?![\w'])", text)}
    if "A" in found and not re.search(rf"(?<![\w'])A(?!['\w])(?!\s+(?!(?:{_VERBS})\b)[a-z])", text):
        found.remove("A")
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:'\w+)?", plain(text).lower())


def _places(words: Sequence[str], wanted: Sequence[str]) -> list[int]:
    if not wanted:
        return []
    return [start for start in range(len(words)) if words[start : start + len(wanted)] == wanted]
