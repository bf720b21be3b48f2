"""A length in an answer, in metres, whatever unit it is given in."""

import math
import re
from dataclasses import dataclass

from theworld_train.evaluate.scorers.numbers import NUMBER, SMALL, number
from theworld_train.evaluate.scorers.text import concluded, plain, stated

_METRES = {"km": 1000.0, "m": 1.0, "cm": 0.01, "mm": 0.001, "mi": 1609.344, "yd": 0.9144, "ft": 0.3048, "in": 0.0254}
"""Of one unit; the yard is 0.9144 m by the international agreement of 1959, foot, inch and mile follow from it."""
_PATTERNS = {
    "km": r"km|kilomet(?:er|re)s?",
    "cm": r"cms?|centimet(?:er|re)s?",
    "mm": r"mm|millimet(?:er|re)s?",
    "m": r"m|met(?:er|re)s?",
    "mi": r"mi|miles?",
    "yd": r"yds?|yards?",
    "ft": r"ft|foot|feet",
    "in": r"inch|inches|in(?=\.?\s*(?:$|[.,;:!?)\]/\n(]|in\b|tall\b|wide\b|high\b|long\b|deep\b|thick\b|across\b"
    r"|apart\b|by\b|x\b|away\b|from\b|or\b|and\b|above\b|below\b|horizontally\b|vertically\b))",
}
_PARTS = {("ft", "in"): 12, ("yd", "ft"): 3, ("m", "cm"): 100, ("km", "m"): 1000, ("cm", "mm"): 10}
"""Pairs of units that one length is given in, and where the second one's numbers end."""

_UNIT = "|".join(f"(?P<{{0}}_{name}>{pattern})" for name, pattern in _PATTERNS.items())
_END = r"(?![\w^]|\s*/\s*[a-z]|\s+per\b)"
_GAP = r"(?:(?<=\d)[\s-]*|[\s-]+)"
"""Between number and unit; words need one: the ``am`` of "I am" is no metre."""
_START = r"(?<![\w.,:\[-])(?<!\d )(?<!\[ )(?<!\d/)"
_SEPARATOR = (  # not the dash of twenty-five or 3-1/2, nor the "and" of a hundred and five or three and a half
    r"(?<!ty)-(?!\d+/\d)|to\b|or\b|(?<!hundred )(?<!thousand )and\b(?!\s+an?\s+(?:half|quarter|third)\b|\s+\d+/\d)"
    r"|~|±|plus\s+or\s+minus"
)
_MEASURE = re.compile(
    rf"{_START}(?P<low>{NUMBER})(?:{_GAP}(?:{_UNIT.format('a')}){_END})?"
    rf"\s*(?P<sep>{_SEPARATOR})\s*(?P<high>{NUMBER}){_GAP}(?:{_UNIT.format('b')}){_END}"
    rf"|{_START}(?P<one>{NUMBER}){_GAP}(?:{_UNIT.format('c')}){_END}"
    r"(?:\s+and\s+(?P<part>a\s+half|a\s+quarter|three[\s-]+quarters)\b(?!\s+an?\b))?",
    re.IGNORECASE,
)
_NEGATIVE = re.compile(
    rf"(?:(?<![\w)\]])-\s?(?=[\d.])|\b(?:minus|negative)\s+){NUMBER}{_GAP}(?:{'|'.join(_PATTERNS.values())})(?!\w)",
    re.IGNORECASE,
)
_POINT = re.compile(rf"\b((?:\d+|{SMALL}|hundred|thousand)\s+)?point\s+(?={SMALL}\b)", re.IGNORECASE)
_DENIED = re.compile(r"(?:\bnot|n't)\s+(?:(?:about|around|roughly)\s+)?$", re.IGNORECASE)
_OR_SO_MANY = re.compile(rf"\s+or\s+(?:\d+|{SMALL})\b(?![\s-]*(?:{'|'.join(_PATTERNS.values())})\b)", re.IGNORECASE)
"""After a length: "a foot or two"."""
_DASH = re.compile(rf"(\d\s*(?:{'|'.join(_PATTERNS.values())})?)\s*-\s*(?=[\d.])", re.IGNORECASE)
"""Between the ends of a range: no minus."""
_AREA = re.compile(r"\b(?:square|cubic)\s+$", re.IGNORECASE)
_PRODUCT = re.compile(rf"\d\s*(?:{'|'.join(_PATTERNS.values())})?\s*(?:x|×|by)\s*$", re.IGNORECASE)
_AGREE = 0.1
"""Lengths that differ by less, relative to the first, are one, rounded: "6 feet (1.8 m)", "3 feet (1 m)"."""
_WIDEST = 2.0
"""A range whose upper end is more than this times its lower end is no answer."""


@dataclass(frozen=True, slots=True)
class _Length:
    start: int
    end: int
    unit: str
    count: float
    metres: float


def quantity(answer: str, *, label: str = "") -> float | None:
    """The length that the answer gives, in metres; ``None`` where it gives none, or several that differ by over 10 %.

    Understood are numbers in digits (``1,200``, ``2.5e1``, ``3 1/2``) and words (``half a``, ``two and a half``) with a
    unit beside them, compound lengths (``5' 10"``, ``1 m 20 cm``) and the same length in two units. A range counts as
    its middle, if its upper end is at most twice its lower one; of ``5 ± 1`` the 5 counts. Bounds ("over 5 m") count as
    their number. No unit, pixels, areas, products and negative numbers are no length. What is stated as the answer
    outweighs the rest, then a line that begins with ``label`` and a colon, as in "Height: 3 m", and then what follows
    the last "Therefore"; otherwise all lengths must agree.
    """
    text = _marks_as_words(plain(answer))
    labelled = re.findall(rf"^{re.escape(label)}\s*:(.*)$", text, re.IGNORECASE | re.MULTILINE) if label else []
    for part in (". ".join(stated(text)), ". ".join(labelled), concluded(text)):
        if part and (lengths := _lengths(part)) != []:
            return _one(lengths)
    return _one(_lengths(text))


def _one(lengths: list[_Length] | None) -> float | None:
    if not lengths:
        return None
    first = lengths[0].metres
    agree = all(abs(other.metres - first) <= _AGREE * first for other in lengths)
    return first if agree and math.isfinite(first) else None


def _marks_as_words(text: str) -> str:
    """Plain text whose marks for feet and inches are words; those that close a quotation stay."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" and text.count(text[0]) in (2, 3):
        text = text[1:-1]
    text = re.sub(r"\bone[- ](?=(?:half|quarter|third)\b)", "a ", text, flags=re.IGNORECASE)
    text = _POINT.sub(lambda found: found[0] if found[1] else f"zero {found[0]}", text)
    text = re.sub(
        r"\b(m|met(?:er|re)s?)\s+(\d\d)(?=\s*(?:$|[,;!?)\n]|\.(?!\d)))", r"\1 \2 cm", text, flags=re.IGNORECASE
    )
    text = re.sub(r"\+\s?/?\s?-", "±", re.sub(r"(?<=\d)\s?''", '"', text))
    text = re.sub(r"(?<=\d)(ft|m|km|yd)(?=\d+(?:\.\d+)?\s?(?:in|inches|cm|m|ft)\b)", r"\1 ", text, flags=re.IGNORECASE)
    text = re.sub(
        r"(?<=\d)\s?'\s*-?\s*(\d+(?:\.\d+)?(?:\s+\d+/\d+)?|\d+/\d+)\s?(?:\"|in(?:ch(?:es)?)?\b\.?)?(?![\d'])",
        r" ft \1 inch ",
        text,
    )
    text = re.sub(
        rf"(\b|\d)(foot|feet|ft)[\s-]+({NUMBER})(?=\s*(?:$|[,;!?)\n]|\.(?!\d)|tall\b))",
        r"\1\2 \3 inch ",
        text,
        flags=re.I,
    )
    for mark, word in (('"', " inch "), ("'", " ft ")):
        opened = rf"(?<!\w){mark}(?=\w)" if mark == "'" else mark
        pieces = list(re.finditer(rf"(?<=\d)\s?{mark}(?!\w)", text))
        for found in reversed(pieces):
            if len(re.findall(opened, text[: found.start()])) % 2 == 0:
                text = text[: found.start()] + word + text[found.end() :]
    return text


def _lengths(text: str) -> list[_Length] | None:
    """Every length of the text, compound ones as one; ``None`` where one of them is no length that could be."""
    if _NEGATIVE.search(_DASH.sub(r"\1 to ", text)):
        return None
    found = list[_Length]()
    for match in _MEASURE.finditer(text):
        before = text[max(0, match.start() - 40) : match.start()]
        if _AREA.search(before) or _DENIED.search(before):
            continue
        if _OR_SO_MANY.match(text, match.end()):
            return None
        product = _PRODUCT.search(before) or re.match(r"\s*(?:x|×|by)\s*[\d.]", text[match.end() :][:10])
        lengths = None if product else _read(match, before)
        if lengths is None:
            return None
        found.extend(lengths)
    return _joined(found, text)


def _read(match: re.Match[str], before: str) -> list[_Length] | None:
    if match["one"] is not None:
        unit, count = _unit(match, "c"), number(match["one"])
        if match["one"].lower() in ("a", "an") and (unit in ("yd", "mi") or len(match.group().split()[-1]) <= 2):
            return []  # "a yard" may be a garden's, "a m" is no word
        part = number(match["part"]) if match["part"] else 0.0
        return None if count is None or part is None else [_length(match, unit, count + part)]
    low, high = number(match["low"]), number(match["high"])
    upper, lower, separator = _unit(match, "b"), _unit(match, "a"), match["sep"].lower()
    if low is None or high is None:
        return None
    if separator == "±" or separator.startswith("plus"):
        return [_length(match, upper, low)]
    if lower and (separator == "or" or (separator == "and" and not before.rstrip().lower().endswith("between"))):
        cut = match.end("low") + len(
            match.group()[match.end("low") - match.start() : match.start("sep") - match.start()]
        )
        return [
            _Length(match.start(), cut, lower, low, low * _METRES[lower]),
            _Length(match.start("high"), match.end(), upper, high, high * _METRES[upper]),
        ]
    if separator == "and" and not before.rstrip().lower().endswith("between"):
        return [_length(match, upper, low), _length(match, upper, high)]
    ends = sorted((low * _METRES[lower or upper], high * _METRES[upper]))
    if ends[1] > _WIDEST * ends[0]:
        return None
    return [_Length(match.start(), match.end(), "", 0.0, sum(ends) / 2)]


def _length(match: re.Match[str], unit: str, count: float) -> _Length:
    return _Length(match.start(), match.end(), unit, count, count * _METRES[unit])


def _unit(match: re.Match[str], place: str) -> str:
    return next((name for name in _PATTERNS if match[f"{place}_{name}"] is not None), "")


def _joined(lengths: list[_Length], text: str) -> list[_Length]:
    joined = list[_Length]()
    for length in lengths:
        last = joined[-1] if joined else None
        beside = last and re.fullmatch(r"\.?\s*,?\s*(?:and\s+)?", text[last.end : length.start], re.IGNORECASE)
        if last and beside and length.count < _PARTS.get((last.unit, length.unit), 0):
            joined[-1] = _Length(last.start, length.end, "", 0.0, last.metres + length.metres)
        else:
            joined.append(length)
    return joined
