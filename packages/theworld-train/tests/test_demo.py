"""The demo end to end at a size of seconds: everything is there; whether it learns is the demo's own business."""

import json
from pathlib import Path

import pytest

from theworld_fusion import load_model, load_processor
from theworld_train.demo import ARMS, DemoSize, run_demo
from theworld_train.microworld import CHOICES, FRAME_FAMILIES, MOTION_FAMILIES


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> Path:
    out = tmp_path_factory.mktemp("demo")
    size = DemoSize(
        training_groups=dict.fromkeys(CHOICES, 1), heldout_groups=2, steps=(2, 3), batch_size=8, learning_rate=1e-3
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
    groups: dict[tuple[str, str], set[str]] = {}
    for one in off:
        groups.setdefault((one["family"], one["question"]), set()).add(one["answered"])
    right = sum(one["correct"] for one in off)
    assert right <= sum(one["chance"] for one in off) + 1e-9


def test_report_stands_alone(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 1 + 2 * 7
    assert "http" not in page
    for arm in ("world on", "world off", "other clip", "noise"):
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
