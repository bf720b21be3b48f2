"""Evaluations: every item has its record, and neither kills nor several processes change a byte of it."""

import errno
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor, load_model, load_processor
from theworld_fusion.testing import chat, random_clip, random_picture
from theworld_train.data import Collator, Example
from theworld_train.errors import UsageError
from theworld_train.evaluate import asker, facts, runner
from theworld_train.evaluate.asker import Asker
from theworld_train.evaluate.folder import MANIFEST, RECORDS, SUMMARY, EvaluationFolder, read_records
from theworld_train.evaluate.prompts import choice_tokens, make_prompt
from theworld_train.evaluate.runner import run_task
from theworld_train.evaluate.task import Item, Score
from theworld_train.folders import LOCK

spec = importlib.util.spec_from_file_location("launching", Path(__file__).with_name("launching.py"))
assert spec is not None
assert spec.loader is not None
launching: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(launching)

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]
CHOICES = ("up", "down", "to the left")


def item(number: int, *media: Any, **fields: Any) -> Item:
    """Two items a group; pictures and clips, questions of many lengths."""
    shown = media or (random_clip(number) if number % 3 else random_picture(number),)
    question = "Which way is it " + "really " * (number % 4) + "moving?"
    values = {"family": "even" if number % 2 == 0 else "odd", "group": f"group {number // 2}", "choices": CHOICES}
    return Item(
        key=f"item {number}",
        messages=chat(*shown, text=question),
        answer=CHOICES[number % 3],
        **{**values, **fields},
    )


@dataclass
class Toy:
    """A task of given items; an answer is right, or wrong, or silence."""

    everything: Sequence[Item]
    name: str = "toy"
    fingerprint: str = "1"

    def items(self) -> Sequence[Item]:
        return self.everything

    def score(self, item: Item, answer: str) -> Score:
        if answer == "crash":
            raise KeyError("no rule")
        return Score(value=float(answer == item.answer) if answer else None, parsed=answer or None)


TEN = Toy([item(number, *([random_picture(7), random_clip(8)] if number == 7 else [])) for number in range(10)])
"""One of them is about a picture and a clip."""


class Killed(BaseException):
    """As a signal ends a process: nothing catches it."""


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / RECORDS).read_text().splitlines()]


def plain(pair: Pair, one: Item, world: Any) -> list[float]:
    """Log-probability of each choice: all logits of each whole conversation, alone."""
    model, processor = pair
    found = []
    for choice in one.choices:
        messages = [*one.messages, {"role": "assistant", "content": choice}]
        batch = Collator(processor, world=world)([Example(messages=messages)])
        labels = batch.pop("labels")
        with torch.no_grad():
            scores = model.eval()(**batch).logits[:, :-1].double().log_softmax(-1)
        targets = labels[:, 1:]
        found.append(float((scores.gather(-1, targets.clamp(min=0)[..., None])[..., 0] * (targets >= 0)).sum()))
    return found


@pytest.mark.parametrize("world", ["on", "off"])
def test_likelihoods_are_those_of_all_logits_one_by_one_in_any_batch(pair: Pair, tmp_path: Path, world: Any) -> None:
    wanted = [plain(pair, one, world) for one in TEN.items()]
    for size in (1, 4):
        folder = tmp_path / str(size)
        summary = run_task(*pair, TEN, folder, world=world, batch_size=size, show=False)
        for record, values in zip(read_records(folder), wanted, strict=True):
            assert list((record.likelihoods or {}).values()) == pytest.approx(values, abs=1e-3)
            assert record.answer == CHOICES[max(range(3), key=values.__getitem__)]
        right = [record.answer == record.wanted for record in read_records(folder)]
        assert summary.total.score == sum(right) / 10
        assert summary.total.chance == pytest.approx(1 / 3)


def test_the_prompt_and_the_choices_are_what_training_sees(pair: Pair) -> None:
    for one in TEN.items():
        prompt = make_prompt(pair[1], pair[1].load_media(one.messages), world="on")
        for choice, tokens in zip(CHOICES, choice_tokens(pair[1], one.messages, CHOICES), strict=True):
            batch = Collator(pair[1])([Example(messages=[*one.messages, {"role": "assistant", "content": choice}])])
            whole = torch.cat([prompt.input_ids, tokens])
            assert torch.equal(batch["input_ids"][0, : len(whole)], whole)
            assert torch.equal(batch["labels"][0, batch["labels"][0] >= 0], tokens)


def test_no_logits_are_made_but_those_of_the_choices(pair: Pair, tmp_path: Path) -> None:
    model, seen = pair[0], []
    encoders = [model.model.vision_tower, model.model.world_encoder]
    counts, run = [0, 0], []

    def count(place: int) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            counts[place] += len(inputs[0]) if inputs else 1

        return hook

    handles = [part.register_forward_hook(count(place)) for place, part in enumerate(encoders)]
    handles.append(
        model.lm_head.register_forward_hook(
            lambda head, inputs, logits: seen.append(logits.numel() // logits.shape[-1])
        )
    )
    language = model.model.language_model
    handles.append(
        language.register_forward_pre_hook(
            lambda module, inputs, settings: run.append(tuple(settings["inputs_embeds"].shape[:2])), with_kwargs=True
        )
    )
    try:
        run_task(*pair, TEN, tmp_path / "out", batch_size=5, show=False)
    finally:
        for handle in handles:
            handle.remove()
    longest = max(len(tokens) for tokens in choice_tokens(pair[1], TEN.items()[0].messages, CHOICES))
    assert seen[2:] == [5, 15 * (longest - 1)] * 2
    assert [rows for rows, _ in run[2:]] == [5, 15] * 2  # each prompt once, then its three choices
    assert [tokens for _, tokens in run[3::2]] == [longest - 1] * 2
    assert counts[1] == 11 + 1  # each clip once for all its choices, and one more to see that the world matters


@pytest.mark.parametrize("method", ["likelihood", "generate"])
def test_a_record_says_what_the_model_saw(pair: Pair, tmp_path: Path, method: Any) -> None:
    run_task(*pair, TEN, tmp_path / "on", method=method, max_new_tokens=3, show=False)
    run_task(*pair, TEN, tmp_path / "off", method=method, max_new_tokens=3, world="off", show=False)
    for one, on, off in zip(TEN.items(), read_records(tmp_path / "on"), read_records(tmp_path / "off"), strict=True):
        shown = [block["type"] for block in one.messages[0]["content"]]
        clips, pictures = shown.count("video"), shown.count("image")
        slots = 27 * clips + 36 * pictures
        assert (on.key, on.family, on.group, on.wanted) == (one.key, one.family, one.group, one.answer)
        images = 16 * (clips + pictures)
        assert (on.world_tokens, on.image_tokens, on.world_consumed) == (slots, images, True)
        assert (off.world_tokens, off.image_tokens, off.world_consumed) == (0, images, False)
        assert on.prompt_tokens == off.prompt_tokens + slots + 2 * (clips + pictures)
        assert on.prompt.count("<image_soft_token>*16<") == clips + pictures
        assert re.sub(r"<start_of_world><world_soft_token>\*(27|36)<end_of_world>", "", on.prompt) == off.prompt
        assert 1 <= on.answer_tokens <= (4 if method == "likelihood" else 3)


def test_generated_answers_are_those_of_generate(talker: Pair, tmp_path: Path) -> None:
    model, processor = talker
    texts = ["Which way?", "What is it?", "And now?"]
    everything = [replace(item(n), messages=chat(random_clip(n), text=texts[n % 3])) for n in range(6)]
    run_task(*talker, Toy(everything), tmp_path / "out", method="generate", batch_size=4, show=False)
    found = read_records(tmp_path / "out")
    for one, record in zip(everything, found, strict=True):
        inputs = processor.apply_chat_template(
            one.messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=64)[0, inputs["input_ids"].shape[1] :]
        assert record.answer == processor.decode(ids, skip_special_tokens=True).strip()
        assert record.answer_tokens == len(ids)
    assert len({record.answer for record in found} - {""}) > 1


@pytest.mark.parametrize("cut", ["between batches", "in a line", "in a batch", "damage", "no record", "no score"])
def test_killed_and_resumed_is_unbroken_byte_for_byte(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    run_task(*pair, TEN, straight, batch_size=3, show=False)
    real, asked = runner.answer, []

    def killed(asker: Any, task: Any, batch: Any) -> Any:
        if len(asked) == 2:
            raise Killed
        asked.append(batch)
        return real(asker, task, batch)

    monkeypatch.setattr(runner, "answer", killed)
    with pytest.raises(Killed):
        run_task(*pair, TEN, broken, batch_size=3, show=False)
    written = (broken / RECORDS).read_bytes()
    assert len(written.splitlines()) == 6
    if cut == "in a line":
        (broken / RECORDS).write_bytes(written[:-40])
    if cut == "in a batch":
        (broken / RECORDS).write_bytes(b"".join(written.splitlines(keepends=True)[:4]))
    damaged = written.splitlines(keepends=True)
    for name, line in {
        "damage": damaged[1].replace(b'"', b"\x00", 1),
        "no record": b'{"key": "item 1"}\n',
        "no score": damaged[1].replace(b'"score": ', b'"score": 1'),
    }.items():
        if cut == name:
            (broken / RECORDS).write_bytes(b"".join([damaged[0], line, *damaged[2:]]))
    assert not (broken / SUMMARY).exists()
    with pytest.raises(UsageError, match=r"unfinished\. Go on with --resume"):
        run_task(*pair, TEN, broken, batch_size=3, show=False)
    again: list[Any] = []

    def counted(asker: Any, task: Any, batch: Any) -> Any:
        again.append(batch)
        return real(asker, task, batch)

    monkeypatch.setattr(runner, "answer", counted)
    run_task(*pair, TEN, broken, batch_size=3, resume=True, show=False)
    assert len(again) == (2 if cut == "between batches" else 3)
    assert (broken / RECORDS).read_bytes() == (straight / RECORDS).read_bytes()
    assert (broken / SUMMARY).read_bytes() == (straight / SUMMARY).read_bytes()
    manifests = [json.loads((folder / MANIFEST).read_text()) for folder in (straight, broken)]
    assert manifests[0]["evaluation"] == manifests[1]["evaluation"]
    assert [len(manifest["runs"]) for manifest in manifests] == [1, 2]


def test_a_finished_folder_is_only_read(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_task(*pair, TEN, tmp_path / "out", show=False)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(runner, "answer", None)
    assert run_task(*pair, TEN, tmp_path / "out", show=False) == first
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert set(before) == {LOCK, MANIFEST, RECORDS, SUMMARY}


KEEPER = """
import sys
from pathlib import Path
from theworld_train.folders import kept_alone
with kept_alone(Path(sys.argv[1])):
    print("kept", flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time_evaluates_into_a_folder(pair: Pair, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KEEPER, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == b"kept\n"
        with pytest.raises(UsageError, match=f"process {keeper.pid} works in .*out"):
            run_task(*pair, TEN, tmp_path / "out", limit=2, show=False)
        assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]
        keeper.kill()
    run_task(*pair, TEN, tmp_path / "out", limit=2, show=False)
    assert len(records(tmp_path / "out")) == 2


def test_a_full_disk_is_said_and_gone_on_from(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, out = tmp_path / "straight", tmp_path / "out"
    run_task(*pair, TEN, straight, batch_size=3, show=False)
    real, room = EvaluationFolder.append, [2]

    def append(self: EvaluationFolder, found: Any, process: int, processes: int) -> None:
        if not room[0]:
            with (self.path / RECORDS).open("ab") as file:
                file.write(b'{"key": "item 6", "fam')
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= 1
        real(self, found, process, processes)

    monkeypatch.setattr(EvaluationFolder, "append", append)
    with pytest.raises(UsageError, match=r"cannot be written .*No space left on device\)\. Make room, then .*--resume"):
        run_task(*pair, TEN, out, batch_size=3, show=False)
    monkeypatch.undo()
    run_task(*pair, TEN, out, batch_size=3, resume=True, show=False)
    assert (out / RECORDS).read_bytes() == (straight / RECORDS).read_bytes()


def test_a_finished_folder_that_was_damaged_says_where(pair: Pair, done: Path, tmp_path: Path) -> None:
    written = (done / RECORDS).read_bytes().splitlines(keepends=True)
    for place, (content, message) in enumerate(
        {
            b"".join(written[:-1]): "has 9 records of 10 questions",
            b"".join([*written[:3], b"{}\n", *written[4:]]): r"line 4, cannot be read",
            b"".join([*written[:3], b"[" * 100_000 + b"\n", *written[4:]]): r"line 4, cannot be read",
            b"".join(written)[:-5]: "line 10, cannot be read",
            b"": "has 0 records of 10 questions",
        }.items()
    ):
        folder = shutil.copytree(done, tmp_path / str(place))
        (folder / RECORDS).write_bytes(content)
        with pytest.raises(UsageError, match=message):
            read_records(folder)
    wrong = ("{}", "[]", "{", '{"runs": [], "families": 1}')
    for place, (name, content) in enumerate((name, one) for name in (MANIFEST, SUMMARY) for one in wrong):
        folder = shutil.copytree(done, tmp_path / f"damaged {place}")
        (folder / name).write_text(content)
        with pytest.raises(UsageError, match=name):
            run_task(*pair, TEN, folder, show=False)


def test_where_model_and_data_lie_and_the_commit_are_told_and_decide_nothing(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, told = tmp_path / "out", []
    for place, commit in (("/old", "aa"), ("/new", "bb")):
        monkeypatch.setattr(facts, "_commit", lambda folder, commit=commit: commit)
        run_task(*pair, TEN, out, resume=True, facts={"files": {"a": "1"}}, where={"model": place}, show=False)
        (out / SUMMARY).unlink()
        told = json.loads((out / MANIFEST).read_text())["runs"]
    assert [(run["model"], run["commit"]) for run in told] == [("/old", "aa"), ("/new", "bb")]


def test_code_is_known_by_what_its_modules_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def digest(place: Path) -> str:
        with monkeypatch.context() as patch:
            patch.syspath_prepend(place)
            patch.delitem(sys.modules, "toy_package", raising=False)
            patch.setattr(facts, "_PACKAGES", ("toy_package",))
            return facts._sources.__wrapped__()

    package = tmp_path / "one" / "toy_package"
    (package / "inner").mkdir(parents=True)
    for name in ("__init__.py", "a.py", "inner/b.py"):
        (package / name).write_text("x = 1\n")
    first = digest(tmp_path / "one")
    (package / "README.md").write_text("about it")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert digest(tmp_path / "one") == digest(tmp_path / "two") == first
    (package / "inner" / "b.py").write_text("x = 2\n")
    other = digest(tmp_path / "one")
    (package / "inner" / "b.py").rename(package / "inner" / "c.py")
    assert len({first, other, digest(tmp_path / "one")}) == 3
    identity = facts.code_identity()
    assert len(identity["sources"]) == 64
    assert list(identity["libraries"]) == ["torch", "transformers"]


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_likelihood_that_is_no_number_is_an_error(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    real = asker.score

    def spoilt(logits: Any, answers: Any) -> Any:
        sums, greedy = real(logits, answers)
        return torch.full_like(sums, value), greedy

    monkeypatch.setattr(asker, "score", spoilt)
    summary = run_task(*pair, TEN, tmp_path / "out", limit=3, show=False)
    assert (summary.total.items, summary.total.errors, summary.total.score) == (0, 3, None)
    assert (
        summary.first_error == f"item 0: a choice's log-probability is {value}. Look at the model's weights and dtype."
    )


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.5])
def test_a_score_that_is_none_is_an_error(pair: Pair, tmp_path: Path, value: float) -> None:
    class Wild(Toy):
        def score(self, item: Item, answer: str) -> Score:
            return Score(value=value if item.key == "item 1" else 1.0)

    summary = run_task(*pair, Wild(TEN.items()[:2]), tmp_path / "out", show=False)
    assert (summary.total.items, summary.total.errors) == (1, 1)
    assert f"its score is {value}, not from 0 to 1" in (summary.first_error or "")


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"task": replace(TEN, fingerprint="2")}, "fingerprint is '1' there, and '2' here"),
        ({"batch_size": 3}, "batch_size is 8 there, and 3 here"),
        ({"world": "off"}, "world is 'on' there, and 'off' here"),
        ({"control": "zeros"}, "control is None there, and 'zeros' here"),
        ({"method": "generate"}, "method is 'likelihood' there, and 'generate' here"),
        ({"seed": 1}, "seed is 0 there, and 1 here"),
        ({"limit": 4}, "items is 10 there, and 4 here"),
        ({"facts": {"files": {"a": "1"}}}, "model.files is None there"),
    ],
)
def test_another_evaluation_in_the_folder_is_named(pair: Pair, done: Path, changed: dict[str, Any], field: str) -> None:
    arguments: dict[str, Any] = {"task": TEN, **changed}
    with pytest.raises(UsageError, match="holds another evaluation") as error:
        run_task(*pair, arguments.pop("task"), done, resume=True, show=False, **arguments)
    assert field in str(error.value)


def test_other_weights_are_another_evaluation(build: Callable[[], Pair], done: Path) -> None:
    model, processor = build()
    with torch.no_grad():
        next(model.model.world_projector.parameters()).mul_(1.001)
    with pytest.raises(UsageError, match=r"weights is '.*' there"):
        run_task(model, processor, TEN, done, resume=True, show=False)


@pytest.fixture(scope="module")
def done(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done") / "out"
    run_task(*pair, TEN, folder, show=False)
    return folder


def test_a_folder_of_something_else_is_left_alone(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty, and holds no evaluation"):
        run_task(*pair, TEN, tmp_path, show=False)
    (tmp_path / "notes.txt").unlink()
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        run_task(*pair, TEN, tmp_path, show=False)


def broken_items(tmp_path: Path) -> list[Item]:
    items = list(TEN.items())
    (tmp_path / "half.png").write_bytes(b"\x89PNG no")
    items[1] = item(1, random_picture(1))
    items[1] = replace(items[1], messages=chat(str(tmp_path / "half.png")))
    items[4] = replace(items[4], messages=[{"role": "user", "content": "No picture at all?"}])
    items[5] = replace(items[5], choices=("up", "crash"))
    return items


@pytest.mark.parametrize("batch_size", [1, 4])
def test_what_is_wrong_with_one_item_is_its_error_alone(pair: Pair, tmp_path: Path, batch_size: int) -> None:
    task = Toy(broken_items(tmp_path))
    summary = run_task(*pair, task, tmp_path / "out", batch_size=batch_size, show=False)
    run_task(*pair, TEN, tmp_path / "whole", batch_size=batch_size, show=False)
    found, whole = records(tmp_path / "out"), records(tmp_path / "whole")
    failed = {record["key"]: record["error"] for record in found if record["error"]}
    assert list(failed) == ["item 1", "item 4", "item 5"]
    assert "half.png" in failed["item 1"]
    assert "has no picture or clip to make world tokens of" in failed["item 4"]
    assert "cannot be scored: KeyError" in failed["item 5"]
    assert summary.first_error == f"item 1: {failed['item 1']}"
    assert (summary.total.items, summary.total.errors) == (7, 3)
    for one, other in zip(found, whole, strict=True):
        if one["error"]:
            assert (one["answer"], one["score"], one["likelihoods"]) == (None, None, None)
        else:
            assert one["answer"] == other["answer"]
    kept = [record["score"] for record in found if not record["error"]]
    assert summary.total.score == sum(kept) / 7
    assert {row.family: (row.items, row.errors) for row in summary.families} == {
        "even": (4, 1),
        "odd": (3, 2),
        "all": (7, 3),
    }


def test_a_batch_that_fails_is_asked_one_by_one(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = Asker.ask, []

    def fails_on_the_third(self: Asker, prompts: Any, choices: Any = None) -> Any:
        calls.append(len(prompts))
        if any(len(prompt.input_ids) == longest for prompt in prompts):
            raise RuntimeError("the index is out of range\nand more")
        return real(self, prompts, choices)

    lengths = [len(make_prompt(pair[1], pair[1].load_media(one.messages), world="on").input_ids) for one in TEN.items()]
    longest = lengths[6]
    wanted = [f"item {place}" for place, length in enumerate(lengths) if length == longest]
    monkeypatch.setattr(Asker, "ask", fails_on_the_third)
    run_task(*pair, TEN, tmp_path / "out", batch_size=5, show=False)
    failed = {record["key"]: record["error"] for record in records(tmp_path / "out") if record["error"]}
    assert failed == dict.fromkeys(wanted, "RuntimeError: the index is out of range")
    assert calls.count(1) >= 5


def test_no_memory_is_no_item_s_fault(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(Asker, "ask", full)
    with pytest.raises(UsageError, match="Ask fewer items together"):
        run_task(*pair, TEN, tmp_path / "out", show=False)


def test_answers_that_cannot_be_read_count_apart_and_in_the_denominator(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Asker.ask

    def silent(self: Asker, prompts: Any, choices: Any = None) -> Any:
        return [replace(reply, text="") for reply in real(self, prompts, choices)]

    monkeypatch.setattr(Asker, "ask", silent)
    total = run_task(*pair, TEN, tmp_path / "out", show=False).total
    assert (total.items, total.unparsable, total.errors, total.score) == (10, 10, 0, 0.0)


def test_equal_likelihoods_give_the_first_choice(pair: Pair, tmp_path: Path) -> None:
    run_task(*pair, Toy([item(1, choices=("down", "up ", "up"))]), tmp_path / "out", show=False)
    [record] = read_records(tmp_path / "out")  # the chat template trims: the last two are the same tokens
    _, first, second = (record.likelihoods or {}).values()
    assert first == second
    assert record.answer in ("up ", "down")


def test_nonsense_is_refused_before_anything_is_asked(pair: Pair, tmp_path: Path) -> None:
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (Toy([]), {}, "has no items"),
        (Toy([item(1), item(1)]), {}, "have the key 'item 1'"),
        (Toy([item(1, choices=())]), {}, "1 of 1 items have no choices"),
        (TEN, {"limit": 0}, "Ask at least one"),
        (TEN, {"world": "off", "control": "zeros"}, "would change nothing"),
        (TEN, {"control": "random-init"}, "has to be trained with"),
        (TEN, {"control": "registers"}, "has to be trained with"),
        (TEN, {"control": "nonsense"}, "there is no control"),
        (Toy([item(1), replace(item(1), key="b")]), {"control": "other-item"}, "other-item: there is 1 group"),
    ]
    for task, settings, message in cases:
        with pytest.raises(UsageError, match=message):
            run_task(*pair, task, tmp_path / "out", show=False, **settings)
        assert not (tmp_path / "out").exists()


def test_a_limit_asks_items_from_all_over_the_task(pair: Pair, tmp_path: Path) -> None:
    run_task(*pair, TEN, tmp_path / "out", limit=4, show=False)
    assert [record["key"] for record in records(tmp_path / "out")] == ["item 0", "item 2", "item 5", "item 7"]


def test_the_model_is_left_as_it_was(pair: Pair, tmp_path: Path) -> None:
    model = pair[0]
    held = model.model.world_encoder
    for control in (None, "zeros", "shuffled-slots"):
        model.train()
        run_task(*pair, TEN, tmp_path / f"{control}", control=control, limit=2, show=False)
        assert model.training
        assert model.model.world_encoder is held
        assert not model.model.language_model._forward_pre_hooks
    model.eval()


WORKER = """
import sys
from pathlib import Path
from theworld_fusion import load_model, load_processor
from theworld_train.evaluate.runner import run_task
sys.path.insert(0, sys.argv[3])
from test_runner import TEN
run_task(load_model(sys.argv[1]), load_processor(sys.argv[1]), TEN, Path(sys.argv[2]), batch_size=2, resume=True)
"""


def test_two_processes_write_the_file_of_one_and_go_on_from_it(tmp_path: Path, checkpoint: Path) -> None:
    """The first batch was done before, by one process; the other four are shared out."""
    script, out = tmp_path / "worker.py", tmp_path / "two"
    script.write_text(WORKER)
    model, processor = load_model(checkpoint), load_processor(checkpoint)
    run_task(model, processor, TEN, tmp_path / "one", batch_size=2, show=False)
    shutil.copytree(tmp_path / "one", out)
    (out / SUMMARY).unlink()
    lines = (out / RECORDS).read_bytes().splitlines(keepends=True)
    (out / RECORDS).write_bytes(b"".join(lines[:2]))
    (out / "records-1.jsonl").write_bytes(lines[8] + lines[9][:50])
    here = str(Path(__file__).parent)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    code, said = launching.finish([*command, str(checkpoint), str(out), here])
    assert code == 0, said
    assert (out / RECORDS).read_bytes() == (tmp_path / "one" / RECORDS).read_bytes()
    assert (out / SUMMARY).read_bytes() == (tmp_path / "one" / SUMMARY).read_bytes()
    assert sorted(path.name for path in out.iterdir()) == [LOCK, MANIFEST, RECORDS, SUMMARY]
    runs = json.loads((out / MANIFEST).read_text())["runs"]
    assert [one["processes"] for one in runs] == [1, 2]
