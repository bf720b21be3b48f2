"""How the micro-world moves: pymunk, stepped forwards and, for the past, backwards. Units are those of ``scene``."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pymunk

from theworld_train.microworld.scene import SIDE, WALL, Body, Point, Scene, corners

_OBJECT, _WALL, _SOLID = 1, 2, 3  # collision types


@dataclass(frozen=True, kw_only=True)
class World:
    """The laws that hold in a clip, and what is solid besides its objects and walls.

    Attributes:
        gravity: downwards, in units a squared clip length.
        solids: lines that objects cannot pass.
        pivot: where the first object hangs from, on a stiff rod without mass.
        restitution: of objects that meet each other or a solid: 1 loses nothing, 0 stays in touch.
        friction: between blocks, and between them and solids; discs slide freely.
        spins: whether blocks turn; otherwise they stay upright.
        steps: of the engine, in each clip length. In one of 32, the fastest object of a world without gravity moves
            less than a unit, so no touch is stepped over.
    """

    gravity: float = 0.0
    solids: tuple[tuple[Point, Point], ...] = ()
    pivot: Point | None = None
    restitution: float = 1.0
    friction: float = 0.0
    spins: bool = False
    steps: int = 32


FREE = World()
"""No gravity, no friction, no loss, no spin."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the engine did: the scenes at evenly spaced times, the first one as given, and who touched whom."""

    scenes: tuple[Scene, ...]
    objects_met: bool
    wall_touched: bool


def simulate(scene: Scene, *, num_frames: int, duration: float = 1.0, world: World = FREE) -> Run:
    """Runs a scene forward in pymunk. Scenery stays where it is, and is solid only where ``world.solids`` says so.

    Args:
        scene: Where and how fast everything is at time 0.
        num_frames: Number of scenes to return, the given one included; at least 2.
        duration: Time from the first to the last of them, in clip lengths.
        world: The laws that hold.
    """
    space = pymunk.Space()
    space.gravity = (0.0, world.gravity)
    met: set[str] = set()
    space.on_collision(_OBJECT, _OBJECT, begin=lambda *_: met.add("object"))
    space.on_collision(_OBJECT, _WALL, begin=lambda *_: met.add("wall"))
    if scene.walls:
        _add_walls(space)
    for start, end in world.solids:
        _add_segment(space, start, end, 0.0, _SOLID, world.restitution, world.friction)
    bodies = [_add_body(space, body, world) for body in scene.bodies]
    if world.pivot is not None:
        space.add(pymunk.PinJoint(space.static_body, bodies[0], world.pivot, (0.0, 0.0)))
    if world != FREE:
        space.collision_slop = 0.01  # the default lets resting things sink by a tenth of a unit

    interval = duration / (num_frames - 1)
    steps = math.ceil(interval * world.steps)
    scenes = [scene]
    for _ in range(num_frames - 1):
        for _ in range(steps):
            space.step(interval / steps)
        scenes.append(replace(scene, bodies=tuple(map(_read_body, bodies, scene.bodies))))
    return Run(scenes=tuple(scenes), objects_met="object" in met, wall_touched="wall" in met)


def rewind(scene: Scene, *, num_frames: int, duration: float = 1.0, world: World = FREE) -> Run:
    """The motion that ends with ``scene``, as a run in the order of time; its last scene is ``scene`` itself.

    Motion without friction or loss looks the same in both directions of time, gravity and bounces included. So the
    engine starts from the last scene with every velocity reversed, and its run, read backwards, is the past.
    """
    run = simulate(_reversed(scene), num_frames=num_frames, duration=duration, world=world)
    return replace(run, scenes=tuple(_reversed(moment) for moment in reversed(run.scenes)))


def past(scene: Scene, *, num_frames: int) -> tuple[Scene, ...] | None:
    """The clip of free flight that ends with ``scene``, or None if anything touched anything in it."""
    run = rewind(scene, num_frames=num_frames)
    return None if run.objects_met or run.wall_touched else run.scenes


def joined(before: Sequence[Scene], after: Sequence[Scene]) -> tuple[Scene, ...]:
    """One clip of two runs of the same frames: up to the middle of the time from the first, then from the second."""
    half = (len(before) - 1) // 2 + 1
    return tuple(before[:half]) + tuple(after[half:])


def _reversed(scene: Scene) -> Scene:
    return replace(scene, bodies=tuple(replace(body, vx=-body.vx, vy=-body.vy) for body in scene.bodies))


def _add_walls(space: pymunk.Space) -> None:
    ends = [(0, 0), (SIDE, 0), (SIDE, SIDE), (0, SIDE)]
    for start, end in zip(ends, ends[1:] + ends[:1], strict=True):
        _add_segment(space, start, end, WALL, _WALL, 1.0, 0.0)


def _add_segment(
    space: pymunk.Space, start: Point, end: Point, radius: float, kind: int, restitution: float, friction: float
) -> None:
    segment = pymunk.Segment(space.static_body, start, end, radius=radius)
    segment.elasticity, segment.friction, segment.collision_type = restitution, friction, kind
    space.add(segment)


def _add_body(space: pymunk.Space, body: Body, world: World) -> pymunk.Body:
    polygon = corners(body)
    moment = math.inf  # it never spins
    if world.spins and polygon:
        moment = pymunk.moment_for_poly(body.mass, polygon)
    moving = pymunk.Body(mass=body.mass, moment=moment)
    moving.position, moving.velocity = (body.x, body.y), (body.vx, body.vy)
    shape = pymunk.Poly(moving, polygon) if polygon else pymunk.Circle(moving, body.radius)
    shape.elasticity, shape.collision_type = world.restitution, _OBJECT
    shape.friction = world.friction if body.role == "block" else 0.0
    mine = 1 << body.layer
    shape.filter = pymunk.ShapeFilter(categories=mine, mask=mine)  # walls and solids are in every category
    space.add(moving, shape)
    return moving


def _read_body(moving: pymunk.Body, body: Body) -> Body:
    return replace(body, x=moving.position.x, y=moving.position.y, vx=moving.velocity.x, vy=moving.velocity.y)
