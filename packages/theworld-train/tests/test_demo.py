"""The demo end to end at a size of seconds: everything is there; whether it learns is the demo's own business."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from theworld_fusion import assemble, load_model, load_processor
from theworld_fusion.testing import TINY_WORLD, chat, make_tiny_checkpoint
from theworld_fusion.testing import encode as encode_prompt
from theworld_train.demo import ARMS, DemoSize, run_demo
from theworld_train.demo.data import LOOK, by_family, encode, mixture, pictures
from theworld_train.microworld import CHOICES, FRAME_FAMILIES, MOTION_FAMILIES, generate


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> Path:
    out = tmp_path_factory.mktemp("demo")
    size = DemoSize(
        pictures=dict.fromkeys(FRAME_FAMILIES, 1),
        picture_steps=2,
        training_groups=dict.fromkeys(CHOICES, 1),
        heldout_groups=2,
        steps=(2, 3),
        batch_size=8,
    )
    run_demo(out, seed=5, size=size, say=lines.append)
    return out


def test_every_question_is_answered_by_every_arm(folder: Path) -> None:
    records = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert {(one["arm"], one["family"]) for one in records} == {
        (arm, family) for arm in ARMS for family in (*MOTION_FAMILIES, *FRAME_FAMILIES)
    }
    by_arm = {
        arm: [(one["clip"], one["question"], one["wanted"]) for one in records if one["arm"] == arm] for arm in ARMS
    }
    assert all(questions == by_arm["on"] for questions in by_arm.values())
    assert all(one["correct"] == (one["answered"] == one["wanted"]) for one in records)


def test_without_the_world_motion_is_exactly_chance_for_whoever_sees_only_last_frames(folder: Path) -> None:
    records = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    off = [one for one in records if one["arm"] == "off" and one["motion"]]
    assert sum(one["correct"] for one in off) == pytest.approx(sum(one["chance"] for one in off))


def test_report_stands_alone(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 1 + sum(
        map(len, CHOICES.values())
    )  # the curves, and a group of each family
    assert "http" not in page
    for arm in ("world on", "world off", "other-item", "noise"):
        assert f"<th>{arm}</th>" in page
    assert "at test time" in page


def test_table_and_samples_are_said(folder: Path, lines: list[str]) -> None:
    text = "\n".join(lines)
    for name in ("motion", "single frame", *MOTION_FAMILIES, *FRAME_FAMILIES, "chance", "world on", "noise"):
        assert name in text
    assert "Which way is it moving?  truth: 'left'" in text


def test_the_trained_checkpoint_loads(folder: Path) -> None:
    assert load_model(folder / "model").config.world_tokens_per_item == 36
    assert load_processor(folder / "model").world_num_frames == 9


def test_mixture_keeps_the_weights_and_shows_every_clip_as_often() -> None:
    families = by_family(pictures({"colour": 2, "shape": 1}, seed=0))
    assert {name: len(examples) for name, examples in families.items()} == {"colour": 8, "shape": 3}
    weights = {"colour": 1.0, "shape": 3.0}
    mixed = mixture(families, weights, 1200, seed=0)
    assert list(map(id, mixed)) == list(map(id, mixture(families, weights, 1200, seed=0)))
    assert list(map(id, mixed)) != list(map(id, mixture(families, weights, 1200, seed=1)))
    shown = Counter(map(id, mixed))
    counts = {name: [shown[id(example)] for example in examples] for name, examples in families.items()}
    assert sum(map(sum, counts.values())) == 1200
    assert 250 < sum(counts["colour"]) < 350
    assert all(max(numbers) - min(numbers) <= 1 for numbers in counts.values())
    only = mixture(families, {"shape": 1.0}, 9, seed=0)
    assert {example.messages[0]["content"][1]["text"] for example in only} == {"What shape is it?"}


def test_the_models_see_the_last_frame_and_the_features_of_the_whole_clip(tmp_path: Path) -> None:
    vlm, world = make_tiny_checkpoint(tmp_path)
    asked = encode(lambda *_: None, vlm, world, {"collide": 1}, seed=3, stills=True)
    clips = generate(groups_per_family={"collide": 1}, seed=3, **LOOK)
    model, processor = assemble(vlm, world, **TINY_WORLD)
    for one, clip in zip(asked, clips, strict=True):
        assert one.question == clip.questions[0]
        assert one.last_frame.tobytes() == clip.frames[-1].tobytes()
        short = encode_prompt(processor, chat(one.last_frame), world_features=one.example().world_features)
        whole = encode_prompt(processor, chat(list(clip.frames)))
        assert torch.equal(short["input_ids"], whole["input_ids"])
        assert torch.equal(short["pixel_values"], whole["pixel_values"])
        torch.testing.assert_close(model(**short).logits, model(**whole).logits)


def test_stills_ask_single_frame_questions_about_the_last_frame_alone(tmp_path: Path) -> None:
    vlm, world = make_tiny_checkpoint(tmp_path)
    asked = encode(lambda *_: None, vlm, world, {"shape": 1}, seed=3, stills=True)
    assert [len(one.features) for one in asked] == [3, 3, 3, 1, 1, 1]
    assert [one.question for one in asked[3:]] == [one.question for one in asked[:3]]
    model, processor = assemble(vlm, world, **TINY_WORLD)
    inputs = encode_prompt(processor, chat(asked[3].last_frame))
    [live] = model.get_world_features(inputs["pixel_values_world"]).last_hidden_state
    torch.testing.assert_close(live, torch.from_numpy(asked[3].features))
