"""Answers without their dress: Markdown, typographic quotes, special tokens."""

import re
import unicodedata
from collections.abc import Iterator

_LOOKALIKES = str.maketrans(
    dict.fromkeys("‘’‛ʼ′´", "'")
    | dict.fromkeys("“”„‟″«»", '"')
    | dict.fromkeys("‐‑‒−﹣－", "-")
    | {"–": " - ", "—": " - ", "≈": " about ", "∼": " about ", "²": "^2", "³": "^3", "\u200b": "", "\ufeff": ""}
)
_FRACTION = re.compile(r"(?<=\d)(?=[¼½¾⅐-⅞])")
"""``3½`` is three and a half; normalised as it stands it would be 31/2."""
_SPECIAL = re.compile(r"</?s>|<(?:eos|bos|pad|end_of_turn|start_of_turn)>|<\|[a-z_]+\|>", re.IGNORECASE)
_LATEX = re.compile(r"\\(?:f?boxed|text|textbf|textit|emph|mathrm|mathbf|mathit|operatorname)\s*\{([^{}]*)\}")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{(\d{1,6})\}\s*\{(\d{1,6})\}")
_LATEX_SPACE = re.compile(r"\\[,;:! ()\[\]]|(?<=\d)~(?=[a-z])|\\q?quad\b", re.IGNORECASE)
_THOUGHT = re.compile(r"^.*</think(?:ing)?>|<think(?:ing)?>.*$", re.IGNORECASE | re.DOTALL)
"""What a model says to itself, and no answer."""
_TAGGED = re.compile(r"<(?:final_)?answer>(.*?)(?:</(?:final_)?answer>|$)", re.IGNORECASE | re.DOTALL)
_MARKDOWN = re.compile(
    r"\*+|`+|~~|^\s{0,3}(?:#{1,6}\s+|>\s*|[-+•]\s+)|(?<!\w)_+(?=\S)|(?<=\S)_+(?!\w)|\$", re.MULTILINE
)
_SENTENCE = re.compile(r"(?<=[.!?])(?:[\"')\]]*)\s+|\n+")
_MARKER = re.compile(
    r"\b(?:final\s+answer|(?:correct|right|best)\s+(?:answer|option|choice)|answer|conclusion)\b"
    r"(?:\s+(?:to\s+(?:the|this|your)\s+question|here))?\s*(?:is(?!n't)|would\s+be|must\s+be|should\s+be|[:=])\s*:?\s*",
    re.IGNORECASE,
)
_INFERENCE = re.compile(
    r"(?:^|(?<=[.!?]\s)|(?<=\n))(?:so|thus|hence|therefore|overall|in\s+(?:conclusion|summary))\b[,:]?\s*",
    re.IGNORECASE,
)


def plain(answer: str) -> str:
    """The answer's words: look-alike marks made one; thoughts before it, emphasis and special tokens taken off."""
    text = _TAGGED.sub(r"\nAnswer: \1\n", _THOUGHT.sub("", answer))
    text = _FRACTION.sub(" ", text).translate(_LOOKALIKES)
    text = unicodedata.normalize("NFKC", text).replace("\N{FRACTION SLASH}", "/")
    text = _SPECIAL.sub(" ", re.sub(r"[\ue000-\uf8ff\x00-\x08\x0b-\x1f]", " ", text))
    text = _LATEX_SPACE.sub(" ", _LATEX_FRACTION.sub(r" \1/\2", text))
    for _ in range(3):  # \boxed{\text{B}}
        text = _LATEX.sub(r"\1", text)
    text = _MARKDOWN.sub("", text)
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line).strip()


def sentences(text: str) -> list[str]:
    """Of plain text; a full stop inside a number ends none."""
    return [part.strip() for part in _SENTENCE.split(text) if part.strip()]


def stated(text: str) -> Iterator[str]:
    """What follows each ``The answer is`` or ``Answer:`` of plain text, to the line's end or the next one."""
    found = list(_MARKER.finditer(text))
    ends = [marker.start() for marker in found[1:]] + [len(text)]
    for marker, end in zip(found, ends, strict=False):
        said = text[marker.end() : end].strip()
        yield said.partition("\n")[0]


def concluded(text: str) -> str | None:
    """The sentence that follows the last ``Therefore``, ``So`` or ``Overall`` that begins one."""
    found = list(_INFERENCE.finditer(text))
    return next(iter(sentences(text[found[-1].end() :])), None) if found else None
