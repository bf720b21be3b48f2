"""Containment: boxes with opaque fronts and lids, which objects fall into and are carried about in.

Falling is pymunk's. A closed box moves as it is told, and what is in it moves with it.
"""

from dataclasses import replace

from theworld_train.microworld.physics import World, simulate
from theworld_train.microworld.scene import SIDE, Part, Point, Scene, rectangle
from theworld_train.microworld.setting import Group, Maker, Setting, Take, crossed, disc

_MOUTH, _FLOOR, _HALF = 31.0, 44.0, 6.5
"""Heights of a box's mouth and floor, and half its width."""
_CLOSING, _CLOSED, _MOVED = 0.4, 0.52, 0.95
"""When a lid begins to close and is closed, and when the last motion ends, in clip lengths."""
_CHOICES = ("left", "right")


def _solid_box(x: float) -> list[tuple[Point, Point]]:
    left, right = x - _HALF, x + _HALF
    return [((left, _MOUTH), (left, _FLOOR)), ((right, _MOUTH), (right, _FLOOR)), ((left, _FLOOR), (right, _FLOOR))]


def _world(setting: Setting, *boxes: float) -> World:
    solids = [line for x in boxes for line in _solid_box(x)]
    return World(gravity=setting.draw("gravity"), solids=tuple(solids), restitution=0.0, steps=192)


def _progress(time: float, start: float, end: float) -> float:
    return min(1.0, max(0.0, (time - start) / (end - start)))


def _box(x: float, grey: int, time: float) -> list[Part]:
    """Its front, and its lid, which comes down from above the picture's middle."""
    lift = 12 * (1 - _progress(time, _CLOSING, _CLOSED))
    lid = rectangle(x - _HALF - 0.6, _MOUTH - 1.8 - lift, x + _HALF + 0.6, _MOUTH - lift)
    front = rectangle(x - _HALF - 0.2, _MOUTH, x + _HALF + 0.2, _FLOOR + 0.5)
    parts = [Part(name="box", points=front, grey=grey, front=True)]
    if time > _CLOSING:
        parts.append(Part(name="lid", points=lid, grey=grey - 40, front=True))
    return parts


def _permanence(setting: Setting) -> Group | None:
    """A ball falls into one of two boxes; then they close and move, at higher levels past each other."""
    starts = [11 + setting.uniform(-1, 1), 37 + setting.uniform(-1, 1)]
    swapped = setting.level != "easy" and setting.index % 2 == 0
    ends = [x + setting.uniform(-2.5, 2.5) for x in (starts[::-1] if swapped else starts)]
    greys = [150, 150] if setting.level == "hard" else [int(grey) for grey in setting.rng.permutation([125, 185])]
    nearer = int(setting.rng.integers(2))
    world, radius, colour = _world(setting, *starts), setting.draw("size"), setting.colours(1)[0]
    flight = (2 * (_MOUTH - 7) / world.gravity) ** 0.5
    takes = []
    for place, start in enumerate(starts):
        ball = disc(SIDE / 2, 7, radius, colour, vx=(start - SIDE / 2) / flight)
        first = Scene(bodies=(ball,), background=setting.background, walls=False)
        scenes = []
        for time, scene in zip(
            setting.times, simulate(first, num_frames=setting.num_frames, world=world).scenes, strict=True
        ):
            share = _progress(time, _CLOSED, _MOVED)
            at = [a + share * (b - a) for a, b in zip(starts, ends, strict=True)]
            boxes = [part for box in (1 - nearer, nearer) for part in _box(at[box], greys[box], time)]
            carried = (ends[place] - start) if 0 < share < 1 else 0.0
            body = scene.bodies[0]
            body = replace(
                body, x=body.x + at[place] - start, vx=body.vx + carried / (_MOVED - _CLOSED) if carried else body.vx
            )
            scenes.append(replace(scene, bodies=(body,), parts=tuple(boxes)))
        side = _CHOICES[ends[place] > ends[1 - place]]
        takes.append(Take(answer=side, scenes=tuple(scenes)))
    return Group(text="Which box is the ball in?", choices=_CHOICES, takes=tuple(takes))


def _plausible(setting: Setting) -> Group | None:
    """A ball falls into a box or past it; the box closes, and its front opens: the ball is there, or not."""
    x, radius, colour = SIDE / 2 + setting.sign() * setting.uniform(8, 12), setting.draw("size"), setting.colours(1)[0]
    world = _world(setting, x)
    flight = (2 * (_MOUTH - 7) / world.gravity) ** 0.5
    into = (x - SIDE / 2) / flight
    runs = []
    for vx in (into, -2.2 * into):
        first = Scene(bodies=(disc(SIDE / 2, 7, radius, colour, vx=vx),), background=setting.background, walls=False)
        scenes = simulate(first, num_frames=setting.num_frames, world=world).scenes
        runs.append(
            [replace(scene, parts=_opening(x, time)) for scene, time in zip(scenes, setting.times, strict=True)]
        )
    return crossed(runs, world=None)


def _opening(x: float, time: float) -> tuple[Part, ...]:
    """The box closes, then its front sinks out of the picture and shows the back of its inside."""
    inside = Part(name="box", points=rectangle(x - _HALF, _MOUTH, x + _HALF, _FLOOR), grey=70)
    front, *lid = _box(x, 165, time)
    sunk = (SIDE - _MOUTH) * _progress(time, 0.62, 0.9)
    front = replace(front, points=tuple((a, b + sunk) for a, b in front.points))
    return (inside, front, *lid)


MAKERS: dict[str, Maker] = {"permanence/containment": _permanence, "plausible/containment": _plausible}
