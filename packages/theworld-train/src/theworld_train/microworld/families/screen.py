"""Occlusion: an opaque screen, or objects that pass in front of each other. The picture's edge is open."""

from dataclasses import replace

from theworld_train.microworld.physics import FREE, World, rewind, simulate
from theworld_train.microworld.scene import SIDE, Body, Part, Point, Scene, rectangle
from theworld_train.microworld.setting import Group, Maker, Setting, Take, disc, polar

HEADINGS = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
NUMBERS = ("none", "one", "two")
_EXITS = ("red", "green", "blue")


def screen(left: float, top: float, right: float, bottom: float) -> Part:
    return Part(name="screen", points=rectangle(left, top, right, bottom), grey=165, front=True)


def stop(x: float, y: float) -> tuple[Point, Point]:
    """An upright line that stops what comes along the height ``y``."""
    return (x, y - 4), (x, y + 4)


def stopping(*stops: tuple[Point, Point]) -> World:
    """Straight motion up to soft stops, which keep what they catch."""
    return World(solids=stops, restitution=0.0, steps=128)


def _next(setting: Setting) -> Group | None:
    """A disc went behind the screen on one side and comes out on another."""
    radius, cover, speed = setting.draw("size"), setting.draw("cover"), setting.draw("speed")
    x, y, off_x, off_y = (setting.uniform(-1, 1) * scale for scale in (2, 2, 0.8, 0.8))
    x, y, tilt = x + SIDE / 2, y + SIDE / 2, setting.uniform(-0.15, 0.15)
    part = screen(x - cover, y - cover, x + cover, y + cover)
    body = disc(x + off_x, y + off_y, radius, setting.colours(1)[0])
    takes = []
    for answer, (dx, dy) in HEADINGS.items():
        vx, vy = speed * (dx - tilt * dy), speed * (dy + tilt * dx)
        last = Scene(bodies=(replace(body, vx=vx, vy=vy),), background=setting.background, parts=(part,), walls=False)
        future = simulate(last, num_frames=65, duration=2.0).scenes
        if _side_out(future, part) != answer:
            return None
        takes.append(Take(answer=answer, scenes=rewind(last, num_frames=setting.num_frames).scenes, world=FREE))
    text = "On which side of the screen will it come out?"
    return Group(text=text, choices=tuple(HEADINGS), takes=tuple(takes))


def _side_out(future: tuple[Scene, ...], part: Part) -> str | None:
    left, top, right, bottom = part.bounds
    for scene in future:
        body = scene.bodies[0]
        beyond = {"left": left - body.x, "right": body.x - right, "top": top - body.y, "bottom": body.y - bottom}
        side = max(beyond, key=beyond.__getitem__)
        if beyond[side] > 0:
            return side
    return None


def _permanence(setting: Setting) -> Group | None:
    """Two discs go behind a screen; each stays, or comes out at the other end and leaves the picture."""
    cover, speed = setting.draw("cover"), setting.draw("speed")
    part = screen(SIDE / 2 - cover, 8, SIDE / 2 + cover, 40)
    bodies, stops = [], []
    for colour, lane in zip(setting.colours(2), (16, 32), strict=True):
        side, radius, y = setting.sign(), setting.draw("size"), lane + setting.uniform(-1.5, 1.5)
        start = SIDE / 2 - side * (SIDE / 2 - setting.uniform(4.5, 7))
        bodies.append(disc(start, y, radius, colour, vx=side * speed * setting.uniform(0.95, 1.05)))
        stops.append(stop(SIDE / 2 + side * (cover - 0.5), y))
    first = Scene(bodies=tuple(bodies), background=setting.background, parts=(part,), walls=False)
    one = setting.index % 2
    staying = {"none": (), "one": stops[one : one + 1], "two": stops}
    takes = []
    for answer in NUMBERS:
        world = stopping(*staying[answer])
        takes.append(
            Take(answer=answer, scenes=simulate(first, num_frames=setting.num_frames, world=world).scenes, world=world)
        )
    return Group(text="How many objects are behind the screen?", choices=NUMBERS, takes=tuple(takes))


def _leaves(setting: Setting) -> Group | None:
    """Three discs; one leaves the picture on one side, the others go behind the screen on the other side."""
    cover, side = setting.draw("cover"), setting.sign()
    edges = sorted((SIDE / 2 + side * 9, SIDE / 2 + side * (9 + 2 * cover)))
    part = screen(edges[0], 2, edges[1], 46)
    bodies, stops = [], []
    for colour, lane in zip(setting.rng.permutation(_EXITS), (10, 24, 38), strict=True):
        radius, y, x = setting.draw("size"), lane + setting.uniform(-2, 2), SIDE / 2 + setting.uniform(-2, 2)
        bodies.append(disc(x, y, radius, str(colour)))
        stops.append(stop(SIDE / 2 + side * (9 + cover + radius), y))
    speeds, world, takes = [setting.draw("speed") for _ in bodies], stopping(*stops), []
    for answer in _EXITS:
        moving = tuple(
            replace(body, vx=(-side if body.colour == answer else side) * speed)
            for body, speed in zip(bodies, speeds, strict=True)
        )
        first = Scene(bodies=moving, background=setting.background, parts=(part,), walls=False)
        takes.append(
            Take(answer=answer, scenes=simulate(first, num_frames=setting.num_frames, world=world).scenes, world=world)
        )
    return Group(text="Which one left the picture?", choices=_EXITS, takes=tuple(takes))


def _front(setting: Setting) -> Group | None:
    """Two discs whose ways cross: the same motion, with one or the other nearer to the viewer."""
    names = ("red", "blue") if setting.index % 2 else ("blue", "red")
    heading, tilt, met = setting.uniform(0, 6.3), setting.uniform(-0.4, 0.4), setting.uniform(0.4, 0.6)
    place = setting.uniform(20, 28), setting.uniform(20, 28)
    bodies: list[Body] = []
    for name, turn in zip(names, (0.0, 3.14 + tilt), strict=True):
        vx, vy = polar(setting.draw("speed"), heading + turn)
        left = 1 - met
        bodies.append(disc(place[0] + vx * left, place[1] + vy * left, setting.draw("size"), name, vx=vx, vy=vy))
    takes = []
    for answer in names:
        layers = tuple(replace(body, layer=2 if body.colour == answer else 1) for body in bodies)
        last = Scene(bodies=layers, background=setting.background, walls=False)
        takes.append(Take(answer=answer, scenes=rewind(last, num_frames=setting.num_frames).scenes, world=FREE))
    text = f"Which one passes in front, the {names[0]} or the {names[1]} one?"
    return Group(text=text, choices=names, takes=tuple(takes))


MAKERS: dict[str, Maker] = {
    "next/occlusion": _next,
    "permanence/occlusion": _permanence,
    "leaves/occlusion": _leaves,
    "front/occlusion": _front,
}
