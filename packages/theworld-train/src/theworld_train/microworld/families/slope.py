"""Rolling: discs under gravity on shelves and slopes. They slide freely, so their past is a run read backwards."""

import math
from dataclasses import replace

from theworld_train.microworld.physics import World, rewind, simulate
from theworld_train.microworld.scene import SIDE, Body, Part, Point, Scene, rectangle
from theworld_train.microworld.setting import Group, Maker, Setting, Take, disc

_GREY = 110
_FAR = 60.0
"""How far a slope goes on beyond the picture."""
_HORIZON = 3.0
"""How long a disc is given to get over the top, in clip lengths."""


def _direction(setting: Setting) -> Group | None:
    """At one place on a slope: up, or down again after it was higher."""
    side, steepness = setting.sign(), setting.uniform(0.25, 0.45)
    foot, top = (-_FAR, 43 + _FAR * math.tan(steepness)), (SIDE + _FAR, 43 - (SIDE + _FAR) * math.tan(steepness))
    ramp = tuple(_turned(point, side) for point in (foot, top))
    world = World(gravity=setting.draw("gravity"), solids=((ramp[0], ramp[1]),), restitution=0.0, steps=128)
    at, speed = setting.uniform(20, 28), setting.draw("speed")
    resting = _resting(setting, (at, 43 - at * math.tan(steepness)), steepness, side)
    takes = [
        _take(setting, answer, (_climbing(resting, steepness, way * speed, side),), world, (_below("ramp", ramp),))
        for answer, way in (("up", 1), ("down", -1))
    ]
    return Group(text="Is it rolling up or down the slope?", choices=("up", "down"), takes=tuple(takes))


def _next(setting: Setting) -> Group | None:
    """Up a slope, fast enough for the top or not."""
    side, steepness = setting.sign(), setting.uniform(0.3, 0.5)
    x = setting.uniform(32, 38)
    height = 43 - x * math.tan(steepness)
    points = ((-_FAR, 43 + _FAR * math.tan(steepness)), (x, height), (SIDE + _FAR, height))
    hill = tuple(_turned(point, side) for point in points)
    gravity, away = setting.draw("gravity"), setting.uniform(8, 12)
    world = World(gravity=gravity, solids=((hill[0], hill[1]), (hill[1], hill[2])), restitution=0.0, steps=128)
    enough = math.sqrt(2 * gravity * away * math.sin(steepness))  # by the energy
    at = (x - away * math.cos(steepness), height + away * math.sin(steepness))
    margin, resting, takes = setting.draw("margin"), _resting(setting, at, steepness, side), []
    for answer, factor in (("yes", 1 + margin), ("no", 1 - margin)):
        body = _climbing(resting, steepness, factor * enough, side)
        take = _take(setting, answer, (body,), world, (_below("ramp", hill),))
        future = simulate(take.scenes[-1], num_frames=49, duration=_HORIZON, world=world).scenes
        over = max(side * (scene.bodies[0].x - hill[1][0]) for scene in future) > 2
        if over != (answer == "yes"):
            return None
        takes.append(take)
    return Group(text="Will it get over the top?", choices=("yes", "no"), takes=tuple(takes))


def _faster(setting: Setting) -> Group | None:
    """A disc on each of two shelves."""
    names = ("red", "blue") if setting.index % 2 else ("blue", "red")
    floors = (setting.uniform(18, 22), setting.uniform(40, 44))
    upper_first = setting.sign()
    world = World(
        gravity=setting.draw("gravity"),
        solids=tuple(((-_FAR, y), (SIDE + _FAR, y)) for y in floors),
        restitution=0.0,
        steps=128,
    )
    parts = tuple(Part(name="ground", points=rectangle(0, y, SIDE, y + 2), grey=_GREY) for y in floors)
    fast = setting.draw("speed")
    slow = fast / setting.draw("ratio")
    radii = [setting.draw("size") for _ in names]
    ways = [setting.sign() for _ in names]
    places = [SIDE / 2 + way * setting.uniform(2, 12) for way in ways]
    takes = []
    for answer in names:
        speeds = [fast if name == answer else slow for name in names]
        bodies = tuple(
            disc(x, y - radius, radius, name, vx=way * speed)
            for x, y, radius, name, way, speed in zip(
                places, floors[::upper_first], radii, names, ways, speeds, strict=True
            )
        )
        takes.append(_take(setting, answer, bodies, world, parts))
    text = f"Which is faster, the {names[0]} or the {names[1]} one?"
    return Group(text=text, choices=names, takes=tuple(takes))


def _resting(setting: Setting, at: Point, steepness: float, side: int) -> Body:
    """A disc that touches the slope at a point."""
    radius = setting.draw("size")
    centre = (at[0] - radius * math.sin(steepness), at[1] - radius * math.cos(steepness))
    return disc(*_turned(centre, side), radius, setting.colours(1)[0])


def _climbing(body: Body, steepness: float, speed: float, side: int) -> Body:
    return replace(body, vx=side * speed * math.cos(steepness), vy=-speed * math.sin(steepness))


def _take(setting: Setting, answer: str, bodies: tuple[Body, ...], world: World, parts: tuple[Part, ...]) -> Take:
    last = Scene(bodies=bodies, background=setting.background, parts=parts, walls=False)
    return Take(answer=answer, scenes=rewind(last, num_frames=setting.num_frames, world=world).scenes, world=world)


def _turned(point: Point, side: int) -> Point:
    return (point[0] if side > 0 else SIDE - point[0], point[1])


def _below(name: str, line: tuple[Point, ...]) -> Part:
    """All that is under a line."""
    return Part(name=name, points=(*line, (line[-1][0], SIDE + _FAR), (line[0][0], SIDE + _FAR)), grey=_GREY)


MAKERS: dict[str, Maker] = {"direction/rolling": _direction, "faster/rolling": _faster, "next/rolling": _next}
