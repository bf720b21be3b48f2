"""Free flight: straight lines in a closed box, nothing touched. The demo's questions, and one about positions."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from theworld_train.microworld.physics import FREE, World, past
from theworld_train.microworld.questions import CHOICES, DRAFTS, apart, drifting
from theworld_train.microworld.scene import Scene
from theworld_train.microworld.setting import Group, Maker, Setting, Take

POSITIONS = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}


def _drafted(question: str, setting: Setting) -> Group | None:
    draft = DRAFTS[question](setting.rng, setting.index, setting.limits)
    return None if draft is None else filmed(draft.text, draft.last_scenes, setting.num_frames, past_of=past)


def filmed(
    text: str,
    last_scenes: dict[str, Scene],
    num_frames: int,
    *,
    past_of: Callable[..., tuple[Scene, ...] | None],
    world: World = FREE,
) -> Group | None:
    """The group of clips that end with these scenes; None where one has no such past."""
    clips = {answer: past_of(scene, num_frames=num_frames) for answer, scene in last_scenes.items()}
    takes = [Take(answer=answer, scenes=scenes, world=world) for answer, scenes in clips.items() if scenes is not None]
    return Group(text=text, choices=tuple(clips), takes=tuple(takes)) if len(takes) == len(clips) else None


def _position(setting: Setting) -> Group | None:
    """Two objects; their colours are placed in every way, so the places alone say nothing."""
    pair = setting.index % 2 * 2  # left or right, above or below: as often
    choices = tuple(POSITIONS)[pair : pair + 2]
    one, other = (drifting(setting.rng, setting.limits, colour="red") for _ in range(2))
    dx, dy = one.x - other.x, one.y - other.y
    along, across = (dx, dy) if pair == 0 else (dy, dx)
    if not apart(one, other) or abs(along) < 1.5 * abs(across):
        return None
    first, second = ("red", "blue") if setting.index // 2 % 2 else ("blue", "red")
    last_scenes = {}
    for choice in choices:
        swap = (along < 0) == (choice in ("right", "below"))
        colours = (second, first) if swap else (first, second)
        bodies = tuple(replace(body, colour=colour) for body, colour in zip((one, other), colours, strict=True))
        last_scenes[choice] = Scene(bodies=bodies, background=setting.background)
    where = f"{choices[0]} or {choices[1]}" + (" of" if pair == 0 else "")
    text = f"Is the {first} one {where} the {second} one?"
    return filmed(text, last_scenes, setting.num_frames, past_of=past)


MAKERS: dict[str, Maker] = {
    **{f"{question}/free": partial(_drafted, question) for question in CHOICES},
    "position/free": _position,
}
