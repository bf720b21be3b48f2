"""A run that was killed and resumed is the run that went straight through, to the last bit."""

import itertools
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from theworld_fusion.testing import make_tiny_checkpoint, random_picture
from theworld_train import run as module
from theworld_train.errors import UsageError
from theworld_train.folders import kept_alone
from theworld_train.recipe import Recipe
from theworld_train.recipe_file import load_recipe
from theworld_train.run import run_recipe
from theworld_train.run_folder import prepare

FORK: Any = multiprocessing.get_context("fork")  # torch is there already, and it has one thread

STEPS = 9
LORA = "stages.0.parts.language_model={lora: {rank: 2, dropout: 0.3}}"  # draws random numbers at every step
KEPT = ("save.every=2", "save.keep=2", "batch.size=2", "batch.accumulate=2")


def start(recipe: Recipe, out: Path, *, resume: bool = False, before: Any = None) -> Any:
    """A run in a process of its own, which can be killed; ``before`` is called in it first."""

    def work() -> None:
        if before is not None:
            before()
        try:
            run_recipe(recipe, out, resume=resume)
        except ValueError as error:
            (out / "error").write_text(str(error), encoding="utf-8")
            raise SystemExit(2) from error

    process = FORK.Process(target=work)
    process.start()
    return process


def finish(recipe: Recipe, out: Path, **options: Any) -> int:
    """Run to the end; gives the exit code."""
    process = start(recipe, out, **options)
    process.join(180)
    assert process.exitcode is not None
    return process.exitcode


def stop_at(process: Any, out: Path, step: int, number: int, generator: random.Random) -> int:
    """Send a signal some time after ``step``; gives the exit code, 0 where the run was faster."""
    for _ in range(18_000):
        if process.exitcode is not None or any(entry["step"] >= step for entry in losses(out)):
            break
        time.sleep(0.01)
    time.sleep(generator.random() / 10)
    if process.is_alive():
        os.kill(process.pid, number)
    for _ in range(12_000):
        if process.exitcode is not None:  # ``join`` would wait for its data workers too, which see that it died later
            break
        time.sleep(0.01)
    return process.exitcode


def losses(out: Path) -> list[dict[str, Any]]:
    """What was logged of training, without rates, which no two runs share."""
    file = out / "log.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []
    entries = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{key: value for key, value in entry.items() if "second" not in key} for entry in entries]


def progress(out: Path, step: int) -> dict[str, Any]:
    """What a checkpoint says of what was consumed."""
    return json.loads((out / f"checkpoint-{step}" / "progress-0.json").read_text(encoding="utf-8"))


def recipe(*changes: str, name: str = "smoke") -> Recipe:
    return load_recipe(name, changes)


def weights(out: Path, step: int) -> bytes:
    return (out / f"checkpoint-{step}" / "theworld_adapter.safetensors").read_bytes()


def write_chats(folder: Path, number: int, files: int = 2, pictures: int = 99) -> Path:
    """Conversations about at most so many pictures as JSONL, in several files."""
    folder.mkdir()
    for index in range(number):
        random_picture(index).save(folder / f"{index}.png")
    words: Sequence[str] = ("left", "right", "up", "down", "one", "two")
    for file in range(files):
        rows = [
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image", "image": f"{index % pictures}.png"},
                            {"type": "text", "text": f"Which way is it, {words[index % 5]}?"},
                        ],
                    },
                    {"role": "assistant", "content": words[index % 6]},
                ]
            }
            for index in range(file, number, files)
        ]
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chats(tmp_path_factory.mktemp("data") / "chats", 24, pictures=12)


@pytest.mark.parametrize(
    ("workers", "stream", "packing"),
    [
        *itertools.product([0, 2], ["false", "true"], ["none"]),
        (0, "true", "samples"),
        (0, "false", "shared_prefix"),
        (2, "false", "shared_prefix"),
    ],
)
def test_killed_twice_and_resumed_is_straight(
    tmp_path: Path, chats: Path, stream: str, workers: int, packing: str
) -> None:
    generator = random.Random(f"{stream} {workers} {packing}")
    wanted = recipe(
        f"stages.0.steps={STEPS}",
        f"stages.0.data.sources=[{{kind: chat, path: {chats}, stream: {stream}}}]",
        "stages.0.data.shuffle=4",
        f"stages.0.data.workers={workers}",
        LORA,
        *KEPT,
        f"batch.packing={packing}",
    )
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    assert finish(wanted, straight) == 0
    first, second = sorted(generator.sample(range(1, STEPS), 2))
    assert stop_at(start(wanted, resumed), resumed, first, signal.SIGKILL, generator) in (0, -signal.SIGKILL)
    again = start(wanted, resumed, resume=True)
    assert stop_at(again, resumed, second, signal.SIGKILL, generator) in (0, -signal.SIGKILL)
    assert finish(wanted, resumed, resume=True) == 0
    assert [entry["step"] for entry in losses(straight)] == list(range(1, STEPS + 1))
    assert losses(resumed) == losses(straight)
    assert progress(resumed, STEPS) == progress(straight, STEPS)  # with a digest of all samples in order
    assert weights(resumed, STEPS) == weights(straight, STEPS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_request_to_stop_saves_and_ends_well(tmp_path: Path, number: int) -> None:
    wanted = recipe("stages.0.steps=30", "save.every=100", "log.every=7", LORA)
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    assert finish(wanted, straight) == 0
    assert stop_at(start(wanted, resumed), resumed, 7, number, random.Random(0)) == 0
    (checkpoint,) = resumed.glob("checkpoint-*")
    assert 7 <= int(checkpoint.name.removeprefix("checkpoint-")) < 30
    assert finish(wanted, resumed, resume=True) == 0
    assert losses(resumed) == losses(straight)  # also those of steps between two lines of the log
    assert weights(resumed, 30) == weights(straight, 30)


STAGES = (
    "stages=[{name: one, steps: 3, parts: {world_projector: {}, vision_tower: {}}, data: &data "
    "{sources: [{kind: micro-world, groups: 1}], workers: 0}}, "
    "{name: two, steps: 3, parts: {world_projector: {}, language_model: {lora: {rank: 2}}}, data: *data}]"
)


def test_stages_hand_on_what_they_trained(tmp_path: Path) -> None:
    wanted = recipe(STAGES, "save.every=2", "save.keep=9", "model.dtype=bfloat16")
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    run_recipe(wanted, straight)
    tensors = {step: load_file(straight / f"checkpoint-{step}" / "theworld_adapter.safetensors") for step in (2, 3, 6)}
    tower = [name for name in tensors[3] if "vision_tower" in name]
    assert tower
    assert any(not torch.equal(tensors[2][name], tensors[3][name]) for name in tower)
    assert all(torch.equal(tensors[3][name], tensors[6][name]) for name in tower)  # frozen, yet in the adapter
    assert any("lora_" in name for name in tensors[6])
    assert not any("lora_" in name for name in tensors[3])
    assert {tensor.dtype for tensor in tensors[6].values()} == {torch.float32}
    shutil.copytree(straight, resumed)
    for step in (5, 6):
        shutil.rmtree(resumed / f"checkpoint-{step}", ignore_errors=True)
    assert run_recipe(wanted, resumed, resume=True).step == 6
    assert losses(resumed) == losses(straight)
    assert weights(resumed, 6) == weights(straight, 6)
    assert run_recipe(wanted, resumed, resume=True).step == 6  # nothing is left to do
    assert weights(resumed, 6) == weights(straight, 6)


def test_eight_samples_are_learnt_by_heart(tmp_path: Path, chats: Path) -> None:
    wanted = recipe(
        f"stages.0.data.sources=[{{kind: chat, path: {chats}, limit: 8}}]",
        "stages.0.parts={world_projector: {}, image_projector: {}, language_model: {}}",
        "stages.0.steps=80",
        "save.every=80",
        "batch.size=8",
        "optim.lr=4e-3",
        "optim.warmup_steps=5",
    )
    models = []

    class Kept(module._Run):
        def _build(self, index: int, last: Any) -> module._Built:
            built = super()._build(index, last)
            models.append((built.model, {name: one.clone() for name, one in built.model.named_parameters()}))
            return built

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_Run", Kept)
        run_recipe(wanted, tmp_path / "run")
    logged = losses(tmp_path / "run")
    assert logged[0]["loss"] > 3
    assert logged[-1]["loss"] < 0.05
    ((model, before),) = models
    for name, one in model.named_parameters():
        assert torch.equal(one, before[name]) == ("vision_tower" in name or "world_encoder" in name), name


def test_a_new_run_from_the_weights_of_another(tmp_path: Path) -> None:
    run_recipe(recipe(STAGES), tmp_path / "first")
    source = tmp_path / "first" / "checkpoint-6"
    base = f"model={{vlm: {tmp_path}/first/tiny/vlm, world: {tmp_path}/first/tiny/world, init_from: {source}, "
    base += "dtype: float32, frame_size: 48, num_frames: 9, config: {world_tokens_per_item: 36, world_patch: 2}}"
    run_recipe(recipe(base, "stages.0.steps=1", "optim.lr=1e-30"), tmp_path / "second")
    before, after = (
        load_file(folder / "theworld_adapter.safetensors") for folder in (source, tmp_path / "second" / "checkpoint-1")
    )
    assert before.keys() == after.keys()  # LoRA and vision tower too, though only the projector is trained now
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-6)


def test_which_run_is_meant_is_never_guessed(tmp_path: Path) -> None:
    wanted, out = recipe("stages.0.steps=1"), tmp_path / "run"
    with pytest.raises(UsageError, match=r"holds no run to resume.*Leave --resume out"):
        run_recipe(wanted, out, resume=True)
    with pytest.raises(UsageError, match="data /nowhere cannot be opened"):
        run_recipe(recipe("stages.0.data.sources=[{kind: chat, path: /nowhere}]", "seed=2"), out)
    run_recipe(wanted, out)  # what failed before its first checkpoint is in nobody's way
    before = weights(out, 1)
    with pytest.raises(UsageError, match=r"holds a run already\. Go on with it \(--resume\)"):
        run_recipe(wanted, out)
    with pytest.raises(UsageError, match=r"another recipe: - seed: 0; \+ seed: 1\. Resume it with its own"):
        run_recipe(recipe("stages.0.steps=1", "seed=1"), out, resume=True)
    assert weights(out, 1) == before
    for _ in range(2):  # begun here, gone on with there
        assert run_recipe(wanted, tmp_path / "begun", resume="if begun").step == 1
    assert weights(tmp_path / "begun", 1) == before


def test_another_base_is_refused(tmp_path: Path) -> None:
    run_recipe(recipe("stages.0.steps=1"), tmp_path / "first")
    vlm, world = make_tiny_checkpoint(tmp_path / "other", seed=5)
    other = f"model={{vlm: {vlm}, world: {world}, init_from: {tmp_path}/first/checkpoint-1, dtype: float32, "
    other += "frame_size: 48, num_frames: 9, config: {world_tokens_per_item: 36, world_patch: 2}}"
    with pytest.raises(ValueError, match=f"trained on another vlm than {vlm}"):
        run_recipe(recipe(other), tmp_path / "second")


def test_a_sample_that_is_too_long_stops_the_run_or_is_listed(tmp_path: Path) -> None:
    short = "stages.0.data.max_tokens=20"
    with pytest.raises(UsageError, match=r"is too long: it makes \d+ tokens, and 20 are allowed"):
        run_recipe(recipe(short), tmp_path / "error")
    some = ("stages.0.data.max_tokens=70", "stages.0.data.on_long=skip", "stages.0.steps=16", "save.every=16")
    run_recipe(recipe("stages.0.data.sources=[{kind: micro-world, groups: 1}]", *some), tmp_path / "skip")
    listed = (tmp_path / "skip" / "skipped-0.jsonl").read_text(encoding="utf-8").splitlines()
    assert progress(tmp_path / "skip", 16)["skipped"] == len(listed) > 0
    makes = [re.search(r"it makes (\d+) tokens, and 70 are allowed", line) for line in listed]
    assert all(found and int(found[1]) > 70 for found in makes)


def test_a_full_disk_costs_no_earlier_checkpoint(tmp_path: Path) -> None:
    wanted, out = recipe("stages.0.steps=2"), tmp_path / "run"
    run_recipe(wanted, out)
    shutil.rmtree(out / "checkpoint-2")

    def no_room() -> None:  # no file may get larger than this
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    before = weights(out, 1)
    assert finish(wanted, out, resume=True, before=no_room) == 2
    assert "cannot be written" in (out / "error").read_text()
    assert "checkpoint-1 is the newest" in (out / "error").read_text()
    assert [path.name for path in out.glob("*checkpoint*")] == ["checkpoint-1"]
    assert weights(out, 1) == before
    assert finish(wanted, out, resume=True) == 0


def test_one_process_at_a_time_trains_in_a_folder(tmp_path: Path) -> None:
    wanted, out = recipe("stages.0.steps=2"), tmp_path / "run"
    with kept_alone(out):
        assert finish(wanted, out) == 2
    assert f"process {os.getpid()} works in {out}. Wait for it or end it" in (out / "error").read_text()
    assert finish(wanted, out) == 0
    with kept_alone(out):
        (out / "error").unlink()
        assert finish(wanted, out, resume=True) == 2
    assert "works in" in (out / "error").read_text()


def test_damage_of_a_checkpoint_is_said_before_anything_is_built(tmp_path: Path) -> None:
    wanted, out = recipe("stages.0.steps=2"), tmp_path / "run"
    run_recipe(wanted, out)
    for name in ("optimizer.pt", "theworld_adapter.safetensors", "rng_state.pth", "trainer_state.json"):
        copy = shutil.copytree(out, tmp_path / name)
        content = bytearray((copy / "checkpoint-2" / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / "checkpoint-2" / name).write_bytes(content)
        with pytest.raises(UsageError, match=rf"{name} is damaged"):
            run_recipe(wanted, copy, resume=True)
        shutil.rmtree(copy / "checkpoint-2")  # as it says
        assert run_recipe(wanted, copy, resume=True).step == 2
        assert weights(copy, 2) == weights(out, 2)


def test_what_a_later_stage_misses_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later = "stages=[{name: one, steps: 1, parts: {world_projector: {}}, data: {sources: [{kind: micro-world}]}}, %s]"
    vsr = "{name: two, steps: 1, parts: {world_projector: {}}, data: {sources: [{kind: vsr, images: /nowhere}]}}"
    with pytest.raises(UsageError, match=r"stages\.1\.data\.sources\.0\.images is /nowhere, which is no folder"):
        run_recipe(recipe(later % vsr), tmp_path / "run")
    cache = "{name: two, steps: 1, parts: {world_projector: {}}, data: {sources: [{kind: micro-world}], cache: /none}}"
    with pytest.raises(UsageError, match=r"stages\.1\.data\.cache is /none"):
        run_recipe(recipe(later % cache), tmp_path / "run")
    monkeypatch.setattr("theworld_train.lora.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"parts\.language_model\.lora needs peft"):
        run_recipe(
            recipe(
                later % "{name: two, steps: 1, parts: {world_projector: {}, language_model: {lora: {}}}, "
                "data: {sources: [{kind: micro-world}]}}"
            ),
            tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


def test_a_request_while_the_folder_is_prepared_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*arguments: Any, **options: Any) -> None:
        prepare(*arguments, **options)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(module, "prepare", ask)
    outcome = run_recipe(recipe("stages.0.steps=2"), tmp_path / "run")
    assert (outcome.step, list((tmp_path / "run").glob("*checkpoint*"))) == (0, [])
    monkeypatch.undo()
    assert run_recipe(recipe("stages.0.steps=2"), tmp_path / "run", resume=True).step == 2
