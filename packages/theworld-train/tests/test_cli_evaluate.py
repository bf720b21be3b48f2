"""``theworld evaluate`` and ``theworld compare``: tables, folders, and errors of one line."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor, save_adapter
from theworld_fusion.testing import chat, random_clip
from theworld_train import checkpoints
from theworld_train.evaluate import tasks
from theworld_train.evaluate.compare import compare_records
from theworld_train.evaluate.folder import MANIFEST, RECORDS, read_records
from theworld_train.evaluate.records import Record
from theworld_train.evaluate.statistics import paired_test
from theworld_train.evaluate.task import Item, Score

Run = Callable[..., tuple[int, str, str]]
Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]
CHOICES = ("up", "down")


class Clips:
    """Eight clips; with ``broken``, one of them cannot be read."""

    def __init__(self, broken: bool, number: int) -> None:
        self.name, self.fingerprint, self.broken, self.number = "clips", f"clips {number}", broken, number

    def items(self) -> Sequence[Item]:
        items = []
        for number in range(self.number):
            shown: Any = "nowhere.png" if self.broken and number == 3 else random_clip(number)
            items.append(
                Item(
                    key=f"clip {number}",
                    family="easy" if number < 5 else "hard",
                    messages=chat(shown, text="Which way?"),
                    answer=CHOICES[number % 2],
                    choices=CHOICES,
                    group=f"group {number // 2}",
                )
            )
        return items

    def score(self, item: Item, answer: str) -> Score:
        return Score(value=float(answer == item.answer) if answer in item.choices else None)


@pytest.fixture(autouse=True)
def clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """``--task clips`` and ``--task clips:broken``."""

    def settings(text: str) -> Any:
        options = text.split(":")[1:]
        return SimpleNamespace(options=options, model_dump=lambda mode: {"options": options})

    def open_task(settings: Any, *, num_frames: int) -> Any:
        return Clips("broken" in settings.options, 6 if "six" in settings.options else 8)

    monkeypatch.setattr(tasks, "task_settings", settings, raising=False)
    monkeypatch.setattr(tasks, "open_task", open_task, raising=False)


@pytest.fixture(scope="module")
def adapter(build: Callable[[], Pair], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model whose world matters."""
    model, _ = build()
    with torch.no_grad():
        for parameter in model.model.world_projector.parameters():
            parameter.add_(0.3)
    folder = tmp_path_factory.mktemp("adapter") / "saved"
    save_adapter(model, folder)
    return folder


def test_a_table_by_family_and_a_folder(theworld: Run, tmp_path: Path, adapter: Path) -> None:
    out = tmp_path / "on"
    command = ("evaluate", "--model", adapter, "--task", "clips", "--out", out, "--batch-size", 3)
    code, printed, said = theworld(*command)
    assert (code, "theworld:" in said) == (0, False)
    assert "score" in said  # the running one, beside the bar
    title, _, header, easy, hard, both, _, records = printed.splitlines()
    assert title == "clips, arm on, by likelihood"
    assert header.split() == ["family", "score", "95", "%", "interval", "n", "groups", "chance", "unreadable", "errors"]
    kept = read_records(out)
    right = sum(record.score or 0 for record in kept[:5])
    assert easy.split()[:3] == ["easy", f"{100 * right / 5:.1f}", "%"]
    assert easy.split()[-6:] == ["5", "3", "50.0", "%", "0", "0"]
    assert (hard.split()[0], both.split()[0], both.split()[-6]) == ("hard", "all", "8")
    assert records == f"records: {out / RECORDS}"
    manifest = json.loads((out / MANIFEST).read_text())["evaluation"]
    assert len(manifest["model"]["files"]["theworld_adapter.safetensors"]) == 64
    assert theworld(*command)[:2] == (0, printed)  # it is only read
    code, _, said = theworld(*command, "--arm", "zeros")
    assert code == 2
    assert "holds another evaluation: control is None there, and 'zeros' here" in said


def test_a_base_vlm_is_the_off_arm_to_the_last_bit(
    theworld: Run, tmp_path: Path, adapter: Path, folders: tuple[Path, Path], checkpoint: Path
) -> None:
    """Whatever world branch it has: an adapter's base, a whole checkpoint, and the VLM that both came from."""
    subjects = {"adapter": ("--model", adapter, "--arm", "off"), "vlm": ("--vlm", folders[0])}
    subjects["whole"] = ("--model", checkpoint, "--arm", "off")
    for method in ("likelihood", "generate"):
        for name, subject in subjects.items():
            out = tmp_path / method / name
            arguments = ("--method", method, "--max-new-tokens", 4)
            assert theworld("evaluate", *subject, "--task", "clips", "--out", out, *arguments)[0] == 0
        files = [(tmp_path / method / name / RECORDS).read_bytes() for name in subjects]
        assert files[0] == files[1] == files[2]


def test_errors_are_counted_and_end_with_another_exit_code(theworld: Run, tmp_path: Path, adapter: Path) -> None:
    out = tmp_path / "out"
    code, printed, said = theworld("evaluate", "--model", adapter, "--task", "clips:broken", "--out", out)
    assert code == 2
    assert printed.splitlines()[3].split()[-6:] == ["4", "3", "50.0", "%", "0", "1"]
    assert "1 of 8 questions could not be asked, and are in no score; the first: clip 3" in said
    assert "nowhere.png" in said
    assert theworld("evaluate", "--model", adapter, "--task", "clips:broken", "--out", out)[0] == 2


def test_what_cannot_be_asked_is_one_line(
    theworld: Run, tmp_path: Path, adapter: Path, folders: tuple[Path, Path]
) -> None:
    base = ("evaluate", "--task", "clips", "--out", tmp_path / "out")
    for arguments, message in (
        ((), "give either --model"),
        (("--model", adapter, "--vlm", "x"), "give either --model"),
        (("--model", adapter, "--arm", "onn"), "there is no arm 'onn'"),
        (("--model", adapter, "--arm", "registers"), "has to be trained with"),
        (("--vlm", tmp_path / "none"), "is no checkpoint here"),
        (("--vlm", folders[0], "--arm", "on"), "the model has no world branch"),
    ):
        code, printed, said = theworld(*base, *arguments)
        assert (code, printed) == (2, "")
        assert message in said.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_run_is_its_newest_checkpoint_wherever_it_lies(theworld: Run, tmp_path: Path, adapter: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    for step in (2, 10):
        shutil.copytree(adapter, run / f"checkpoint-{step}")
        (run / f"checkpoint-{step}" / "theworld.json").write_text(json.dumps({"step": step}))
        checkpoints.record(run / f"checkpoint-{step}")
    command = ("evaluate", "--task", "clips", "--out", out, "--model")
    first = theworld(*command, run)
    assert first[0] == 0
    shutil.move(run, tmp_path / "moved")
    assert theworld(*command, tmp_path / "moved")[:2] == first[:2]
    assert theworld(*command, tmp_path / "moved" / "checkpoint-10")[:2] == first[:2]
    code, _, said = theworld(*command, tmp_path / "moved" / "checkpoint-2")
    assert (code, "holds another evaluation: model.files.contents.json is" in said) == (2, True)
    assert json.loads((out / MANIFEST).read_text())["runs"][0]["model"] == str(run / "checkpoint-10")


@pytest.fixture
def evaluated(theworld: Run, tmp_path: Path, adapter: Path) -> tuple[Path, Path]:
    for arm in ("on", "zeros"):
        out = tmp_path / arm
        assert theworld("evaluate", "--model", adapter, "--task", "clips", "--arm", arm, "--out", out)[0] == 0
    return tmp_path / "on", tmp_path / "zeros"


def change(folder: Path, place: int, **fields: Any) -> None:
    lines = [json.loads(line) for line in (folder / RECORDS).read_text().splitlines()]
    lines[place] |= fields
    (folder / RECORDS).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_compare_says_by_how_much_and_where(theworld: Run, tmp_path: Path, evaluated: tuple[Path, Path]) -> None:
    a, b = evaluated
    for place in range(8):
        change(a, place, score=1.0, answer="yes")
        change(b, place, score=1.0, answer="yes")
    change(b, 0, score=0.0, answer="no")
    change(b, 6, score=None, answer="perhaps")
    change(a, 7, score=None, answer=None, error="damaged")
    code, printed, said = theworld("compare", a, b, "--out", tmp_path / "differing.jsonl")
    assert (code, said) == (0, "")
    lines = printed.splitlines()
    assert lines[:2] == [f"A: {a}", f"B: {b}"]
    assert lines[4].split()[:6] == ["easy", "100.0", "%", "80.0", "%", "+20.0"]
    assert lines[6].split()[:6] == ["all", "100.0", "%", "71.4", "%", "+28.6"]
    assert lines[6].split()[-4:] == ["7", "4", "2", "0"]
    assert "1 questions are left out" in printed
    assert "they differ in control: None and zeros" in printed
    assert "clip 0: wanted 'up', A 'yes' (1), B 'no' (0)" in printed
    assert "clip 6: wanted 'up', A 'yes' (1), B 'perhaps' (unreadable)" in printed
    assert "world 27.0 and 27.0" in printed
    differing = [json.loads(line) for line in (tmp_path / "differing.jsonl").read_text().splitlines()]
    assert [(one["key"], one["a_answer"], one["b_answer"]) for one in differing] == [
        ("clip 0", "yes", "no"),
        ("clip 6", "yes", "perhaps"),
    ]
    same = theworld("compare", a, a)
    assert same[0] == 0
    assert "scored otherwise" not in same[1]


def test_only_the_same_items_are_compared(theworld: Run, tmp_path: Path, evaluated: tuple[Path, Path]) -> None:
    a, b = evaluated
    shutil.copytree(b, tmp_path / "renamed")
    change(tmp_path / "renamed", 2, key="clip two")
    shutil.copytree(b, tmp_path / "short")
    lines = (b / RECORDS).read_bytes().splitlines(keepends=True)
    (tmp_path / "short" / RECORDS).write_bytes(b"".join(lines[:4]))
    shutil.copytree(b, tmp_path / "other")
    text = (b / MANIFEST).read_text()
    (tmp_path / "other" / MANIFEST).write_text(text.replace("clips 8", "clips 9"))
    shutil.copytree(b, tmp_path / "unfinished")
    (tmp_path / "unfinished" / "summary.json").unlink()
    for name, message in (
        ("renamed", "where one has key 'clip 2', the other has 'clip two'"),
        ("short", "has 4 records of 8 questions"),
        ("other", "fingerprint is 'clips 8' there, and 'clips 9' here"),
        ("unfinished", "is unfinished. Go on with it"),
        ("nowhere", "holds no evaluation"),
    ):
        code, printed, said = theworld("compare", a, tmp_path / name)
        assert (code, printed) == (2, "")
        assert message in said


def record(number: int, score: float | None, **fields: Any) -> Record:
    plain = {"family": "f", "group": f"{number // 3}", "prompt": "", "wanted": "", "answer": "", "chance": 0.5}
    return Record(key=str(number), score=score, **{**plain, **fields})


def test_the_test_is_the_paired_one_over_groups() -> None:
    scores = [[float((number * 7 + side * number) % 5 > 1) for number in range(30)] for side in (0, 1)]
    a, b = ([record(number, score) for number, score in enumerate(row)] for row in scores)
    found = compare_records(a, b).families[-1]
    assert found.paired == paired_test(*scores, [number // 3 for number in range(30)])
    assert (found.a, found.b, found.items) == (sum(scores[0]) / 30, sum(scores[1]) / 30, 30)
    broken = [record(number, None, error="x") for number in range(30)]
    assert (compare_records(a, broken).families[-1].paired, compare_records(a, broken).left_out) == (None, 30)
