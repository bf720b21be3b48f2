"""Real launches for tests: a toy recipe on CPU processes, bounded in time, with nothing left running."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml
from PIL import Image

LIMIT = 400
"""Seconds that a launch may take, on a machine that does much else; it is here to end what hangs."""
THEWORLD = (sys.executable, "-m", "theworld_train")


def write_recipe(folder: Path, **fields: Any) -> Path:
    """A toy recipe in float32; every second row is words alone, so that one of two processes never has a picture."""
    rows = []
    for number in range(24):
        Image.new("RGB", (48, 48), (10 * number, 250 - 10 * number, 90)).save(folder / f"{number}.png")
        text = {"type": "text", "text": f"What is number {number}?"}
        content = [text] if number % 2 else [{"type": "image", "image": f"{number}.png"}, text]
        answer = [{"type": "text", "text": f"number {number}"}]
        rows.append({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = {"sources": [{"kind": "chat", "path": str(folder / "rows.jsonl")}], "workers": 0, "shuffle": 1}
    parts = {
        "world_projector": {},
        "image_projector": {},
        "vision_tower": {"lora": {"rank": 2}},
        "language_model": {"lora": {"rank": 2}},
    }
    recipe = {
        "name": "launched",
        "model": {"vlm": "tiny", "dtype": "float32"},
        "stages": [{"name": "all", "steps": 4, "parts": parts, "data": data}],
        "batch": {"size": 1, "accumulate": 2},
        "optim": {"lr": 1e-3, "schedule": "constant"},
        "log": {"every": 1},
        **fields,
    }
    file = folder / "launched.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return file


@contextmanager
def running(
    command: Sequence[str], *, accelerators: bool = False, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """The command; what it started is killed at the end."""
    environment = _environment() | ({} if accelerators else {"CUDA_VISIBLE_DEVICES": ""}) | environment
    with subprocess.Popen(command, text=True, env=environment, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            for one in [*_all_below(process.pid), process]:
                with suppress(psutil.NoSuchProcess):
                    one.kill()


def finish(command: Sequence[str], *, accelerators: bool = False, **environment: str) -> tuple[int, str]:
    """Exit code and what it said on standard error."""
    with running(command, accelerators=accelerators, **environment) as process:
        _, said = process.communicate(timeout=LIMIT)
        return process.returncode, said


def launched(recipe: Path, out: Path, strategy: str, *arguments: str, processes: int = 2) -> list[str]:
    """``theworld launch`` of it."""
    options = ["--strategy", strategy, "--processes-per-node", str(processes), "--out", str(out)]
    return [*THEWORLD, "launch", str(recipe), *options, "--", *arguments]


def figures(run: Path) -> list[dict[str, float]]:
    """What it logged, but for speeds."""
    file = run / "log.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [{name: value for name, value in json.loads(line).items() if "_per_" not in name} for line in lines]


def _environment() -> dict[str, str]:
    unwanted = ("MASTER_", "SLURM_", "ACCELERATE_", "FSDP_", "NODE_RANK")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return {**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def _all_below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
