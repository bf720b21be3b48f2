"""The physics of the micro-world: objects in a closed box, stepped by pymunk forwards and, for the past, backwards.

Lengths are in units of 1/48 of the box's side, whatever the size of the drawing; time is in clip lengths, whatever the
number of frames. x grows to the right and y downwards, as in a picture.
"""

import math
from dataclasses import dataclass, replace

import pymunk

SIDE = 48.0
"""Side of the box, walls included."""
WALL = 1.5
"""Thickness of each wall."""

_MAX_STEP = 1 / 32  # no object moves more than half a unit in such a step, so no touch is stepped over
_OBJECT, _WALL = 1, 2  # collision types


@dataclass(frozen=True, kw_only=True)
class Body:
    """One object at one moment."""

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


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything in the box at one moment."""

    bodies: tuple[Body, ...]
    background: int
    """Grey level of the empty box, 0 to 255."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the engine did: the scenes at evenly spaced times, the first one as given, and who touched whom."""

    scenes: tuple[Scene, ...]
    objects_met: bool
    wall_touched: bool


def corners(body: Body) -> list[tuple[float, float]]:
    """Corners of a square or triangle around its centre, upright; none for a circle."""
    angles = {"circle": (), "square": (45, 135, 225, 315), "triangle": (30, 150, 270)}[body.shape]
    return [(body.radius * math.cos(math.radians(a)), body.radius * math.sin(math.radians(a))) for a in angles]


def simulate(scene: Scene, *, num_frames: int, duration: float = 1.0) -> Run:
    """Runs a scene forward in pymunk: no gravity, no friction, no loss, no spin.

    Args:
        scene: Where and how fast everything is at time 0.
        num_frames: Number of scenes to return, the given one included; at least 2.
        duration: Time from the first to the last of them, in clip lengths.
    """
    space = pymunk.Space()
    met: set[str] = set()
    space.on_collision(_OBJECT, _OBJECT, begin=lambda *_: met.add("object"))
    space.on_collision(_OBJECT, _WALL, begin=lambda *_: met.add("wall"))
    _add_walls(space)
    bodies = [_add_body(space, body) for body in scene.bodies]

    interval = duration / (num_frames - 1)
    steps = math.ceil(interval / _MAX_STEP)
    scenes = [scene]
    for _ in range(num_frames - 1):
        for _ in range(steps):
            space.step(interval / steps)
        scenes.append(replace(scene, bodies=tuple(map(_read_body, bodies, scene.bodies))))
    return Run(scenes=tuple(scenes), objects_met="object" in met, wall_touched="wall" in met)


def past(scene: Scene, *, num_frames: int) -> tuple[Scene, ...] | None:
    """The clip that ends with `scene`, or None if anything touched anything in it.

    Motion without friction, loss or gravity looks the same in both directions of time. So the engine starts from the
    last scene with every velocity reversed, and its run, read backwards, is the past. The last scene is `scene` itself.
    """
    run = simulate(_reversed(scene), num_frames=num_frames)
    if run.objects_met or run.wall_touched:
        return None
    return tuple(_reversed(moment) for moment in reversed(run.scenes))


def _reversed(scene: Scene) -> Scene:
    return replace(scene, bodies=tuple(replace(body, vx=-body.vx, vy=-body.vy) for body in scene.bodies))


def _add_walls(space: pymunk.Space) -> None:
    ends = [(0, 0), (SIDE, 0), (SIDE, SIDE), (0, SIDE)]
    for start, end in zip(ends, ends[1:] + ends[:1], strict=True):
        wall = pymunk.Segment(space.static_body, start, end, radius=WALL)
        wall.elasticity, wall.collision_type = 1.0, _WALL
        space.add(wall)


def _add_body(space: pymunk.Space, body: Body) -> pymunk.Body:
    moving = pymunk.Body(mass=1.0, moment=math.inf)  # an infinite moment never spins
    moving.position, moving.velocity = (body.x, body.y), (body.vx, body.vy)
    polygon = corners(body)
    shape = pymunk.Poly(moving, polygon) if polygon else pymunk.Circle(moving, body.radius)
    shape.elasticity, shape.collision_type = 1.0, _OBJECT
    space.add(moving, shape)
    return moving


def _read_body(moving: pymunk.Body, body: Body) -> Body:
    return replace(body, x=moving.position.x, y=moving.position.y, vx=moving.velocity.x, vy=moving.velocity.y)
