"""What can happen and what cannot: four ways to break the laws behind a screen, and one in plain sight.

Every group is made of two runs of the engine that look alike in no frame, and of the two clips that begin like one and
end like the other: where the object was behind the screen, it vanished or came from nowhere, changed its colour or its
speed, or passed through a post (or bounced where there is none).
"""

from dataclasses import replace

from theworld_train.microworld.families.screen import screen, stop, stopping
from theworld_train.microworld.physics import FREE, World, simulate
from theworld_train.microworld.scene import SIDE, Body, Part, Scene, rectangle
from theworld_train.microworld.setting import Group, Maker, Setting, crossed, disc, polar

KINDS = ("vanish", "colour", "speed", "solid")
"""Of a group behind the screen, by its place modulo four."""

_RAISING, _RAISED = 0.6, 0.85
"""When the screen begins to rise and is out of the picture, in clip lengths."""


def _behind_a_screen(setting: Setting) -> Group | None:
    kind = KINDS[setting.index % len(KINDS)]
    if kind == "speed":
        return _speed(setting)
    if kind == "solid":
        return _solid(setting)
    return _hidden(setting, colours=2 if kind == "colour" else 1)


def _hidden(setting: Setting, *, colours: int) -> Group:
    """A disc goes behind the screen, or away; of two, one does. Then the screen rises."""
    side, cover = setting.sign(), setting.draw("cover")
    middle = SIDE / 2 + side * 10
    world = stopping(*(stop(middle + side * 4.2, lane) for lane in (16, 32)))
    bodies = [
        disc(SIDE / 2 - side * setting.uniform(8, 11), lane + setting.uniform(-1, 1), setting.draw("size"), colour)
        for colour, lane in zip(setting.colours(colours), (16, 32), strict=False)
    ]
    speeds, runs = [setting.draw("speed") for _ in bodies], []
    for going in range(2):
        ways = [side if place == going else -side for place in range(colours)]
        moving = [replace(body, vx=way * speed) for body, way, speed in zip(bodies, ways, speeds, strict=True)]
        scenes = _run(setting, moving, world, parts=())
        runs.append(
            [
                replace(scene, parts=(_rising(middle, cover, time),))
                for scene, time in zip(scenes, setting.times, strict=True)
            ]
        )
    return crossed(runs, world)


def _rising(middle: float, cover: float, time: float) -> Part:
    lift = SIDE * min(1.0, max(0.0, (time - _RAISING) / (_RAISED - _RAISING)))
    return screen(middle - cover - 2, 6 - lift, middle + cover + 2, 42 - lift)


def _speed(setting: Setting) -> Group:
    """A disc crosses behind the screen, fast or slowly, and is in its middle at half the time."""
    fast = 0.7 * setting.draw("speed")
    side, radius, colour = setting.sign(), setting.draw("size"), setting.colours(1)[0]
    y, part = setting.uniform(18, 30), _middle_screen(setting)
    runs = []
    for speed in (fast, fast / setting.draw("ratio")):
        body = disc(SIDE / 2 - side * speed / 2, y, radius, colour, vx=side * speed)
        runs.append(list(_run(setting, [body], FREE, parts=(part,))))
    return crossed(runs, FREE)


def _solid(setting: Setting) -> Group:
    """A disc comes from the left or from the right, and a post that shows above the screen turns it back, or none."""
    speed, radius, colour = 0.75 * setting.draw("speed"), setting.draw("size"), setting.colours(1)[0]
    y, parts, world, reach = setting.uniform(20, 28), (_middle_screen(setting),), FREE, 0.0
    if setting.index // len(KINDS) % 2:
        half = 1.2
        edges = [SIDE / 2 - half, SIDE / 2 + half]
        parts = (Part(name="post", points=rectangle(edges[0], 0, edges[1], SIDE), grey=95), *parts)
        world = World(solids=tuple(((x, -1.0), (x, SIDE + 1.0)) for x in edges), steps=128)
        reach = half + radius
    runs = []
    for side in (-1, 1):
        body = disc(SIDE / 2 + side * (reach + speed / 2), y, radius, colour, vx=-side * speed)
        runs.append(list(_run(setting, [body], world, parts=parts)))
    return crossed(runs, world)


def _middle_screen(setting: Setting) -> Part:
    cover = setting.draw("cover")
    return screen(SIDE / 2 - cover, 10, SIDE / 2 + cover, 38)


def _through(setting: Setting) -> Group | None:
    """Two equal discs meet in the middle and bounce; or, which is impossible, one passes through the other."""
    radius, speed, y = setting.draw("size"), setting.draw("speed"), SIDE / 2 + setting.uniform(-4, 4)
    heading, names = setting.draw("tilt"), setting.colours(2)
    runs = []
    for colours in (names, names[::-1]):
        bodies = []
        for side, colour in zip((-1, 1), colours, strict=True):
            dx, dy = polar(side * (radius + speed / 2), heading)
            vx, vy = polar(-side * speed, heading)
            bodies.append(disc(SIDE / 2 + dx, y + dy, radius, colour, vx=vx, vy=vy))
        runs.append(list(_run(setting, bodies, FREE, parts=())))
    return crossed(runs, FREE)


def _run(setting: Setting, bodies: list[Body], world: World, parts: tuple[Part, ...]) -> tuple[Scene, ...]:
    first = Scene(bodies=tuple(bodies), background=setting.background, parts=parts, walls=False)
    return simulate(first, num_frames=setting.num_frames, world=world).scenes


MAKERS: dict[str, Maker] = {"plausible/occlusion": _behind_a_screen, "plausible/collision": _through}
