"""The benchmark's clips: groups of a split, a family and a level, with the true state of every frame.

How others use it::

    clips = stage("val", "direction/free", 3, level="easy")   # the group's clips
    clip = clips[0]
    clip.scenes[-1].bodies[0].vx, clip.plausible               # what is true
    draw(clip.scenes[-1], size=96)                             # what is seen

``clip.scenes`` holds a ``Scene`` a frame: ``bodies`` (x, y, vx, vy, radius, shape, colour, mass, layer, role),
always in the same order, distractors last; ``parts``, the scenery; ``front_to_back(scene)`` and
``hidden_shares(scene)`` say who is in front and what cannot be seen.
"""

import zlib
from dataclasses import dataclass, replace

import numpy as np

from theworld_train.microworld.families import MAKERS
from theworld_train.microworld.physics import World
from theworld_train.microworld.questions import Question
from theworld_train.microworld.ranges import LEVELS, SPLITS, backgrounds, limits
from theworld_train.microworld.scene import SIDE, Body, Scene
from theworld_train.microworld.setting import Group, Setting

FAMILIES = tuple(MAKERS)
"""Full names of all families: a question family and a scene family, ``direction/free``."""

_ATTEMPTS = 1000


@dataclass(frozen=True, kw_only=True)
class StagedClip:
    """A clip before it is drawn.

    Attributes:
        question: what is asked; ``question.family`` is the question family, without the scene family.
        scenes: the true state of each frame, evenly spaced over one clip length.
        family: full name, ``direction/free``.
        level: easy, medium or hard.
        group: who shares its last picture; no two groups share a name, whatever their seed, split or level.
        plausible: whether everything in it could happen.
        world: the laws with which the engine, run forward from the first scene, gives the others; ``None`` where no
            single run does.
    """

    question: Question
    scenes: tuple[Scene, ...]
    family: str
    level: str
    group: str
    plausible: bool = True
    world: World | None = None

    @property
    def scene_family(self) -> str:
        """free, collision, occlusion, pendulum, rolling, stacking or containment."""
        return self.family.partition("/")[2]


def families(names: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Full names for names that are full, or of a question family (all its scenes); all families for none.

    Raises:
        ValueError: there is no such family.
    """
    found: dict[str, None] = {}
    for name in names or FAMILIES:
        matching = [family for family in FAMILIES if name in (family, family.partition("/")[0])]
        if not matching:
            raise ValueError(f"there is no family {name!r}. Use some of: {', '.join(FAMILIES)}.")
        found |= dict.fromkeys(matching)
    return tuple(found)


def stage(
    split: str, family: str, index: int, *, seed: int = 0, level: str = "easy", num_frames: int = 9
) -> list[StagedClip]:
    """One group: as many clips for each answer, in the order of the choices.

    It depends on the seed, the split, the family, the level and its index alone, not on what else is made.

    Args:
        split: ``train``, ``val``, ``test`` or ``test-extrapolation``.
        family: a full name, of ``FAMILIES``.
        index: the group's place in its family.
        seed: where all randomness comes from; 0 or more.
        level: easy, medium or hard.
        num_frames: frames a clip, at least 5. A clip lasts as long whatever their number.

    Raises:
        ValueError: an argument is out of range, or no group could be made.
    """
    _check(split, family, index, seed, level, num_frames)
    rng = np.random.default_rng(
        np.random.SeedSequence(
            seed, spawn_key=(SPLITS.index(split), zlib.crc32(family.encode()), LEVELS.index(level), index)
        )
    )
    greys, spreads = backgrounds(split), limits(split, family, level)
    for _ in range(_ATTEMPTS):
        setting = Setting(
            rng=rng,
            index=index,
            level=level,
            limits=spreads,
            background=greys[int(rng.integers(len(greys)))],
            num_frames=num_frames,
        )
        group = MAKERS[family](setting)
        if group is not None:
            return _staged(group, setting, family, f"{split}/{family}/{level}/{seed}/{index}")
    raise ValueError(f"no clips for {family}, group {index}, seed {seed} in {_ATTEMPTS} attempts. Change the seed.")


def _staged(group: Group, setting: Setting, family: str, name: str) -> list[StagedClip]:
    """The takes with what all families share: the split's background and distractors."""
    drifting = _distractors(setting)
    clips = []
    for take in sorted(group.takes, key=lambda take: group.choices.index(take.answer)):
        scenes = tuple(
            replace(scene, background=setting.background, bodies=scene.bodies + moved)
            for scene, moved in zip(take.scenes, drifting, strict=True)
        )
        question = Question(family=family.partition("/")[0], text=group.text, answer=take.answer, choices=group.choices)
        clips.append(
            StagedClip(
                question=question,
                scenes=scenes,
                family=family,
                level=setting.level,
                group=name,
                plausible=take.plausible,
                world=take.world,
            )
        )
    return clips


def _distractors(setting: Setting) -> list[tuple[Body, ...]]:
    """Small grey discs behind everything, on straight lines that nothing touches; a tuple a frame."""
    number = int(setting.limits["distractors"][0])
    starts, ends = setting.rng.uniform(4, SIDE - 4, size=(2, number, 2))
    radii = setting.rng.uniform(1.2, 2.0, size=number)
    return [
        tuple(
            Body(
                x=float(start[0] + time * (end[0] - start[0])),
                y=float(start[1] + time * (end[1] - start[1])),
                vx=float(end[0] - start[0]),
                vy=float(end[1] - start[1]),
                radius=float(radius),
                shape="circle",
                colour="grey",
                layer=0,
                role="distractor",
            )
            for start, end, radius in zip(starts, ends, radii, strict=True)
        )
        for time in setting.times
    ]


def _check(split: str, family: str, index: int, seed: int, level: str, num_frames: int) -> None:
    names = {"split": (split, SPLITS), "family": (family, FAMILIES), "level": (level, LEVELS)}
    for what, (name, known) in names.items():
        if name not in known:
            raise ValueError(f"there is no {what} {name!r}. Use one of: {', '.join(known)}.")
    for what, value, least in (("index", index, 0), ("seed", seed, 0), ("num_frames", num_frames, 5)):
        if value < least:
            raise ValueError(f"{what} is {value}. Use {least} or more.")
