"""The micro-world as a benchmark: true, balanced, apart by split, the same every time, no answer without watching."""

import hashlib
import math
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache

import pytest

from theworld_train.microworld import baselines as baselines_module
from theworld_train.microworld import generate, physics
from theworld_train.microworld.baselines import Baseline, baselines
from theworld_train.microworld.draw import draw
from theworld_train.microworld.physics import World, simulate
from theworld_train.microworld.ranges import BEYOND, LEVELS, SPLITS, TRAINED, backgrounds, limits
from theworld_train.microworld.scene import SIDE, Body, Part, Scene, front_to_back, hidden_shares, rectangle
from theworld_train.microworld.sheet import sheet
from theworld_train.microworld.stage import FAMILIES, StagedClip, families, stage
from theworld_train.microworld.version import GENERATOR_VERSION, fingerprint, states

BEYOND_TRAINING = "test-extrapolation"
GOLDEN = "4d74abe54943438fb507041d847478619961d291e056eb8008b841857793c49d"

ANY_FRAME = ("permanence/containment", "plausible/containment", "plausible/occlusion", "plausible/collision")
"""Families in which each frame, not just the last, is the same for all answers."""


@cache
def groups(family: str, split: str = "val", level: str = "easy", number: int = 8) -> list[list[StagedClip]]:
    return [stage(split, family, index, level=level) for index in range(number)]


def by_answer(group: list[StagedClip], frame: int) -> dict[str, list[bytes]]:
    found = defaultdict(list)
    for clip in group:
        found[clip.question.answer].append(draw(clip.scenes[frame], size=48).tobytes())
    return {answer: sorted(pictures) for answer, pictures in found.items()}


def without_distractors(scene: Scene) -> Scene:
    return replace(scene, bodies=tuple(body for body in scene.bodies if body.role != "distractor"))


def test_the_demo_gets_the_clips_that_it_always_got():
    clips = generate(groups_per_family=2, seed=3)
    parts = [frame.tobytes() for clip in clips for frame in clip.frames]
    parts += [repr((clip.group, clip.questions)).encode() for clip in clips]
    assert hashlib.sha256(b"".join(parts)).hexdigest().startswith("c2f763a3e5e8b25e5868c2e6101b58d0bedb1a7b")


def test_the_generator_makes_what_its_version_made():
    """Where this fails, a library works differently or a clip was changed: raise ``GENERATOR_VERSION`` and say so."""
    assert GENERATOR_VERSION == 1
    assert fingerprint(split="test") == GOLDEN


@pytest.mark.parametrize(
    "changed",
    [{"split": "val"}, {"names": ("direction",)}, {"level": "hard"}, {"seed": 1}, {"num_frames": 5}, {"groups": 2}],
)
def test_a_fingerprint_tells_options_apart(changed: dict):
    options = {"split": "test", "names": ("direction/free", "colour/free")}
    assert fingerprint(**options) != fingerprint(**(options | changed))


def test_a_fingerprint_shows_other_physics(monkeypatch: pytest.MonkeyPatch):
    options = {"split": "test", "names": ("collide/collision",)}
    before = fingerprint(**options)
    monkeypatch.setattr(physics, "WALL", 1.45)
    assert fingerprint(**options) != before


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("level", LEVELS)
def test_groups_are_balanced_and_end_alike(family: str, level: str):
    for group in groups(family, "val", level, 4):
        counts = Counter(clip.question.answer for clip in group)
        assert set(counts) == set(group[0].question.choices)
        assert len(set(counts.values())) == 1
        assert len({(clip.question.text, clip.question.choices, clip.group) for clip in group}) == 1
        last = list(by_answer(group, -1).values())
        assert all(len(clip.scenes) == 9 for clip in group)
        if group[0].question.motion:
            assert all(pictures == last[0] for pictures in last)
        else:
            assert len({picture for pictures in last for picture in pictures}) == len(group)
    if family in ANY_FRAME:
        for group in groups(family, "val", level, 4):
            for frame in range(9):
                if family == "permanence/containment" and frame in (1, 2, 3):
                    continue  # the ball is on its way
                pictures = list(by_answer(group, frame).values())
                assert pictures[0] == pictures[1], (frame, group[0].group)


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_do_not_tell_answers(family: str):
    counts = defaultdict(Counter)
    for group in groups(family):
        for clip in group:
            counts[clip.question.text][clip.question.answer] += 1
    for text, answers in counts.items():
        assert len(set(answers.values())) == 1, text


@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_run_forward_shows_the_same(family: str):
    """What was read backwards, too; in steps, so near rather than equal."""
    checked = 0
    for split in ("val", BEYOND_TRAINING):
        for clip in (clip for group in groups(family, split, "medium", 4) for clip in group):
            assert clip.plausible or clip.world is None
            if clip.world is None:
                continue
            shown = [without_distractors(scene) for scene in clip.scenes]
            run = simulate(shown[0], num_frames=9, world=clip.world)
            for simulated, one in zip(run.scenes, shown, strict=True):
                for a, b in zip(simulated.bodies, one.bodies, strict=True):
                    assert math.hypot(a.x - b.x, a.y - b.y) < 0.6
            checked += 1
    assert checked or family.endswith("/containment")


@pytest.mark.parametrize("family", FAMILIES)
def test_velocities_are_those_of_the_places(family: str):
    """Where nothing happens between two frames: the path between them is about the mean velocity's."""
    for clip in (clip for group in groups(family, "val", "medium", 2) for clip in group if clip.plausible):
        near = total = 0
        for one, two in zip(clip.scenes, clip.scenes[1:], strict=False):
            for a, b in zip(one.bodies, two.bodies, strict=True):
                moved = math.hypot(b.x - a.x - (a.vx + b.vx) / 16, b.y - a.y - (a.vy + b.vy) / 16)
                near, total = near + (moved < 0.5), total + 1
        assert near / total > 0.6


def test_truths_are_in_the_states():
    for clip in (clip for group in groups("direction/pendulum", "val", "hard") for clip in group):
        assert (clip.scenes[-1].bodies[0].vx > 0) == (clip.question.answer == "right")
    for clip in (clip for group in groups("heavier/collision", "val", "hard") for clip in group):
        assert max(clip.scenes[0].bodies, key=lambda body: body.mass).colour == clip.question.answer
    for clip in (clip for group in groups("permanence/occlusion", "val", "hard") for clip in group):
        inside = sum(body.role == "object" and 0 < body.x < SIDE for body in clip.scenes[-1].bodies)
        assert ("none", "one", "two")[inside] == clip.question.answer
    for clip in (clip for group in groups("leaves/occlusion", "val", "hard") for clip in group):
        gone = [body.colour for body in clip.scenes[-1].bodies if not -body.radius < body.x < SIDE + body.radius]
        assert gone == [clip.question.answer]
    for clip in (clip for group in groups("front/occlusion", "val", "hard") for clip in group):
        bodies = clip.scenes[0].bodies
        assert bodies[front_to_back(clip.scenes[0])[0]].colour == clip.question.answer
    for clip in (clip for group in groups("permanence/containment", "val", "hard") for clip in group):
        last = clip.scenes[-1]
        box = next(
            part.bounds
            for part in last.parts
            if part.name == "box" and part.bounds[0] < last.bodies[0].x < part.bounds[2]
        )
        assert ((box[0] + box[2]) / 2 > SIDE / 2) == (clip.question.answer == "right")
        assert hidden_shares(last)[0] == pytest.approx(1)


def test_what_is_asked_about_is_hidden_at_the_end():
    for family in ("next/occlusion", "permanence/occlusion", "leaves/occlusion", "permanence/containment"):
        for level in LEVELS:
            for clip in (clip for group in groups(family, "val", level) for clip in group):
                objects = [place for place, body in enumerate(clip.scenes[-1].bodies) if body.role == "object"]
                shares = hidden_shares(clip.scenes[-1])
                assert all(shares[place] > 0.999 for place in objects)
                assert min(hidden_shares(clip.scenes[0])[place] for place in objects) < 0.6


def test_impossible_clips_break_off_only_where_it_cannot_be_seen():
    """Up to the middle one run, then another; what jumps is hidden before and after."""
    for index in range(8):
        for clip in stage("val", "plausible/occlusion", index):
            assert clip.plausible == (clip.question.answer == "possible")
            before, after = clip.scenes[4], clip.scenes[5]
            for place, (a, b) in enumerate(zip(before.bodies, after.bodies, strict=True)):
                if math.hypot(b.x - a.x, b.y - a.y) > 10:
                    assert not clip.plausible
                    assert hidden_shares(before)[place] > 0.99


def test_hidden_shares():
    ball = Body(x=10, y=10, vx=0, vy=0, radius=2, shape="circle", colour="red")
    screen = Part(name="screen", points=rectangle(10, 0, 20, 20), grey=100, front=True)
    behind = replace(screen, front=False)
    assert hidden_shares(Scene(bodies=(ball,), background=0, parts=(screen,))) == pytest.approx([0.5])
    assert hidden_shares(Scene(bodies=(ball,), background=0, parts=(behind,))) == [0.0]
    assert hidden_shares(Scene(bodies=(replace(ball, x=-2),), background=0)) == [1.0]
    pair = Scene(bodies=(replace(ball, layer=2), replace(ball, x=12)), background=0)
    assert front_to_back(pair) == [0, 1]
    assert hidden_shares(pair) == pytest.approx([0, 0.5])


def test_ranges_are_apart():
    for family, spreads in TRAINED.items():
        for level in LEVELS:
            trained = limits("train", family, level)
            assert limits("val", family, level) == limits("test", family, level) == trained
            beyond = limits(BEYOND_TRAINING, family, level)
            for name in spreads:
                low, high = trained[name]
                assert beyond[name][0] > high or beyond[name][1] < low
                assert low <= high
            if not family.startswith("count/"):
                most = max(limits("train", family, other)["distractors"][1] for other in LEVELS)
                assert beyond["distractors"][0] > most
    assert set(TRAINED) == set(FAMILIES)
    assert {name for spreads in TRAINED.values() for name in spreads} == set(BEYOND)


@pytest.mark.parametrize("family", FAMILIES)
def test_clips_keep_to_their_ranges(family: str):
    """Radii of what a question is about, in the states: those of the extrapolation are smaller than any trained one."""
    low, high = TRAINED[family]["size"]
    for split in SPLITS:
        for clip in (clip for group in groups(family, split, "easy", 2) for clip in group):
            radii = [body.radius for body in clip.scenes[0].bodies if body.role == "object"]
            assert all(radius < low if split == BEYOND_TRAINING else low <= radius <= high for radius in radii)
            number = sum(body.role == "distractor" for body in clip.scenes[0].bodies)
            assert number == limits(split, family, "easy")["distractors"][0]


def test_no_split_shares_a_picture_with_another():
    greys = [set(backgrounds(split)) for split in SPLITS]
    assert len(set.union(*greys)) == sum(map(len, greys))
    pictures = {}
    for split in SPLITS:
        clips = [clip for family in FAMILIES for group in groups(family, split, "easy", 2) for clip in group]
        assert {scene.background for clip in clips for scene in clip.scenes} <= set(backgrounds(split))
        pictures[split] = {draw(scene, size=32).tobytes() for clip in clips for scene in clip.scenes[::4]}
    assert len(set.union(*pictures.values())) == sum(map(len, pictures.values()))


def test_a_group_depends_on_its_name_alone():
    again = stage("val", "collide/collision", 3, level="medium")
    assert states(again[0]) == states(groups("collide/collision", "val", "medium", 4)[3][0])
    others = [
        stage("val", "collide/collision", 3, level="medium", seed=1),
        stage("val", "collide/collision", 4, level="medium"),
        stage("test", "collide/collision", 3, level="medium"),
        stage("val", "collide/collision", 3, level="hard"),
        again,
    ]
    assert len({str(states(group[0])) for group in others}) == len({group[0].group for group in others}) == 5


def test_more_frames_show_the_same_motion():
    for family in ("next/pendulum", "plausible/occlusion", "permanence/containment"):
        for coarse, fine in zip(stage("val", family, 1), stage("val", family, 1, num_frames=17), strict=True):
            for one, two in zip(coarse.scenes, fine.scenes[::2], strict=True):
                for a, b in zip(one.bodies, two.bodies, strict=True):
                    assert math.hypot(a.x - b.x, a.y - b.y) < 0.01


def test_names():
    assert families() == FAMILIES
    assert families(("faster", "colour/free", "faster/free")) == ("faster/free", "faster/rolling", "colour/free")
    with pytest.raises(ValueError, match=r"no family 'speed'\. Use some of: direction/free"):
        families(("speed",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dev", "direction/free", 0, {}), r"no split 'dev'\. Use one of: train, val"),
        (("val", "direction", 0, {}), r"no family 'direction'"),
        (("val", "direction/free", -1, {}), r"index is -1\. Use 0 or more"),
        (("val", "direction/free", 0, {"level": "insane"}), r"no level 'insane'"),
        (("val", "direction/free", 0, {"num_frames": 4}), r"num_frames is 4\. Use 5 or more"),
        (("val", "direction/free", 0, {"seed": -1}), r"seed is -1"),
    ],
)
def test_bad_arguments(arguments: tuple, message: str):
    *plain, named = arguments
    with pytest.raises(ValueError, match=message):
        stage(*plain, **named)


def test_a_soft_stop_keeps_what_it_catches_and_a_slope_pulls_down():
    ball = Body(x=10, y=20, vx=40, vy=0, radius=3, shape="circle", colour="red")
    first = Scene(bodies=(ball,), background=0, walls=False)
    world = World(solids=(((30, 0), (30, 48)),), restitution=0.0, steps=128)
    end = simulate(first, num_frames=2, world=world).scenes[-1].bodies[0]
    assert (end.x, end.vx) == pytest.approx((27, 0), abs=0.2)
    falling = simulate(replace(first), num_frames=2, duration=0.5, world=World(gravity=100, steps=512)).scenes[-1]
    assert falling.bodies[0].y - 20 == pytest.approx(100 * 0.25 / 2, rel=0.01)


def small(family: str, **more: object) -> Baseline:
    return baselines((family,), train_groups=24, val_groups=16, report=lambda *_: None, **more)[0]


def test_the_check_passes_a_family_about_motion_and_one_about_a_frame():
    motion, frame = small("plausible/collision"), small("colour/free")
    assert motion.problem is None
    assert [score.value for score in (motion.text, motion.last, motion.first, motion.middle)] == [0.5] * 4
    assert frame.problem is None
    assert frame.last.value > 0.8


def test_the_check_finds_what_a_last_frame_gives_away(monkeypatch: pytest.MonkeyPatch):
    def leaking(*arguments: object, **named: object) -> list[StagedClip]:
        clips = stage(*arguments, **named)
        return [
            replace(clip, scenes=(*clip.scenes[:-1], replace(clip.scenes[-1], background=40 * place)))
            for place, clip in enumerate(clips)
        ]

    monkeypatch.setattr(baselines_module, "stage", leaking)
    assert "the last frame alone gives 100% where chance is 50%" in (small("faster/rolling").problem or "")


def test_the_check_finds_a_frame_that_holds_no_answer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(baselines_module, "draw", lambda scene, size: draw(replace(scene, bodies=()), size=size))
    assert "where it holds the answer" in (small("colour/free").problem or "")


def test_a_sheet_shows_every_clip_of_a_group():
    image = sheet(("colour/free",), split="train", level="easy")
    assert image.width > 4 * 9 * 48
    assert image.height > 48
