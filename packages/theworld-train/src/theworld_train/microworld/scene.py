"""What is in a picture of the micro-world at one moment: the true state that everything else is drawn and read from.

Lengths are in units of 1/48 of the picture's side, whatever the size of the drawing; time is in clip lengths, whatever
the number of frames. x grows to the right and y downwards, as in a picture.
"""

import math
from dataclasses import dataclass

SIDE = 48.0
"""Side of the box, walls included."""
WALL = 1.5
"""Thickness of each wall."""

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """One object at one moment. An object keeps its place in ``Scene.bodies`` for the whole clip."""

    x: float
    y: float
    vx: float
    vy: float
    """Velocity, in units a clip length."""
    radius: float
    """Radius of the circle, or of the circle through the corners."""
    shape: str
    """circle, square or triangle."""
    colour: str
    mass: float = 1.0
    layer: int = 1
    """Higher is nearer to the viewer. Objects of different layers pass each other; those of one layer collide."""
    role: str = "object"
    """object: a question may be about it; block: one of a tower; distractor: no question is."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of the scenery: a polygon without a mass of its own."""

    name: str
    """screen, post, ground, ramp, rod, box or lid."""
    points: tuple[Point, ...]
    grey: int
    """0 to 255."""
    front: bool = False
    """Whether it is drawn over the objects, and so hides them; otherwise they are drawn over it."""

    @property
    def bounds(self) -> Box:
        """The upright rectangle around it."""
        xs, ys = zip(*self.points, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything in the picture at one moment."""

    bodies: tuple[Body, ...]
    background: int
    """Grey level of the empty box, 0 to 255."""
    parts: tuple[Part, ...] = ()
    """Scenery, from back to front."""
    walls: bool = True
    """Whether the picture's edge is a solid wall; otherwise objects can leave."""


def corners(body: Body) -> list[Point]:
    """Corners of a square or triangle around its centre, upright; none for a circle."""
    angles = {"circle": (), "square": (45, 135, 225, 315), "triangle": (30, 150, 270)}[body.shape]
    return [(body.radius * math.cos(math.radians(a)), body.radius * math.sin(math.radians(a))) for a in angles]


def bounds(body: Body) -> Box:
    """The upright rectangle around a body."""
    reach = corners(body) or [(-body.radius, -body.radius), (body.radius, body.radius)]
    xs, ys = zip(*reach, strict=True)
    return body.x + min(xs), body.y + min(ys), body.x + max(xs), body.y + max(ys)


def rectangle(left: float, top: float, right: float, bottom: float) -> tuple[Point, ...]:
    """Its corners."""
    return (left, top), (right, top), (right, bottom), (left, bottom)


def front_to_back(scene: Scene) -> list[int]:
    """Places of the bodies in ``scene.bodies``, the nearest to the viewer first."""
    order = sorted(range(len(scene.bodies)), key=lambda place: scene.bodies[place].layer)  # stable, as in the drawing
    return order[::-1]


def hidden_shares(scene: Scene) -> list[float]:
    """How much of each body cannot be seen, 0 to 1: what covers it most, of all nearer things and the picture's edge.

    It is measured between upright rectangles around the things: exact for squares and screens, near for others.
    """
    screens = [part.bounds for part in scene.parts if part.front]
    shares, nearer = [0.0] * len(scene.bodies), []
    for place in front_to_back(scene):
        around = bounds(scene.bodies[place])
        covers = [_overlap(around, cover) for cover in screens + nearer]
        shares[place] = max([1 - _overlap(around, (0.0, 0.0, SIDE, SIDE)), *covers])
        nearer.append(around)
    return shares


def _overlap(one: Box, other: Box) -> float:
    """Share of ``one`` that lies in ``other``."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height) / ((one[2] - one[0]) * (one[3] - one[1]))
