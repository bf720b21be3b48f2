"""The micro-world: balanced so that no single frame tells the motion, made by real physics, and the same every time."""

import hashlib
import math
import subprocess
import sys
import zlib
from collections import Counter, defaultdict
from functools import cache

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from theworld_train.microworld import CHOICES, FRAME_FAMILIES, MOTION_FAMILIES, Clip, generate
from theworld_train.microworld.clips import StagedClip, stage_group
from theworld_train.microworld.draw import COLOURS
from theworld_train.microworld.physics import simulate
from theworld_train.microworld.questions import HORIZON
from theworld_train.microworld.scene import SIDE, WALL, Body, Scene, corners

FAMILIES = MOTION_FAMILIES + FRAME_FAMILIES
GROUPS = 12


@cache
def clips_of(family: str) -> list[Clip]:
    return [clip for clip in all_clips() if clip.questions[0].family == family]


@cache
def all_clips() -> list[Clip]:
    return generate(groups_per_family=GROUPS, seed=0)


@cache
def staged(family: str, groups: int = GROUPS) -> list[list[StagedClip]]:
    return [stage_group(family, index, seed=0, num_frames=9) for index in range(groups)]


def grouped(clips: list[Clip]) -> list[list[Clip]]:
    groups = defaultdict(list)
    for clip in clips:
        groups[clip.group].append(clip)
    return list(groups.values())


def digest(clips: list[Clip]) -> str:
    parts = [frame.tobytes() for clip in clips for frame in clip.frames]
    parts += [repr((clip.group, clip.questions)).encode() for clip in clips]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(float)


def centre(image: Image.Image, colour: str | None = None) -> np.ndarray:
    """(x, y) of what stands out from the empty box, weighted by how much; with a colour, of what is near that one."""
    inner = pixels(image)[2:-2, 2:-2]
    if colour is None:
        weight = np.abs(inner - inner[0, 0]).sum(axis=-1)
    else:
        weight = (np.abs(inner - np.array(COLOURS[colour])).sum(axis=-1) < 60).astype(float)
    y, x = np.mgrid[: len(inner), : len(inner)]
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


@pytest.mark.parametrize("family", MOTION_FAMILIES)
def test_last_frame_and_question_leave_every_answer_of_a_group_open(family: str):
    groups = grouped(clips_of(family))
    assert len(groups) == GROUPS
    for group in groups:
        assert len({clip.frames[-1].tobytes() for clip in group}) == 1
        assert len({(clip.questions[0].text, clip.questions[0].choices) for clip in group}) == 1
        assert sorted(clip.questions[0].answer for clip in group) == sorted(group[0].questions[0].choices)
        assert len({b"".join(f.tobytes() for f in clip.frames) for clip in group}) == len(group)


@pytest.mark.parametrize("family", MOTION_FAMILIES)
@pytest.mark.parametrize("salt", range(5))
def test_any_rule_on_last_frame_and_question_scores_exactly_chance(family: str, salt: int):
    def rule(clip: Clip) -> str:
        question = clip.questions[0]
        return question.choices[
            zlib.crc32(clip.frames[-1].tobytes() + question.text.encode(), salt) % len(question.choices)
        ]

    for group in grouped(clips_of(family)):
        assert sum(rule(clip) == clip.questions[0].answer for clip in group) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_exactly_uniform(family: str):
    questions = [clip.questions[0] for clip in clips_of(family)]
    assert {question.motion for question in questions} == {family in MOTION_FAMILIES}
    assert set(Counter(question.answer for question in questions)) == set(CHOICES[family])
    assert len(set(Counter(question.answer for question in questions).values())) == 1
    by_text = defaultdict(Counter)
    for question in questions:
        by_text[question.text][question.answer] += 1
        assert question.answer in question.choices
    for text, answers in by_text.items():  # so the text alone gives chance
        assert len(set(answers.values())) == 1, text
        assert len(answers) == len(CHOICES[family])


def test_either_colour_is_named_first():
    texts = Counter(clip.questions[0].text for clip in clips_of("faster"))
    assert set(texts.values()) == {GROUPS}
    assert len(texts) == 2


@pytest.mark.parametrize("family", FAMILIES)
def test_shown_motion_runs_forward_to_the_last_frame_and_touches_nothing(family: str):
    for clip in [clip for group in staged(family) for clip in group]:
        run = simulate(clip.scenes[0], num_frames=9)
        assert not run.objects_met
        assert not run.wall_touched
        for simulated, shown in zip(run.scenes, clip.scenes, strict=True):
            for a, b in zip(simulated.bodies, shown.bodies, strict=True):
                assert math.hypot(a.x - b.x, a.y - b.y) < 1e-6
        for scene in clip.scenes:
            assert all(inside_the_box(body) for body in scene.bodies)


def inside_the_box(body: Body) -> bool:
    reach = np.array(corners(body) or [(-body.radius, -body.radius), (body.radius, body.radius)])
    at = reach + np.array([body.x, body.y])
    return bool((at > WALL).all() and (at < SIDE - WALL).all())


def test_collide_is_what_the_engine_goes_on_to_do():
    for clip in [clip for group in staged("collide", 40) for clip in group]:
        future = simulate(clip.scenes[-1], num_frames=257, duration=HORIZON).scenes
        pairs = [scene.bodies for scene in future]
        gap = min(math.hypot(a.x - b.x, a.y - b.y) - a.radius - b.radius for a, b in pairs)
        assert gap < 0.1 if clip.question.answer == "yes" else gap > 0.1


def test_next_is_the_corner_where_the_engine_takes_it():
    for clip in [clip for group in staged("next", 40) for clip in group]:
        end = simulate(clip.scenes[-1], num_frames=17, duration=HORIZON).scenes[-1].bodies[0]
        places = {
            f"{v} {h}": (x, y) for v, y in (("top", 0), ("bottom", SIDE)) for h, x in (("left", 0), ("right", SIDE))
        }
        assert min(places, key=lambda name: math.dist(places[name], (end.x, end.y))) == clip.question.answer


def test_direction_and_speed_can_be_read_from_the_pixels():
    for clip in clips_of("direction"):
        dx, dy = centre(clip.frames[-1]) - centre(clip.frames[0])
        seen = ("right" if dx > 0 else "left") if abs(dx) > abs(dy) else ("down" if dy > 0 else "up")
        assert seen == clip.questions[0].answer
        assert math.hypot(dx, dy) > 5
    for clip in clips_of("faster"):
        way = {c: math.dist(centre(clip.frames[-1], c), centre(clip.frames[0], c)) for c in clip.questions[0].choices}
        assert max(way, key=way.__getitem__) == clip.questions[0].answer
        assert max(way.values()) > 1.7 * min(way.values())


def test_one_frame_answers_the_single_frame_questions():
    for clip in clips_of("colour"):
        seen = pixels(clip.frames[-1])[2:-2, 2:-2].reshape(-1, 3)
        counts = {name: (np.abs(seen - np.array(rgb)).sum(axis=-1) < 30).sum() for name, rgb in COLOURS.items()}
        assert max(counts, key=counts.__getitem__) == clip.questions[0].answer
    for family in ("count", "shape"):
        for clip in clips_of(family):
            inner = pixels(clip.frames[-1])[2:-2, 2:-2]
            objects, number = ndimage.label(np.abs(inner - inner[0, 0]).sum(axis=-1) > 100)
            if family == "count":
                assert number == 1 + CHOICES["count"].index(clip.questions[0].answer)
            else:
                assert number == 1
                box = ndimage.find_objects(objects)[0]
                fill = (objects[box] > 0).mean()
                seen = "triangle" if fill < 0.68 else "circle" if fill < 0.92 else "square"
                assert seen == clip.questions[0].answer


@pytest.mark.parametrize(("family", "most"), [("direction", 0.88), ("next", 0.82), ("faster", 0.65), ("collide", 0.75)])
def test_start_positions_alone_do_not_give_the_answer_away(family: str, most: float):
    """Nearest neighbours among the other groups' starts: more than chance, for the box is small, but far from all."""
    starts, answers, groups = [], [], []
    for index, group in enumerate(staged(family, 120)):
        for clip in group:
            starts.append([value for body in clip.scenes[0].bodies for value in (body.x, body.y)])
            answers.append(clip.question.choices.index(clip.question.answer))
            groups.append(index)
    starts, answers, groups = np.array(starts), np.array(answers), np.array(groups)
    distances = np.linalg.norm(starts[:, None] - starts[None], axis=-1)
    distances[groups[:, None] == groups[None]] = np.inf
    nearest = answers[np.argsort(distances, axis=1)[:, :15]]
    voted = np.array([np.bincount(row).argmax() for row in nearest])
    assert (voted == answers).mean() < most


def test_the_same_seed_gives_the_same_bytes_here_and_in_another_process():
    code = (
        "import hashlib\n"
        "from theworld_train.microworld import generate\n"
        "clips = generate(groups_per_family=2, seed=3)\n"
        "parts = [frame.tobytes() for clip in clips for frame in clip.frames]\n"
        "parts += [repr((clip.group, clip.questions)).encode() for clip in clips]\n"
        "print(hashlib.sha256(b''.join(parts)).hexdigest())\n"
    )
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    here = digest(generate(groups_per_family=2, seed=3))
    assert digest(generate(groups_per_family=2, seed=3)) == here == elsewhere


def test_a_group_does_not_depend_on_how_many_are_made():
    few = generate(groups_per_family=2, seed=0)
    kept = {clip.group for clip in few}
    assert len(kept) == 2 * len(FAMILIES)
    assert digest([clip for clip in all_clips() if clip.group in kept]) == digest(few)


def test_other_seeds_give_other_clips():
    def shown(seed: int) -> set[bytes]:
        clips = generate(groups_per_family=8, seed=seed, num_frames=5, size=32)
        return {b"".join(frame.tobytes() for frame in clip.frames) for clip in clips}

    assert len(shown(0)) == 8 * 22  # none twice within a seed either
    assert shown(0).isdisjoint(shown(1))


@pytest.mark.parametrize(("num_frames", "size"), [(5, 32), (12, 100)])
def test_other_lengths_and_sizes(num_frames: int, size: int):
    clips = generate(groups_per_family=1, seed=4, num_frames=num_frames, size=size)
    for group in grouped(clips):
        lasts = {clip.frames[-1].tobytes() for clip in group}
        assert len(lasts) == (1 if group[0].questions[0].motion else len(group))
    for clip in clips:
        assert len(clip.frames) == num_frames
        assert {(frame.size, frame.mode) for frame in clip.frames} == {((size, size), "RGB")}


def test_more_frames_show_the_same_motion_more_finely():
    coarse, fine = (generate(groups_per_family=1, seed=0, num_frames=n) for n in (9, 17))
    for a, b in zip(coarse, fine, strict=True):
        assert [frame.tobytes() for frame in a.frames] == [frame.tobytes() for frame in b.frames[::2]]


@pytest.mark.parametrize(
    ("name", "value", "least"), [("groups_per_family", 0, 1), ("seed", -1, 0), ("num_frames", 4, 5), ("size", 31, 32)]
)
def test_bad_arguments_are_named_with_a_remedy(name: str, value: int, least: int):
    with pytest.raises(ValueError, match=rf"{name} is {value}\. Use {least} or more\."):
        generate(**({"groups_per_family": 1, "seed": 0} | {name: value}))


def test_walls_and_objects_are_elastic():
    ball = Body(x=24, y=24, vx=24, vy=0, radius=3, shape="circle", colour="red")
    run = simulate(Scene(bodies=(ball,), background=20), num_frames=9, duration=2.0)
    assert run.wall_touched
    assert run.scenes[-1].bodies[0].vx == pytest.approx(-24)
    other = Body(x=36, y=24, vx=0, vy=0, radius=3, shape="square", colour="blue")
    run = simulate(Scene(bodies=(ball, other), background=20), num_frames=9, duration=0.4)
    assert run.objects_met
    assert [body.vx for body in run.scenes[-1].bodies] == pytest.approx([0, 24], abs=1e-6)


def test_groups_may_differ_by_family():
    clips = generate(groups_per_family={"count": 2, "faster": 1}, seed=0)
    assert [clip.questions[0].family for clip in clips] == ["faster"] * 2 + ["count"] * 6
    of_all = [clip for clip in generate(groups_per_family=2, seed=0) if clip.questions[0].family == "count"]
    assert [clip.frames[-1].tobytes() for clip in clips[2:]] == [clip.frames[-1].tobytes() for clip in of_all]
    with pytest.raises(ValueError, match=r"no family 'speed'\. Use some of: direction, "):
        generate(groups_per_family={"speed": 1}, seed=0)
