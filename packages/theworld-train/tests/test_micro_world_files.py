"""The micro-world where it is used: as a task, as a recipe's source, as exported files, and at the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image
from typer.testing import CliRunner

from theworld_encoders import read_video
from theworld_train import cli
from theworld_train.data.lazy import load_chat
from theworld_train.data.sources import open_source
from theworld_train.errors import UsageError
from theworld_train.evaluate.statistics import Accuracy
from theworld_train.evaluate.tasks.micro_world import MicroWorld, MicroWorldTask, named
from theworld_train.microworld import baselines
from theworld_train.microworld import export as export_module
from theworld_train.microworld.draw import draw
from theworld_train.microworld.export import Wanted, export
from theworld_train.microworld.stage import FAMILIES, stage
from theworld_train.recipe import DataSettings

SOME = ("faster/free", "plausible/collision", "colour/free")


def task(**options: Any) -> MicroWorld:
    return MicroWorld(MicroWorldTask(kind="micro-world", **options), 9)


def source(**options: Any) -> list[Any]:
    data = DataSettings.model_validate({"sources": [{"kind": "micro-world", **options}]})
    opened = open_source(data.sources[0], num_frames=9)
    return [opened.to_example(opened.rows[place]) for place in range(opened.number_of_rows)]


def quiet(done: int, total: int | None, note: str = "") -> None:
    assert total is None or 0 <= done <= total


def test_items_are_the_clips_of_the_split():
    found = task(families=SOME, groups=2, split="val", level="hard").items()
    assert len(found) == 2 * (2 + 4 + 4) == len({item.key for item in found})
    item = found[0]
    clip = stage("val", "faster/free", 0, level="hard")[0]
    assert (item.family, item.answer, item.choices) == (clip.family, clip.question.answer, clip.question.choices)
    assert item.facts["scene"] == "free"
    assert item.facts["motion"]
    assert item.facts["level"] == "hard"
    shown = load_chat(item.messages)[0]["content"]
    assert [np.asarray(frame).tolist() for frame in shown[0]["video"]] == [
        np.asarray(draw(scene, size=96)).tolist() for scene in clip.scenes
    ]
    assert shown[1]["text"] == clip.question.text
    assert [message["role"] for message in item.messages] == ["user"]
    assert len({one.group for one in found}) == 6
    assert [one.key for one in found[2:4]] == [found[2].key, found[3].key]
    assert found[-1].key == list(found)[-1].key
    with pytest.raises(IndexError):
        found[len(found)]


@pytest.mark.parametrize("option", [{"split": "val"}, {"groups": 3}, {"level": "hard"}, {"seed": 1}, {"size": 48}])
def test_settings_show_in_the_fingerprint_and_in_the_items(option: dict):
    first, other = task(families=SOME), task(families=SOME, **option)
    assert first.fingerprint == task(families=SOME).fingerprint != other.fingerprint
    keys = [item.key for item in first.items()[:4]]
    if "size" in option:
        assert other.items()[0].messages[0]["content"][0]["video"][0].read().size == (48, 48)
    elif "groups" in option:
        assert len(other.items()) == 3 * 10
    else:
        assert not set(keys) & {item.key for item in other.items()[:4]}


def test_scores():
    one = task(families=("next/free",), groups=1)
    item = one.items()[0]
    assert one.score(item, item.answer).value == 1.0
    assert one.score(item, f"**{item.answer.upper()}**.").value == 1.0
    assert one.score(item, item.choices[1]).value == 0.0
    assert one.score(item, "I cannot tell").value is None
    assert one.score(item, " or ".join(item.choices)).value is None


@pytest.mark.parametrize(
    ("text", "choices", "wanted"),
    [
        ("The answer is: *left*!", ("left", "right"), "left"),
        ("Lefty", ("left", "right"), None),
        ("It will come out top-left.", ("top left", "top right"), "top left"),
        ("This is impossible", ("possible", "impossible"), "impossible"),
        ("It isn’t possible", ("possible", "impossible"), None),
        ("No, not the red one: blue", ("red", "blue"), None),
        ("none", ("none", "one", "two"), "none"),
        ("No one", ("none", "one", "two"), "one"),
        ("ＹＥＳ", ("yes", "no"), "yes"),
        ("", ("yes", "no"), None),
    ],
)
def test_what_a_text_names(text: str, choices: tuple[str, ...], wanted: str | None):
    assert named(text, choices) == wanted


def test_what_cannot_be_asked_is_said():
    with pytest.raises(UsageError, match=r"no family 'speed'"):
        task(families=("speed",))
    with pytest.raises(UsageError, match="takes 4 frames"):
        MicroWorld(MicroWorldTask(kind="micro-world"), 4)
    with pytest.raises(UsageError, match=r"no family 'speed'"):
        source(families=["speed"])


def test_every_field_of_the_source_changes_what_is_read():
    def shown(**options: Any) -> list[tuple[str, bytes]]:
        read = source(**{"families": ["faster/free"], "groups": 2} | options)
        return [(one.key, load_chat(one.messages)[0]["content"][0]["video"][-1].tobytes()) for one in read]

    usual = shown()
    assert usual == shown()
    for option in ({"families": ["collide/free"]}, {"level": "hard"}, {"groups": 3}, {"size": 64}, {"seed": 2}):
        assert shown(**option) != usual
    assert len(shown(families=["faster"])) == 2 * len(usual)
    assert len(source(groups=1)) == sum(len(stage("train", family, 0)) for family in FAMILIES)


def test_training_never_sees_a_group_of_an_evaluation_whatever_the_seeds():
    trained = [example for seed in (0, 1) for example in source(families=SOME, groups=3, seed=seed)]
    for split in ("val", "test", "test-extrapolation"):
        asked = list(task(families=SOME, groups=3, split=split, seed=0).items())
        assert not {example.key for example in trained} & {item.key for item in asked}
        frames = [
            {f.read().tobytes() for one in many for f in one.messages[0]["content"][0]["video"]}
            for many in (trained, asked)
        ]
        assert frames[0].isdisjoint(frames[1])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "val"
    assert export(Wanted(split="val", groups=2, families=SOME, size=48), out, report=quiet)
    return out


def test_an_export_reads_back_without_loss(exported: Path):
    rows = pq.read_table(exported / "val.parquet").to_pylist()
    assert len(rows) == 2 * 10 == len(list((exported / "clips").iterdir()))
    clips = [clip for family in SOME for index in range(2) for clip in stage("val", family, index)]
    for row, clip in zip(rows, clips, strict=True):
        frames = read_video(exported / row["video"], 9).frames
        assert len(frames) == 9
        for frame, scene in zip(frames, clip.scenes, strict=True):
            assert np.array_equal(np.asarray(frame), np.asarray(draw(scene, size=48)))
        assert (row["question"], row["answer"]) == (clip.question.text, clip.question.answer)
        assert row["choices"] == list(clip.question.choices)
        states = json.loads(row["states"])
        assert len(states) == 9
        assert states[-1][0]["vx"] == pytest.approx(clip.scenes[-1].bodies[0].vx, abs=1e-3)


def test_an_export_is_described(exported: Path):
    manifest = json.loads((exported / "manifest.json").read_text())
    card = (exported / "README.md").read_text()
    assert manifest["fingerprint"] == Wanted(split="val", groups=2, families=SOME, size=48).fingerprint
    for fact in (
        manifest["fingerprint"],
        "| generator version | 1 |",
        "license: apache-2.0",
        "| faster/free | 4 | 2 | motion |",
    ):
        assert fact in card
    command = card[card.index("theworld micro-world export") :].split("\n")[0].split()[2:]
    command[command.index("DIR")] = str(exported)
    done = CliRunner().invoke(cli.app, ["micro-world", *command])
    assert (done.exit_code, "already held" in done.output) == (0, True)


def test_an_export_trains_and_loads(exported: Path):
    data = DataSettings.model_validate({"sources": [{"kind": "chat", "path": str(exported)}]})
    opened = open_source(data.sources[0], num_frames=9)
    example = opened.to_example(opened.rows[0])
    assert example.messages[0]["content"][0]["video"] == str(exported / "clips/faster-free-000000-0.mkv")
    assert example.messages[1]["content"] == stage("val", "faster/free", 0)[0].question.answer
    table: Any = load_dataset("parquet", data_files=str(exported / "val.parquet"), split="train")
    assert len(table) == 20
    loaded: Any = load_dataset(str(exported))
    assert set(loaded) == {"validation"}
    assert loaded["validation"][0]["family"] == "faster/free"


def test_an_export_is_whole_or_not_there(tmp_path: Path, exported: Path, monkeypatch: pytest.MonkeyPatch):
    wanted, out = Wanted(split="val", groups=2, families=SOME, size=48), tmp_path / "out"
    written, whole = [], export_module.write_video

    def failing(frames: list[Image.Image], path: Path) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        whole(frames, path)

    monkeypatch.setattr(export_module, "write_video", failing)
    with pytest.raises(KeyboardInterrupt):
        export(wanted, out, report=quiet)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    (tmp_path / ".out.partial").mkdir()  # as a process that was killed leaves it
    (tmp_path / ".out.partial" / "rest").write_text("")
    out.mkdir()
    assert export(wanted, out, report=quiet)
    names = sorted(path.relative_to(out) for path in out.rglob("*"))
    assert names == sorted(path.relative_to(exported) for path in exported.rglob("*"))
    assert all((out / name).read_bytes() == (exported / name).read_bytes() for name in names if (out / name).is_file())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not export(wanted, out, report=quiet)
    with pytest.raises(UsageError, match="holds other data"):
        export(Wanted(split="test", groups=2, families=SOME, size=48), out, report=quiet)


def test_what_cannot_be_exported_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="holds other data"):
        export(Wanted(split="val", groups=1, families=SOME), tmp_path / "file", report=quiet)
    with pytest.raises(UsageError, match="cannot be written"):
        export(Wanted(split="val", groups=1, families=SOME), tmp_path / "file" / "out", report=quiet)
    with pytest.raises(ValueError, match="no split 'dev'"):
        export(Wanted(split="dev", groups=1, families=SOME), tmp_path / "out", report=quiet)
    with pytest.raises(ValueError, match="0 groups"):
        export(Wanted(split="val", groups=0), tmp_path / "out", report=quiet)


def test_the_commands(tmp_path: Path):
    few = ["--train-groups", "16", "--val-groups", "16"]
    done = CliRunner().invoke(cli.app, ["micro-world", "check", "--family", "plausible/collision", *few])
    assert done.exit_code == 0, done.output
    assert "all 1 families pass" in done.output
    assert "plausible/collision" in done.output
    done = CliRunner().invoke(cli.app, ["micro-world", "sheet", "--out", str(tmp_path / "s.png"), "--family", "front"])
    assert done.exit_code == 0
    with Image.open(tmp_path / "s.png") as image:
        assert image.width > 2 * 9 * 48


def test_a_failed_check_exits_with_1(monkeypatch: pytest.MonkeyPatch):
    bad, fair = Accuracy(correct=90, total=100, chance=0.5), Accuracy(correct=50, total=100, chance=0.5)
    leaking = baselines.Baseline(family="a/b", motion=True, text=fair, last=bad, first=fair, middle=fair)
    monkeypatch.setattr(baselines, "baselines", lambda *_, **__: [leaking])
    done = CliRunner().invoke(cli.app, ["micro-world", "check"])
    assert done.exit_code == 1
    assert "a/b: the last frame alone gives 90% where chance is 50%" in done.output
