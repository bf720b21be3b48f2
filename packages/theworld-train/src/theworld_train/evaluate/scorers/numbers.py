"""Numbers as English writes them, in digits and in words."""

import re

_ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_TEENS = ("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_UNITS = {word: value for value, word in enumerate(_ONES + _TEENS)}
_DECADES = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_TENS = {word: 10 * value for value, word in enumerate(_DECADES, start=2)}
SMALL = "|".join([*_TENS, *sorted(_UNITS, key=len, reverse=True)])
_WORDS = rf"(?:(?:{SMALL}|hundred|thousand)(?:(?:\s+|-)(?:and\s+)?(?:{SMALL}|hundred|thousand)\b){{0,9}})"
_DECIMALS = r"\.\d{1,18}(?!\d)"
_DIGITS = (
    rf"(?:\d{{1,3}}(?:,\d{{3}}){{1,5}}(?!\d)(?:{_DECIMALS})?|\d{{1,18}}(?!\d)(?:{_DECIMALS})?|{_DECIMALS})"
    r"(?:e[+-]?\d{1,3}(?!\d)|\s*(?:x|×|\*)\s*10\^[+-]?\d{1,3}(?!\d))?"
)
_FRACTION = r"(?:\d{1,6}\s*/\s*\d{1,6}(?!\d))"
_HALVES = {"half": 0.5, "quarter": 0.25, "third": 1 / 3}
_HALF = rf"(?:{'|'.join(_HALVES)})"

NUMBER = (
    rf"(?:(?:\d{{1,6}}(?:\s*-?\s*|\s+and\s+){_FRACTION}|{_FRACTION}|{_DIGITS}(?:\s+and\s+an?\s+{_HALF}\b)?)"
    rf"|(?:three[\s-]+quarters|two[\s-]+thirds)(?:\s+of\s+an?)?|{_WORDS}(?:\s+and\s+an?\s+{_HALF}|\s+point(?:\s+(?:{SMALL})){{1,6}})?"
    rf"|(?:an?\s+)?{_HALF}(?:\s+of)?(?:\s+an?)?|an?)"
)
"""A pattern for one; a bare ``a`` is one, as in "about a metre"."""


def number(text: str) -> float | None:
    """The value of what ``NUMBER`` matched; ``None`` for a division by zero or digits beyond what a float holds."""
    text = " ".join(text.lower().split())
    whole, half = _without_half(text)
    if whole in ("", "a", "an"):
        return half or 1.0
    if parts := re.fullmatch(r"(three|two)[\s-]+(quarters|thirds)(?: of an?)?", whole):
        return _UNITS[parts[1]] * _HALVES[parts[2][:-1]]
    if parts := re.fullmatch(r"(?:(\d+)(?:\s+and\s+|\s*-\s*|\s+))?(\d+)\s*/\s*(\d+)", whole):
        return int(parts[1] or 0) + int(parts[2]) / int(parts[3]) if int(parts[3]) else None
    value = _digits(whole) if re.match(r"[\d.]", whole) else _worded(whole)
    return None if value is None or value == float("inf") else value + half


def _without_half(text: str) -> tuple[str, float]:
    found = re.search(rf"(?:^|\s+and\s+)(?:an?\s+)?({_HALF})(?:\s+of)?(?:\s+an?)?$", text)
    return (text[: found.start()], _HALVES[found[1]]) if found else (text, 0.0)


def _digits(text: str) -> float:
    mantissa, *exponent = re.split(r"\s*(?:x|×|\*)\s*10\^", text.replace(",", ""))
    return float(mantissa if not exponent else f"{mantissa}e{exponent[0]}")


def _worded(text: str) -> float | None:
    text, _, decimals = text.partition(" point ")
    total, current = 0, 0
    for word in re.split(r"[\s-]+", text):
        if word == "hundred":
            current = (current or 1) * 100
        elif word == "thousand":
            total, current = total + (current or 1) * 1000, 0
        elif word != "and":
            value = {**_UNITS, **_TENS}[word]
            if (current % 10 and value < 10) or (current % 100 >= 10 and value >= 10):  # "five six" is no number
                return None
            current += value
    fraction = "".join(str(_UNITS[word]) for word in decimals.split()) if decimals else "0"
    return total + current + float(f"0.{fraction}")
