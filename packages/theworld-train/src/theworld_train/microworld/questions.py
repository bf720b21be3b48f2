"""What each family of questions asks, and the scenes with which its clips end."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from theworld_train.microworld.draw import COLOURS
from theworld_train.microworld.physics import simulate
from theworld_train.microworld.ranges import Range
from theworld_train.microworld.scene import SIDE, WALL, Body, Scene
from theworld_train.microworld.setting import polar

MOTION_FAMILIES = ("direction", "next", "faster", "collide")
FRAME_FAMILIES = ("colour", "count", "shape")

CHOICES: dict[str, tuple[str, ...]] = {
    "direction": ("left", "right", "up", "down"),
    "next": ("top left", "top right", "bottom left", "bottom right"),
    "faster": ("red", "blue"),
    "collide": ("yes", "no"),
    "colour": tuple(COLOURS),
    "count": ("one", "two", "three"),
    "shape": ("circle", "square", "triangle"),
}
"""All answers of each family."""

Limits = Mapping[str, Range]

HORIZON = 2.0
"""How far the truth of `next` and `collide` looks beyond the last frame, in clip lengths."""

_HEADINGS = {"left": math.pi, "right": 0.0, "up": -math.pi / 2, "down": math.pi / 2}


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about one clip."""

    family: str
    text: str
    answer: str
    choices: tuple[str, ...]
    """The answers it offers; chance is one over their number."""

    @property
    def motion(self) -> bool:
        """Whether the answer is in the motion and in no single frame."""
        return self.family not in (*FRAME_FAMILIES, "position")


@dataclass(frozen=True, kw_only=True)
class Draft:
    """One group before its past is known: a question, and for each of its answers the scene with which a clip ends."""

    text: str
    last_scenes: dict[str, Scene]


def closest_approach(a: Body, b: Body) -> tuple[float, float]:
    """When two objects in free flight are nearest (negative: in the past), and the gap between them then."""
    apart, closing = complex(b.x - a.x, b.y - a.y), complex(b.vx - a.vx, b.vy - a.vy)
    time = -(apart * closing.conjugate()).real / abs(closing) ** 2
    return time, abs(apart + closing * time) - a.radius - b.radius


def _direction(rng: np.random.Generator, index: int, limits: Limits) -> Draft:
    travel, tilt, radius = (rng.uniform(*limits[name]) for name in ("speed", "tilt", "size"))
    velocities = {answer: polar(travel, heading + tilt) for answer, heading in _HEADINGS.items()}
    body = _body(rng, radius, list(velocities.values()))
    background = _background(rng)
    last_scenes = {answer: _scene(background, _moving(body, v)) for answer, v in velocities.items()}
    return Draft(text="Which way is it moving?", last_scenes=last_scenes)


def _next(rng: np.random.Generator, index: int, limits: Limits) -> Draft | None:
    across, down = rng.uniform(*limits["speed"], size=2)
    radius = rng.uniform(*limits["size"])
    velocities = [(x, y) for y in (-down, down) for x in (-across, across)]
    body = _body(rng, radius, velocities)
    background = _background(rng)
    scenes = [_scene(background, _moving(body, velocity)) for velocity in velocities]
    ends = [simulate(scene, num_frames=2, duration=HORIZON).scenes[-1].bodies[0] for scene in scenes]
    if min(min(abs(end.x - SIDE / 2), abs(end.y - SIDE / 2)) for end in ends) < limits["clearance"][0]:
        return None  # too near the middle to call
    found = {_corner(end): scene for end, scene in zip(ends, scenes, strict=True)}
    if len(found) < len(scenes):
        return None
    last_scenes = {answer: found[answer] for answer in CHOICES["next"]}
    return Draft(text="Which corner will it be closer to next?", last_scenes=last_scenes)


def _faster(rng: np.random.Generator, index: int, limits: Limits) -> Draft | None:
    first, second = CHOICES["faster"][:: -1 if index % 2 else 1]
    fast = rng.uniform(*limits["speed"])
    slow = fast / rng.uniform(*limits["ratio"])
    headings, radii = rng.uniform(0, 2 * math.pi, size=2), rng.uniform(*limits["size"], size=2)
    a, b = (
        _body(rng, radius, [polar(fast, heading)], colour=colour)
        for radius, heading, colour in zip(radii, headings, (first, second), strict=True)
    )
    if not apart(a, b):
        return None
    background = _background(rng)
    speeds = {first: (fast, slow), second: (slow, fast)}
    last_scenes = {
        answer: _scene(background, _moving(a, polar(u, headings[0])), _moving(b, polar(v, headings[1])))
        for answer, (u, v) in speeds.items()
    }
    return Draft(text=f"Which is faster, the {first} or the {second} one?", last_scenes=last_scenes)


def collide(rng: np.random.Generator, index: int, limits: Limits, *, bounced: bool = False) -> Draft | None:
    """Two objects that will hit each other or miss; with ``bounced``, at least one came off a wall before."""
    radii, speeds = rng.uniform(*limits["size"], size=2), rng.uniform(*limits["speed"], size=2)
    margin = limits["gap"][0]
    colours = rng.permutation(list(COLOURS))[:2]
    a, b = (_body(rng, radius, [], colour=str(colour)) for radius, colour in zip(radii, colours, strict=True))
    if not apart(a, b):
        return None
    background = _background(rng)
    meeting = partial(_meeting, rng, a, b, speeds, bounced=bounced)
    hit = meeting(lambda time, gap: 0 < time < HORIZON and gap < -margin)
    # In every other miss they close in too, from as far as in the hit, so that closing in is not yet the answer.
    if index % 2:
        miss = meeting(lambda time, gap: 0 < time < HORIZON and margin < gap, start_like=None if bounced else hit)
    else:
        miss = meeting(lambda time, gap: time < 0)
    if hit is None or miss is None:
        return None
    last_scenes = {"yes": _scene(background, *hit), "no": _scene(background, *miss)}
    for answer, scene in last_scenes.items():
        if simulate(scene, num_frames=2, duration=HORIZON).objects_met != (answer == "yes"):
            return None  # the walls had a say in it
    return Draft(text="Will they hit each other?", last_scenes=last_scenes)


def _meeting(
    rng: np.random.Generator,
    a: Body,
    b: Body,
    speeds: np.ndarray,
    wanted: Callable[[float, float], bool],
    *,
    bounced: bool,
    start_like: tuple[Body, Body] | None = None,
) -> tuple[Body, Body] | None:
    """Turns two objects until the time and gap of their closest approach in free flight are as wanted.

    Straight lines into the past stay in the box or, where one ``bounced`` off a wall before, leave it.
    """
    for _ in range(100):
        headings = rng.uniform(0, 2 * math.pi, size=2)
        moves = [polar(speed, heading) for speed, heading in zip(speeds, headings, strict=True)]
        within = [_inside(body.x - vx, body.y - vy, body.radius) for body, (vx, vy) in zip((a, b), moves, strict=True)]
        if all(within) == bounced:
            continue
        pair = _moving(a, moves[0]), _moving(b, moves[1])
        if wanted(*closest_approach(*pair)) and (
            start_like is None or abs(_start_distance(*pair) - _start_distance(*start_like)) < 2
        ):
            return pair
    return None


def _start_distance(a: Body, b: Body) -> float:
    return math.hypot((b.x - b.vx) - (a.x - a.vx), (b.y - b.vy) - (a.y - a.vy))


def _colour(rng: np.random.Generator, index: int, limits: Limits) -> Draft:
    body, background = drifting(rng, limits, shape=str(rng.choice(CHOICES["shape"]))), _background(rng)
    last_scenes = {colour: _scene(background, replace(body, colour=colour)) for colour in CHOICES["colour"]}
    return Draft(text="What colour is it?", last_scenes=last_scenes)


def _count(rng: np.random.Generator, index: int, limits: Limits) -> Draft | None:
    bodies, background = [drifting(rng, limits, colour="white") for _ in CHOICES["count"]], _background(rng)
    if not all(apart(a, b) for a, b in itertools.combinations(bodies, 2)):
        return None
    last_scenes = {
        answer: _scene(background, *bodies[:number]) for number, answer in enumerate(CHOICES["count"], start=1)
    }
    return Draft(text="How many objects are there?", last_scenes=last_scenes)


def _shape(rng: np.random.Generator, index: int, limits: Limits) -> Draft:
    body, background = drifting(rng, limits, colour="white"), _background(rng)
    last_scenes = {shape: _scene(background, replace(body, shape=shape)) for shape in CHOICES["shape"]}
    return Draft(text="What shape is it?", last_scenes=last_scenes)


DRAFTS: dict[str, Callable[[np.random.Generator, int, Limits], Draft | None]] = {
    "direction": _direction,
    "next": _next,
    "faster": _faster,
    "collide": collide,
    "colour": _colour,
    "count": _count,
    "shape": _shape,
}


def drifting(rng: np.random.Generator, limits: Limits, *, shape: str = "circle", colour: str | None = None) -> Body:
    velocity = polar(rng.uniform(*limits["speed"]), rng.uniform(0, 2 * math.pi))
    return _moving(_body(rng, rng.uniform(*limits["size"]), [velocity], shape=shape, colour=colour), velocity)


def _body(
    rng: np.random.Generator,
    radius: float,
    travels: list[tuple[float, float]],
    *,
    colour: str | None = None,
    shape: str = "circle",
) -> Body:
    """A body at rest, anywhere where it is inside the box both now and one clip before, after each of `travels`."""
    moves = np.array([(0.0, 0.0), *travels])
    x, y = rng.uniform(_reach(radius) + moves.max(axis=0), SIDE - _reach(radius) + moves.min(axis=0))
    colour = colour or str(rng.choice(list(COLOURS)))
    return Body(x=float(x), y=float(y), vx=0.0, vy=0.0, radius=radius, shape=shape, colour=colour)


def _moving(body: Body, velocity: tuple[float, float]) -> Body:
    return replace(body, vx=velocity[0], vy=velocity[1])


def _reach(radius: float) -> float:
    return WALL + radius + 0.25


def _inside(x: float, y: float, radius: float) -> bool:
    return all(_reach(radius) <= value <= SIDE - _reach(radius) for value in (x, y))


def apart(a: Body, b: Body) -> bool:
    return math.hypot(b.x - a.x, b.y - a.y) > a.radius + b.radius + 4


def _corner(body: Body) -> str:
    return f"{'top' if body.y < SIDE / 2 else 'bottom'} {'left' if body.x < SIDE / 2 else 'right'}"


def _background(rng: np.random.Generator) -> int:
    """A dark grey: every object is brighter, whatever its colour."""
    return int(rng.integers(10, 50))


def _scene(background: int, *bodies: Body) -> Scene:
    return Scene(bodies=bodies, background=background)
