"""Stacking: towers of blocks under gravity, with friction, and a disc that slides along the ground."""

import math
from dataclasses import replace

from theworld_train.microworld.physics import World, rewind, simulate
from theworld_train.microworld.scene import SIDE, Body, Part, Scene, rectangle
from theworld_train.microworld.setting import Group, Maker, Setting, Take, disc

_GROUND = 43.0
_HEIGHTS = {"two": 2, "three": 3, "four": 4}
_HORIZON = 2.0
"""How far ahead the fall of a tower is looked for, in clip lengths."""
_MASS = 6.0
"""Of a disc; a block has 1."""


def _tower(number: int, x: float, half: float, colours: list[str]) -> tuple[Body, ...]:
    return tuple(
        Body(
            x=x,
            y=_GROUND - half - 2 * half * level,
            vx=0.0,
            vy=0.0,
            radius=half * math.sqrt(2),
            shape="square",
            colour=colours[level % 2],
            role="block",
        )
        for level in range(number)
    )


def _world(setting: Setting) -> World:
    ground = ((-4 * SIDE, _GROUND), (5 * SIDE, _GROUND))
    return World(gravity=setting.draw("gravity"), solids=(ground,), restitution=0.0, friction=1.0, spins=True, steps=96)


def _clip(setting: Setting, ball: Body, tower: tuple[Body, ...], world: World) -> tuple[Scene, ...]:
    """The clip that ends like this: the disc came sliding, the tower stood."""
    ground = Part(name="ground", points=rectangle(0, _GROUND, SIDE, SIDE), grey=110)
    last = Scene(bodies=(ball,), background=setting.background, parts=(ground,), walls=False)
    run = rewind(last, num_frames=setting.num_frames, world=replace(world, spins=False))
    return tuple(replace(scene, bodies=scene.bodies + tower) for scene in run.scenes)


def _next(setting: Setting) -> Group | None:
    """A disc that comes fast enough to bring the tower down, or goes away, or is too slow."""
    side, radius, half = setting.sign(), setting.draw("size"), setting.uniform(2.3, 2.6)
    first, *rest = setting.colours(3)
    x = SIDE / 2 + side * setting.uniform(10, 15)
    tower = _tower(int(setting.rng.integers(3, 5)), x, half, rest)
    world, speed = _world(setting), setting.draw("speed")
    ball = disc(x - side * (half + radius + setting.uniform(4, 7)), _GROUND - radius, radius, first, mass=_MASS)
    reach = half + radius + 0.5
    slow = {"easy": -0.2, "medium": 0.1, "hard": 0.2}[setting.level] * setting.uniform(0.8, 1.0)
    takes = []
    for answer, factor in (("yes", 1.0), ("no", slow)):
        scenes = _clip(setting, replace(ball, vx=side * speed * factor), tower, world)
        if side * (x - scenes[0].bodies[0].x) < reach or _falls(scenes[-1], world) != (answer == "yes"):
            return None
        takes.append(Take(answer=answer, scenes=scenes, world=world))
    return Group(text="Will the tower fall?", choices=("yes", "no"), takes=tuple(takes))


def _falls(scene: Scene, world: World) -> bool | None:
    """Whether the highest block comes down by a block or more; None where it moves, but less than that."""
    top = min(range(len(scene.bodies)), key=lambda place: scene.bodies[place].y)
    end = simulate(scene, num_frames=2, duration=_HORIZON, world=world).scenes[-1].bodies[top]
    moved = math.dist((end.x, end.y), (scene.bodies[top].x, scene.bodies[top].y))
    side = scene.bodies[top].radius * math.sqrt(2)
    if end.y - scene.bodies[top].y > 0.9 * side:
        return True
    return False if moved < 0.3 * side else None


def _count(setting: Setting) -> Group | None:
    """Towers of every height, and a disc that slid away from where they stand."""
    radius, half, side, speed = setting.draw("size"), setting.uniform(3.0, 3.6), setting.sign(), setting.draw("speed")
    first, *rest = setting.colours(3)
    x = SIDE / 2 + side * setting.uniform(11, 15)
    away = half + radius + speed + setting.uniform(1, 4)
    ball = disc(x - side * away, _GROUND - radius, radius, first, vx=-side * speed)
    world = _world(setting)
    takes = [
        Take(answer=answer, scenes=_clip(setting, ball, _tower(number, x, half, rest), world), world=world)
        for answer, number in _HEIGHTS.items()
    ]
    return Group(text="How many blocks are in the tower?", choices=tuple(_HEIGHTS), takes=tuple(takes))


MAKERS: dict[str, Maker] = {"next/stacking": _next, "count/stacking": _count}
