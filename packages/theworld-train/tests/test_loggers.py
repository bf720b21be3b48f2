"""Services that a run logs to: what is written is read back with their own formats, and no secret is in it."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from theworld_train.errors import UsageError
from theworld_train.loggers import open_loggers, read_lines
from theworld_train.recipe_fields import leaves
from theworld_train.recipe_file import load_recipe

SECRETS = {
    "HF_TOKEN": "hf_" + "s3cret" * 6,
    "WANDB_API_KEY": "0123456789abcdef" * 2 + "01234567",
    "MY_PASSWORD": "correct-horse-battery",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that logs to Weights & Biases, offline, with secrets in the environment."""
    home = tmp_path_factory.mktemp("wandb")
    homes = {f"WANDB_{name}_DIR": str(home / name) for name in ("CACHE", "CONFIG", "DATA")}
    environment = {**os.environ, **SECRETS, **homes, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    folder = home / "run"
    command = ["-c", "from theworld_train.cli import main; main()", "train", "smoke"]
    command += ["--set", "log.wandb=demo", "--out", str(folder)]
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for secret in SECRETS.values():
        assert secret.encode() not in done.stdout + done.stderr
    return folder


def leveldb_records(path: Path) -> Iterator[bytes]:
    """Records of a log in LevelDB's format: blocks of 32 KiB, each piece after its checksum, length and kind."""
    data, place, record = path.read_bytes(), 7, b""  # the file's own header first
    while place < len(data):
        if (left := -place % 32768) and left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


def test_weights_and_biases_gets_the_recipe_and_every_figure(run: Path) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    [file] = run.glob("wandb/offline-run-*/run-*.wandb")
    records = [Record.FromString(one) for one in leveldb_records(file)]
    [started] = [one.run for one in records if one.WhichOneof("record_type") == "run"]
    name = (run / "run-id").read_text()
    assert (started.project, started.run_id, started.display_name) == ("demo", name, f"smoke-{name}")
    config = {item.key: json.loads(item.value_json) for item in started.config.update if item.key != "_wandb"}
    recipe = load_recipe(str(run / "recipe.yaml"))
    assert config == recipe.model_dump(mode="json")
    steps = []
    for record in records:
        if record.WhichOneof("record_type") == "history":
            row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            steps.append({"step": row["_step"], **{key: value for key, value in row.items() if key[0] != "_"}})
    assert steps == read_lines(run / "log.jsonl")
    assert [one["step"] for one in steps] == [1, 2]


def test_tensorboard_gets_every_figure(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    log = read_lines(run / "log.jsonl")
    assert set(events.Tags()["scalars"]) == set(log[0]) - {"step"}
    for name in set(log[0]) - {"step"}:
        scalars = events.Scalars(name)
        assert [one.step for one in scalars] == [1, 2]
        assert [one.value for one in scalars] == pytest.approx([one[name] for one in log])


def test_no_secret_of_the_environment_is_in_any_file(run: Path) -> None:
    files = [path for path in run.parent.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    for path in files:
        for name, secret in SECRETS.items():
            assert secret.encode() not in path.read_bytes(), f"{name} is in {path}"


def test_a_recipe_has_no_field_for_a_secret() -> None:
    words = {word for leaf in leaves() for word in leaf.replace(".", "_").split("_")}
    assert not words & {"token", "key", "secret", "password", "credential", "credentials", "login"}
    with pytest.raises(UsageError, match=r"log\.wandb_api_key is no field"):
        load_recipe("smoke", ["log.wandb_api_key=x"])


@pytest.mark.parametrize("service", ["wandb", "trackio"])
def test_a_service_that_is_not_installed_is_one_line(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, service, None)
    recipe = load_recipe("smoke", [f"log.{service}=demo"])
    with pytest.raises(UsageError, match=rf"log\.{service} is demo.* not installed\. .*\(pip install {service}\)"):
        open_loggers(recipe, tmp_path, 0)


def test_trackio_is_called_as_it_wants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is taken: it wants an older Pillow than the one that is tested. Arguments are those of trackio 0.43."""
    calls: list[Any] = []

    class Run:
        def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
            calls.append((metrics, step))

        def finish(self) -> None:
            calls.append("finished")

    def init(project: str, name: str | None = None, *, config: dict[str, Any] | None = None, resume: str) -> Run:
        calls.append((project, name, config, resume))
        return Run()

    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=init))
    recipe = load_recipe("smoke", ["log.trackio=demo"])
    loggers = open_loggers(recipe, tmp_path, 0)
    for one in loggers:
        one.log({"loss": 1.5}, 3)
        one.close()
    name = f"smoke-{(tmp_path / 'run-id').read_text()}"
    assert calls == [("demo", name, recipe.model_dump(mode="json"), "allow"), ({"loss": 1.5}, 3), "finished"]
