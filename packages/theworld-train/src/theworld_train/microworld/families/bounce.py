"""Collision: objects that bounce, off the walls or off each other, without loss."""

from theworld_train.microworld.families.flight import filmed
from theworld_train.microworld.physics import World, rewind
from theworld_train.microworld.questions import collide
from theworld_train.microworld.scene import SIDE, Scene
from theworld_train.microworld.setting import Group, Maker, Setting, Take, disc, polar

_FINE = World(steps=128)  # a bounce happens at a step, so it is read backwards the better the finer they are


def _collide(setting: Setting) -> Group | None:
    draft = collide(setting.rng, setting.index, setting.limits, bounced=True)
    return (
        None
        if draft is None
        else filmed(draft.text, draft.last_scenes, setting.num_frames, past_of=_off_a_wall, world=_FINE)
    )


def _off_a_wall(scene: Scene, *, num_frames: int) -> tuple[Scene, ...] | None:
    run = rewind(scene, num_frames=num_frames, world=_FINE)
    return run.scenes if run.wall_touched and not run.objects_met else None


def _heavier(setting: Setting) -> Group | None:
    """Two discs after they hit. They go apart alike whichever is heavier; what differs is how they came."""
    names = ("red", "blue") if setting.index % 2 else ("blue", "red")
    radius, ratio, ago = setting.draw("size"), setting.draw("ratio"), setting.uniform(0.4, 0.6)
    apart = [setting.draw("speed") * ago * setting.uniform(0.8, 1.0) for _ in names]
    heading, tilt = setting.uniform(0, 6.3), setting.uniform(-0.2, 0.2)
    middle = setting.uniform(SIDE / 2 - 6, SIDE / 2 + 6), setting.uniform(SIDE / 2 - 6, SIDE / 2 + 6)
    places = []
    for side, way in zip((-1, 1), apart, strict=True):
        touch, gone = polar(side * radius, heading), polar(side * way, heading + tilt)
        places.append((middle[0] + touch[0] + gone[0], middle[1] + touch[1] + gone[1], gone[0] / ago, gone[1] / ago))
    takes = []
    for heavy in names:
        bodies = tuple(
            disc(x, y, radius, name, vx=vx, vy=vy, mass=ratio if name == heavy else 1.0)
            for name, (x, y, vx, vy) in zip(names, places, strict=True)
        )
        run = rewind(Scene(bodies=bodies, background=setting.background), num_frames=setting.num_frames, world=_FINE)
        if run.wall_touched or not run.objects_met:
            return None
        takes.append(Take(answer=heavy, scenes=run.scenes, world=_FINE))
    text = f"Which is heavier, the {names[0]} or the {names[1]} one?"
    return Group(text=text, choices=names, takes=tuple(takes))


MAKERS: dict[str, Maker] = {"collide/collision": _collide, "heavier/collision": _heavier}
