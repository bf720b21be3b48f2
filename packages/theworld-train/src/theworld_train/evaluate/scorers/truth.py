"""Whether an answer says yes or no: true or false are the same."""

import re

from theworld_train.evaluate.scorers.text import concluded, plain, stated

_YES = "yes|yeah|yep|yup|true|correct|indeed|affirmative"
_NO = "no|nope|false|incorrect|untrue|wrong"
_WORD = f"(?P<word>{_YES}|{_NO})"
_ALTERNATIVES = re.compile(
    r"(?:\b(?:either|neither|both)\s+)?\b(?:yes|no|true|false|correct|incorrect)\s*(?:[/|]|,?\s+(?:or|and|nor)\s+)\s*"
    r"(?:yes|no|true|false|correct|incorrect)\b",
    re.IGNORECASE,
)
_TAIL = r"(?:,?\s+(?:it|they|that|this|there|he|she)(?:\s+(?:is|are|does|do|was)(?:\s+not)?|\s+\w+ not)?)?"
_ADVERB = (
    r"(?:(?:so|then|and|but|also|well|oh|hm+|unfortunately|sadly|definitely|absolutely|clearly|certainly|probably|likely|most|very"
    r"|i(?:'d|\s+would)?\s+(?:say|answer|think|believe|guess))\s+)*"
)
_CLAUSE = re.compile(
    rf"{_ADVERB}(?:(?:the\s+)?answer\s+)?(?:(?P<not>not\s+)?{_WORD}{_TAIL}|(?P<never>(?:definitely|absolutely|certainly)\s+not))",
    re.IGNORECASE,
)
_LEAD = re.compile(rf"[\"'(\[]*{_ADVERB}{_WORD}\b[\"')\]]*(?P<mark>[^\w\s]|\n|$)?\s*(?P<next>[\w']*)", re.IGNORECASE)
_AFTER_NO = re.compile(
    r"(?:it|its|it's|they|the|there|this|that|these|those|he|she|region|because|since|as|you|not|i|in|a|an|from)",
    re.IGNORECASE,
)
_NOUNS = re.compile(r"(?:answer|option|choice|statement|response|way|doubt|problem|one|idea|need)s?", re.IGNORECASE)
_SURELY = r"(?!(?:hard|bare|part|partial|scarce|near|rare|possib|on)ly\b)\w+ly"
_PREDICATE = re.compile(
    rf"\b(?:is|are|was|be|it's|that's)\s+(?:(?:(?:most\s+|very\s+)?{_SURELY}|indeed|also|still)\s+)?(?P<not>not\s+)?(?:{_SURELY}\s+)?(?P<word>{_YES}|{_NO}|accurate|inaccurate)"
    r"(?=\s*(?:$|[.,;:!?\n)\"']|because\b|since\b|as\b|for\b|given\b|in\s+(?:the|this)\b))",
    re.IGNORECASE,
)
_UNSETTLED = re.compile(
    r"\b(?:if|whether|not\s+the\s+case|unless|not\s+(?:\w+\s+)?(?:sure|certain|clear|think|believe|say|know|determine|tell)|might|may|could"
    r"|(?:not|never|no\s+longer)\s+be|no\s+(?:evidence|indication|proof|sign|reason)|doubt|unclear|unsure|cannot|unable|unlikely|ask(?:s|ed)?|question)\b",
    re.IGNORECASE,
)
_SPLIT = re.compile(r"[.,;:!?\n()\[\]\"]+|\s-+\s")


def truth(answer: str) -> bool | None:
    """What the answer says; ``None`` where it says neither, both, or that it cannot tell.

    Counted are: a yes or no that begins the answer or is a clause of its own, what follows ``The answer is``, and
    ``... is (not) true``. A ``no`` inside a sentence, as in "there is no dog", says nothing. What is stated as the
    answer outweighs the rest; otherwise all must agree.
    """
    text = _ALTERNATIVES.sub(" ", re.sub(r"\b(\w+)n't\b", r"\1 not", plain(answer)))
    for part in (". ".join(stated(text)), concluded(text), text):
        if part and (said := _verdicts(part)):
            return said.pop() if len(said) == 1 else None
    return None


def _verdicts(text: str) -> set[bool]:
    clauses = (_CLAUSE.fullmatch(part.strip()) for part in _SPLIT.split(text))
    found = {_value(one["word"]) is not bool(one["not"]) if one["word"] else False for one in clauses if one}
    if (lead := _LEAD.match(text.strip())) and _leads(lead):
        found.add(_value(lead["word"]))
    for match in _PREDICATE.finditer(text):
        sentence = re.split(r"[.!?\n]", text[: match.start("word")])[-1]
        if not _UNSETTLED.search(sentence):
            found.add(_value(match["word"]) is not bool(match["not"]))
    return found


def _leads(lead: re.Match[str]) -> bool:
    """Whether the answer's first word is its verdict, and not part of a phrase: ``No dog``, ``Correct answer``."""
    word, following = lead["word"].lower(), lead["next"]
    if lead["mark"] not in (None, "'", '"') or not following:
        return True
    if _NOUNS.fullmatch(following):
        return False
    return word in ("yes", "yeah", "yep", "yup", "indeed") or bool(_AFTER_NO.fullmatch(following))


def _value(word: str) -> bool:
    return re.fullmatch(f"{_YES}|accurate", word, re.IGNORECASE) is not None
