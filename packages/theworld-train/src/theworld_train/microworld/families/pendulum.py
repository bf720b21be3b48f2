"""Pendulum: a disc on a stiff rod under gravity. At one angle it may swing either way: a motion and its reversal."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from theworld_train.microworld.draw import COLOURS
from theworld_train.microworld.physics import World, rewind, simulate
from theworld_train.microworld.scene import SIDE, Body, Part, Point, Scene
from theworld_train.microworld.setting import Group, Maker, Setting, Take, disc

_PIVOT_Y, _ROD = 5.0, 0.5
LATER = 0.5
"""How far ahead ``next`` asks, in clip lengths."""


@dataclass(frozen=True, kw_only=True)
class _Hung:
    """A disc at its last place and at rest, and the speed with which it can swing there."""

    pivot: Point
    length: float
    body: Body
    world: World
    speed: float


def _hung(setting: Setting) -> _Hung:
    radius, length, reach = setting.draw("size"), setting.uniform(24, 30), setting.draw("swing")
    pivot = (SIDE / 2 + setting.uniform(-4, 4), _PIVOT_Y)
    angle, gravity = setting.uniform(-0.6, 0.6) * reach, setting.draw("gravity")
    x, y = pivot[0] + length * math.sin(angle), pivot[1] + length * math.cos(angle)
    return _Hung(
        pivot=pivot,
        length=length,
        body=disc(x, y, radius, setting.colours(1)[0]),
        world=World(gravity=gravity, pivot=pivot, steps=128),
        # By the energy, it turns at ``reach``.
        speed=math.sqrt(2 * gravity * length * (math.cos(angle) - math.cos(reach))),
    )


def _swung(setting: Setting, hung: _Hung, way: int, colour: str | None = None) -> tuple[Scene, ...]:
    """The clip that ends with the body's going along its arc, to the right (1) or to the left (-1)."""
    body = hung.body
    along = (body.y - hung.pivot[1]) / hung.length, -(body.x - hung.pivot[0]) / hung.length
    moving = replace(body, vx=way * hung.speed * along[0], vy=way * hung.speed * along[1], colour=colour or body.colour)
    last = Scene(bodies=(moving,), background=setting.background, walls=False)
    scenes = rewind(last, num_frames=setting.num_frames, world=hung.world).scenes
    return tuple(replace(scene, parts=(_rod(hung.pivot, scene.bodies[0]),)) for scene in scenes)


def _rod(pivot: Point, body: Body) -> Part:
    dx, dy = body.x - pivot[0], body.y - pivot[1]
    across = _ROD * dy / math.hypot(dx, dy), -_ROD * dx / math.hypot(dx, dy)
    ends = [(pivot, 1), (pivot, -1), ((body.x, body.y), -1), ((body.x, body.y), 1)]
    return Part(name="rod", points=tuple((x + s * across[0], y + s * across[1]) for (x, y), s in ends), grey=150)


def _either_way(text: str, side: Callable[[_Hung, Scene], str | None]) -> Maker:
    def make(setting: Setting) -> Group | None:
        hung = _hung(setting)
        takes = {}
        for way in (-1, 1):
            scenes = _swung(setting, hung, way)
            answer = side(hung, scenes[-1])
            if answer is not None:
                takes[answer] = Take(answer=answer, scenes=scenes, world=hung.world)
        if len(takes) < 2:
            return None  # both go to the same side
        return Group(text=text, choices=("left", "right"), takes=tuple(takes.values()))

    return make


def _heading(hung: _Hung, last: Scene) -> str | None:
    return "right" if last.bodies[0].vx > 0 else "left"


def _later(hung: _Hung, last: Scene) -> str | None:
    end = simulate(last, num_frames=2, duration=LATER, world=hung.world).scenes[-1].bodies[0]
    off = end.x - hung.pivot[0]
    if abs(off) < 1:
        return None  # too near the middle to call
    return "right" if off > 0 else "left"


def _colour(setting: Setting) -> Group | None:
    hung, way = _hung(setting), setting.sign()
    takes = [Take(answer=colour, scenes=_swung(setting, hung, way, colour), world=hung.world) for colour in COLOURS]
    return Group(text="What colour is the thing that swings?", choices=tuple(COLOURS), takes=tuple(takes))


MAKERS: dict[str, Maker] = {
    "direction/pendulum": _either_way("Which way is it swinging?", _heading),
    "next/pendulum": _either_way("On which side of its pivot will it be half a clip later?", _later),
    "colour/pendulum": _colour,
}
