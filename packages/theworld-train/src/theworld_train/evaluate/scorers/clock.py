"""A direction as the hour of a clock's face: 12 is ahead, 3 to the right."""

import re

from theworld_train.evaluate.scorers.text import concluded, plain, stated

_NAMES = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_HOURS = {name: hour for hour, name in enumerate(_NAMES, start=1)}
_HOUR = rf"(?:\d{{1,2}}(?!\d)|{'|'.join(_HOURS)})"
_CLOCK = r"(?:\s|-)*o\s*'?\s*clock\b"
_TIME = re.compile(
    rf"(?<![\w:.\[])(?P<low>{_HOUR})(?:{_CLOCK})?\s*(?:-|to|or|and)\s*(?P<high>{_HOUR}){_CLOCK}"
    rf"|(?<![\w:.\[-])(?P<hour>{_HOUR})(?::(?P<minute>\d\d))?{_CLOCK}"
    r"|(?<![\w:.\[-])(?P<hours>\d{1,2}):(?P<minutes>[0-5]\d)(?![\d:])",
    re.IGNORECASE,
)
_DENIED = re.compile(r"(?:\bnot|n't)\s+(?:(?:at|in|towards?|around|about|the|your)\s+)*$", re.IGNORECASE)


def clock(answer: str) -> float | None:
    """The hour, above 0 and up to 12, that the answer gives; ``None`` where it gives none, or several.

    Understood are ``2 o'clock``, ``two o'clock``, ``10:30``, and a number that is the whole answer. Two hours that are
    neighbours count as the time between them. What is stated as the answer outweighs the rest.
    """
    text = plain(answer)
    for part in (". ".join(stated(text)), concluded(text), text):
        if part and (hours := _hours(part)):
            return hours.pop() if len(hours) == 1 else None
    return None


def clock_error(given: float, wanted: float) -> float:
    """The angle between two hours, 0 to 180 degrees."""
    hours = abs(given - wanted) % 12
    return 30 * min(hours, 12 - hours)


def _hours(text: str) -> set[float | None]:
    bare = re.fullmatch(rf"(?:at\s+|around\s+|about\s+)?({_HOUR})\W*", text.strip(), re.IGNORECASE)
    if bare:
        return {_hour(bare[1], "0")}
    found = set[float | None]()
    for match in _TIME.finditer(text):
        if _DENIED.search(text, 0, match.start()):
            continue
        if match["low"]:
            found.add(_between(_hour(match["low"], "0"), _hour(match["high"], "0")))
        else:
            found.add(_hour(match["hour"] or match["hours"], match["minute"] or match["minutes"] or "0"))
    return found


def _hour(hour: str, minute: str) -> float | None:
    """``None`` for what is no time of a clock with twelve hours."""
    value = _HOURS.get(hour.lower()) or (int(hour) if hour.isdigit() else 0)
    return (value + int(minute) / 60 - 1) % 12 + 1 if 1 <= value <= 12 and int(minute) < 60 else None


def _between(low: float | None, high: float | None) -> float | None:
    if low is None or high is None or clock_error(low, high) > 30:
        return None
    return low if low == high else (min(low, high) + 0.5 if abs(high - low) == 1 else 12.5)
