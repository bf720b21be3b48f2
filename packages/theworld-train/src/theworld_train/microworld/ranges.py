"""What a clip's numbers are drawn from: by split, by family and by level, as data.

Training, validation and test draw from the same ranges, with other random numbers and other background greys, so no
picture of one is a picture of another. ``test-extrapolation`` draws speed, size, gravity and the number of objects
from ranges that training never reaches.
"""

from collections.abc import Mapping

Range = tuple[float, float]

SPLITS = ("train", "val", "test", "test-extrapolation")
LEVELS = ("easy", "medium", "hard")

TRAINED: Mapping[str, Mapping[str, Range]] = {
    "direction/free": {"speed": (8, 12), "size": (4, 6)},
    "direction/pendulum": {"size": (3.2, 4.5), "gravity": (90, 160)},
    "direction/rolling": {"speed": (11, 16), "size": (3.2, 4.5), "gravity": (15, 30)},
    "faster/free": {"speed": (14, 20), "size": (4, 5)},
    "faster/rolling": {"speed": (14, 20), "size": (3.2, 4.5), "gravity": (15, 30)},
    "collide/free": {"speed": (7, 11), "size": (4, 5.5)},
    "collide/collision": {"speed": (10, 15), "size": (3.2, 4.5)},
    "next/free": {"speed": (6, 9), "size": (4, 6)},
    "next/occlusion": {"speed": (16, 20), "size": (3.2, 4.2)},
    "next/pendulum": {"size": (3.2, 4.5), "gravity": (90, 160)},
    "next/rolling": {"size": (3.2, 4.2), "gravity": (15, 30)},
    "next/stacking": {"speed": (18, 24), "size": (5.6, 6.4), "gravity": (60, 90)},
    "heavier/collision": {"speed": (12, 16), "size": (3.6, 4.4)},
    "front/occlusion": {"speed": (22, 30), "size": (4, 5.2)},
    "leaves/occlusion": {"speed": (40, 52), "size": (3.2, 4.2)},
    "permanence/occlusion": {"speed": (62, 74), "size": (3.2, 4.2)},
    "permanence/containment": {"size": (2.6, 3.4), "gravity": (330, 420)},
    "plausible/occlusion": {"speed": (48, 60), "size": (3.2, 4.2)},
    "plausible/containment": {"size": (2.6, 3.4), "gravity": (330, 420)},
    "plausible/collision": {"speed": (18, 26), "size": (3.4, 4.6)},
    "colour/free": {"speed": (4, 10), "size": (5, 8)},
    "colour/pendulum": {"size": (3.6, 5), "gravity": (90, 160)},
    "count/free": {"speed": (4, 10), "size": (6, 7)},
    "count/stacking": {"speed": (10, 20), "size": (3.4, 4.2), "gravity": (60, 90)},
    "shape/free": {"speed": (4, 10), "size": (10, 11.5)},
    "position/free": {"speed": (4, 10), "size": (4, 6)},
}
"""Speeds in units a clip length, sizes as radii in units, gravity in units a squared clip length."""

BEYOND: Mapping[str, Range] = {"speed": (1.1, 1.35), "gravity": (1.1, 1.35), "size": (0.7, 0.85)}
"""Of ``test-extrapolation``: factors of a trained range's upper end or, for sizes, of its lower end."""

DISTRACTORS: Mapping[str, Mapping[str, int]] = {
    "trained": {"easy": 0, "medium": 1, "hard": 2},
    "beyond": {"easy": 3, "medium": 4, "hard": 5},
}
"""How many small grey discs drift behind everything; none where objects are counted."""

_RATIOS: Mapping[str, Mapping[str, Range]] = {
    "easy": {"ratio": (5, 9)},
    "medium": {"ratio": (2.2, 3.5)},
    "hard": {"ratio": (1.4, 1.8)},
}
_GAPS: Mapping[str, Mapping[str, Range]] = {
    "easy": {"gap": (4, 4)},
    "medium": {"gap": (2.5, 2.5)},
    "hard": {"gap": (1.2, 1.2)},
}
MARGINS: Mapping[str, Mapping[str, Mapping[str, Range]]] = {
    "direction/free": {
        "easy": {"tilt": (-0.2, 0.2)},
        "medium": {"tilt": (-0.4, 0.4)},
        "hard": {"tilt": (-0.6, 0.6)},
    },
    "faster/free": _RATIOS,
    "faster/rolling": _RATIOS,
    "collide/free": _GAPS,
    "collide/collision": _GAPS,
    "next/free": {
        "easy": {"clearance": (1, 1)},
        "medium": {"clearance": (0.7, 0.7)},
        "hard": {"clearance": (0.4, 0.4)},
    },
    "pendulum": {"easy": {"swing": (0.5, 0.8)}, "medium": {"swing": (0.3, 0.5)}, "hard": {"swing": (0.15, 0.25)}},
    "next/rolling": {"easy": {"margin": (0.4, 0.6)}, "medium": {"margin": (0.2, 0.3)}, "hard": {"margin": (0.1, 0.15)}},
    "heavier/collision": {"easy": {"ratio": (6, 9)}, "medium": {"ratio": (3, 4)}, "hard": {"ratio": (1.6, 2)}},
    "occlusion": {"easy": {"cover": (6, 6.6)}, "medium": {"cover": (7, 8)}, "hard": {"cover": (8.5, 9.5)}},
    "plausible/occlusion": {
        "easy": {"ratio": (1.8, 2.2)},
        "medium": {"ratio": (1.5, 1.7)},
        "hard": {"ratio": (1.25, 1.35)},
    },
    "plausible/collision": {"easy": {"tilt": (0, 0)}, "medium": {"tilt": (-0.4, 0.4)}, "hard": {"tilt": (-1.2, 1.2)}},
}
"""How far apart the answers are, by level: of a family, or of all of a scene family."""


def limits(split: str, family: str, level: str) -> dict[str, Range]:
    """The ranges of every number that a family draws; ``distractors`` is a whole number."""
    beyond = split == "test-extrapolation"
    found = dict(TRAINED[family])
    if beyond:
        found = {name: _beyond(name, spread) for name, spread in found.items()}
    scene = family.partition("/")[2]
    for name in (scene, family):
        found |= MARGINS.get(name, {}).get(level, {})
    number = 0 if family.startswith("count/") else DISTRACTORS["beyond" if beyond else "trained"][level]
    return found | {"distractors": (number, number)}


def backgrounds(split: str) -> range:
    """The greys of a split's empty boxes. No two splits share one, and all are darker than any object."""
    return range(10 + SPLITS.index(split), 50, len(SPLITS))


def _beyond(name: str, spread: Range) -> Range:
    end = spread[0] if name == "size" else spread[1]
    return end * BEYOND[name][0], end * BEYOND[name][1]
