"""``theworld judge``: a second reading of an evaluation's answers, by a toy language model and by an endpoint."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, Gemma3ForConditionalGeneration

from theworld_fusion.tiny_tokenizer import CHAT_TEMPLATE
from theworld_train.evaluate.folder import MANIFEST, RECORDS, SUMMARY, read_records, to_line
from theworld_train.evaluate.judge import SYSTEM, _asked
from theworld_train.evaluate.judging import JUDGED, REPORT
from theworld_train.evaluate.readers import LocalModel
from theworld_train.evaluate.tasks import open_task, task_settings

Run = Callable[..., tuple[int, str, str]]
BENCH = [
    ("left_predicate", "Is Region [0] to the left of Region [1]?", "Yes."),
    ("tall_predicate", "Is Region [0] taller than Region [1]?", "No."),
    ("behind_predicate", "Is Region [0] behind Region [1]?", "No."),
    ("wide_choice", "Which is wider, Region [0] or Region [1]?", "Region [1]."),
    ("distance_data", "How far is Region [0] from Region [1]?", "2 meters"),
    ("height_data", "How tall is Region [0]?", "3 feet"),
    ("direction", "If you are at Region [0], where will you find Region [1]?", "3 o'clock"),
]
ANSWERS = [
    ("Yes, it is.", '{"verdict": "right"}'),
    ("On the contrary.", '{"verdict": "right"}'),  # no rule reads it
    ("Yes.", '{"verdict": "wrong"}'),
    ("Region [1] is wider.", '{"verdict": "wrong"}'),  # the rules say right
    ("A metre or two: two.", '{"metres": 2.0}'),
    ("As tall as a door", "{}"),  # no reply that was asked for
    ("at 3 o'clock", '{"hour": 3.0}'),
]


def write_bench(folder: Path) -> str:
    rows = [
        {
            "id": f"item_{number}",
            "image_info": {"file_path": "a.png"},
            "text_q": question,
            "qa_info": {"type": "t", "category": category},
            "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}],
            "bbox": [[5.0, 5.0, 25.0, 35.0], [30.0, 5.0, 55.0, 35.0]],
        }
        for number, (category, question, answer) in enumerate(BENCH)
    ]
    folder.mkdir()
    (folder / "SpatialRGPT-Bench_v1.json").write_text(json.dumps(rows))
    Image.new("RGB", (60, 40), "red").save(folder / "a.png")
    return f"spatial-rgpt:path={folder},images={folder}"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_bench(tmp_path_factory.mktemp("bench") / "data")


@pytest.fixture
def evaluated(theworld: Run, tmp_path: Path, folders: tuple[Path, Path], bench: str) -> Path:
    """An evaluation whose answers were made readable: the toy's own are not."""
    out = tmp_path / "answers"
    arguments = ("--task", bench, "--method", "generate", "--max-new-tokens", 2, "--out", out)
    assert theworld("evaluate", "--vlm", folders[0], *arguments)[0] == 0
    task = open_task(task_settings(bench), num_frames=5)
    lines = []
    for item, record, (answer, _) in zip(task.items(), read_records(out), ANSWERS, strict=True):
        score = task.score(item, answer)
        lines.append(to_line(replace(record, answer=answer, score=score.value, parsed=score.parsed)))
    (out / RECORDS).write_bytes(b"".join(lines))
    return out


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, folders: tuple[Path, Path], bench: str) -> Path:
    """The toy VLM, taught by heart what to reply to these answers."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folders[0])
    tokenizer.chat_template = CHAT_TEMPLATE
    model = Gemma3ForConditionalGeneration.from_pretrained(folders[0])
    rows = []
    for item, (answer, reply) in zip(open_task(task_settings(bench), num_frames=5).items(), ANSWERS, strict=True):
        chat = [{"role": "user", "content": f"{SYSTEM}\n\n{_asked(item, answer)[1]}"}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        rows.append([tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, f"{reply}<eos>")])
    longest = max(len(prompt) + len(reply) for prompt, reply in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for number, (prompt, reply) in enumerate(rows):
        whole = torch.tensor(prompt + reply)
        ids[number, : len(whole)] = whole
        labels[number, len(prompt) : len(whole)] = whole[len(prompt) :]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        loss = model(input_ids=ids, labels=labels, token_type_ids=torch.zeros_like(ids)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 0.005:
            break
    folder = tmp_path_factory.mktemp("reader") / "reader"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_both_readings_stand_side_by_side(theworld: Run, evaluated: Path, reader: Path) -> None:
    before = {name: (evaluated / name).read_bytes() for name in (RECORDS, MANIFEST, SUMMARY)}
    code, printed, said = theworld("judge", evaluated, "--model", reader)
    assert code == 2
    assert "1 of 7 answers could not be judged, and are in no figure; the first: item_5" in said
    assert "not the JSON that was asked for: '{}'" in said
    out = evaluated / "judge-reader"
    found = lines(out / JUDGED)
    assert [one["key"] for one in found] == [f"item_{number}" for number in range(7)]
    rules = [one["rules"]["value"] for one in found]
    judge = [one["judge"] and one["judge"]["value"] for one in found]
    assert rules == [1.0, None, 0.0, 1.0, None, None, 1.0]
    assert judge == [1.0, 1.0, 0.0, 0.0, 1.0, None, 1.0]
    assert [one["same"] for one in found] == [True, False, True, False, False, None, True]
    total = next(line for line in printed.splitlines() if line.startswith("all"))
    assert total.split()[:3] == ["all", "6", "50.0"]
    assert total.split()[-1] == "1"
    report = (out / REPORT).read_text()
    assert "| right | 2 | 1 | 0 |" in report
    assert "| item_3 | Region [1]. | Region [1] is wider. | right | wrong |" in report
    assert {name: (evaluated / name).read_bytes() for name in before} == before
    assert theworld("evaluate", "--vlm", "x", "--task", "x", "--out", evaluated)[0] == 2
    assert theworld("compare", evaluated, evaluated)[0] == 0


def test_killed_and_given_again_it_is_the_file_of_one_call(
    theworld: Run, evaluated: Path, reader: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert theworld("judge", evaluated, "--model", reader, "--out", tmp_path / "straight")[0] == 2
    out = tmp_path / "broken"
    command = [sys.executable, "-m", "theworld_train", "judge", evaluated, "--model", reader, "--out", out]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL, start_new_session=True)
    begun = time.monotonic()
    while len(list((out / "replies").glob("*.json"))) < 2:
        assert process.poll() is None
        assert time.monotonic() - begun < 120
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / JUDGED).exists()
    kept = {file.name: file.stat().st_mtime_ns for file in (out / "replies").glob("*.json")}
    asked = list[str]()
    real = LocalModel.read

    def counted(self: LocalModel, prompt: str) -> str:
        asked.append(prompt)
        return real(self, prompt)

    monkeypatch.setattr(LocalModel, "read", counted)
    assert theworld("judge", evaluated, "--model", reader, "--out", out)[0] == 2
    assert len(asked) == 7 - len(kept)
    assert {name: (out / "replies" / name).stat().st_mtime_ns for name in kept} == kept
    for name in (JUDGED, REPORT):
        assert (out / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_a_folder_of_readings_is_of_one_judge_and_one_evaluation(
    theworld: Run, evaluated: Path, reader: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "readings"
    theworld("judge", evaluated, "--model", reader, "--out", out)
    before = (out / JUDGED).read_bytes()
    code, printed, said = theworld("judge", evaluated, "--model", folders[0], "--out", out)
    assert (code, printed) == (2, "")
    assert "holds other readings: judge is" in said
    shutil.copytree(evaluated, tmp_path / "other")
    records = read_records(tmp_path / "other")
    records[0] = replace(records[0], answer="No.", score=0.0)
    (tmp_path / "other" / RECORDS).write_bytes(b"".join(map(to_line, records)))
    assert (
        "holds other readings: records is" in theworld("judge", tmp_path / "other", "--model", reader, "--out", out)[2]
    )
    assert (out / JUDGED).read_bytes() == before


def test_a_judge_who_says_nothing_usable_is_no_reading(
    theworld: Run, evaluated: Path, folders: tuple[Path, Path]
) -> None:
    code, printed, said = theworld("judge", evaluated, "--model", folders[0])
    assert code == 2
    assert "7 of 7 answers could not be judged" in said
    assert "all " not in printed
    assert all(one["judge"] is None and one["error"] for one in lines(evaluated / "judge-vlm" / JUDGED))


def test_data_that_were_moved_are_given_as_a_task(theworld: Run, evaluated: Path, reader: Path, tmp_path: Path) -> None:
    manifest = json.loads((evaluated / MANIFEST).read_text())
    manifest["runs"][-1]["options"]["path"] = "/nowhere"
    (evaluated / MANIFEST).write_text(json.dumps(manifest))
    code, _, said = theworld("judge", evaluated, "--model", reader)
    assert (code, "/nowhere" in said) == (2, True)
    moved = write_bench(tmp_path / "moved")
    assert "1 of 7 answers" in theworld("judge", evaluated, "--model", reader, "--task", moved)[2]
    folder = tmp_path / "moved"
    rows = json.loads((folder / "SpatialRGPT-Bench_v1.json").read_text())
    rows[0]["text_q"] = "Is Region [0] just left of Region [1]?"
    (folder / "SpatialRGPT-Bench_v1.json").write_text(json.dumps(rows))
    assert "has other items than those" in theworld("judge", evaluated, "--model", reader, "--task", moved)[2]


def test_what_cannot_be_judged_is_one_line(
    theworld: Run, evaluated: Path, tmp_path: Path, reader: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfinished, chosen, torn, own = (tmp_path / name for name in ("unfinished", "chosen", "torn", "own"))
    for folder in (unfinished, chosen, torn, own):
        shutil.copytree(evaluated, folder)
    (unfinished / SUMMARY).unlink()
    text = (evaluated / MANIFEST).read_text()
    (chosen / MANIFEST).write_text(text.replace('"method": "generate"', '"method": "likelihood"'))
    (torn / RECORDS).write_bytes((evaluated / RECORDS).read_bytes()[:-30])
    (own / MANIFEST).write_text(text.replace('"options"', '"settings"'))
    (tmp_path / "empty").mkdir()
    for folder, model, message in (
        (tmp_path / "empty", reader, "holds no evaluation"),
        (tmp_path / "nowhere", reader, "holds no evaluation"),
        (tmp_path / "empty" / ".." / "own" / MANIFEST, reader, "holds no evaluation"),
        (unfinished, reader, "is unfinished"),
        (chosen, reader, "are choices, which need no reading"),
        (torn, reader, "line 7, cannot be read"),
        (own, reader, "does not say how its task is opened"),
        (evaluated, tmp_path / "none", "is no language model here"),
    ):
        code, printed, said = theworld("judge", folder, "--model", model)
        assert (code, printed) == (2, "")
        assert message in said.splitlines()[-1]
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    nobody = ("--model", "m", "--endpoint", "http://127.0.0.1:9/v1")
    assert "the judge cannot be used" in theworld("judge", evaluated, *nobody, "--key-variable", "NO_SUCH")[2]
