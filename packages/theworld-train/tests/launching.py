"""Real launches for tests: a toy recipe on CPU processes, bounded in time, with nothing left running."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

LIMIT = 400
"""Seconds that a launch may take, on a machine that does much else; it is here to end what hangs."""
BETA1 = 0.9
"""A recipe's default."""
THEWORLD = (sys.executable, "-m", "theworld_train")


def write_recipe(folder: Path, *, rows: int = 24, **fields: Any) -> Path:
    """A toy recipe in float32; every second row is words alone, so that one of two processes never has a picture."""
    lines = []
    for number in range(rows):
        Image.new("RGB", (48, 48), (10 * number, 250 - 10 * number, 90)).save(folder / f"{number}.png")
        text = {"type": "text", "text": f"What is number {number}?"}
        content = [text] if number % 2 else [{"type": "image", "image": f"{number}.png"}, text]
        answer = [{"type": "text", "text": f"number {number}"}]
        lines.append({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
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


def wait_for(process: subprocess.Popen[str], reached: Callable[[], bool]) -> None:
    """Until something is so; the process has to be there all the time."""
    end = time.monotonic() + LIMIT
    while not reached():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.02)


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of a launch that train."""
    [launcher] = psutil.Process(process.pid).children()
    return [one for one in launcher.children() if "theworld_train" in one.cmdline()]


def gradients(run: Path, step: int) -> list[torch.Tensor]:
    """What the optimiser was given at a step, for each trained parameter, as its first moments tell; clipped."""
    before = _moments(run / f"checkpoint-{step - 1}") if step > 1 else None
    return [
        (moment - (BETA1 * before[index] if before else 0)) / (1 - BETA1)
        for index, moment in enumerate(_moments(run / f"checkpoint-{step}"))
    ]


def _moments(checkpoint: Path) -> list[torch.Tensor]:
    if (checkpoint / "optimizer.pt").is_file():
        state = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
        return [state[index]["exp_avg"].cpu() for index in sorted(state)]
    parts = [load_file(file) for file in sorted(checkpoint.glob("optimizer-*.safetensors"))]
    keys = sorted({key for part in parts for key in part if key.endswith(".exp_avg")}, key=lambda key: int(key[:-8]))
    return [torch.cat([part[key] for part in parts if key in part]) for key in keys]


def _environment() -> dict[str, str]:
    unwanted = ("MASTER_", "SLURM_", "ACCELERATE_", "FSDP_", "NODE_RANK")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return {**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def _all_below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
