"""Training on every accelerator, else on two CPU processes: whatever ends it, going on gives what one run gives."""

import importlib.util
import json
import shutil
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

ON_ACCELERATORS = torch.accelerator.device_count() >= 2
HELPERS = Path(__file__).parents[2] / "packages" / "theworld-train" / "tests" / "launching.py"
spec = importlib.util.spec_from_file_location("launching", HELPERS)
assert spec is not None
assert spec.loader is not None
launching: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(launching)
figures, running = launching.figures, partial(launching.running, accelerators=ON_ACCELERATORS)
finish, wait_for = partial(launching.finish, accelerators=ON_ACCELERATORS), launching.wait_for

STEPS = 22, 44
STRATEGIES = ("ddp", "fsdp2", "fsdp2_offload")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In bfloat16, of two stages, the second of which finds what the first trained frozen, in float32."""
    folder = tmp_path_factory.mktemp("recipe")
    launching.write_recipe(folder)
    data = {"sources": [{"kind": "chat", "path": str(folder / "rows.jsonl")}], "workers": 0, "holdout": 0.3}
    vision = {"world_projector": {}, "vision_tower": {}, "image_projector": {}}
    language = {"world_projector": {}, "language_model": {"lora": {"rank": 2, "dropout": 0.1}}}
    stages = [
        {"name": "vision", "steps": STEPS[0], "parts": vision, "data": data},
        {"name": "language", "steps": STEPS[1] - STEPS[0], "parts": language, "data": data},
    ]
    return launching.write_recipe(
        folder,
        model={"vlm": "tiny"},
        stages=stages,
        eval={"every": 8, "examples": 3, "samples": 2, "max_new_tokens": 4},
        save={"every": 3, "keep": 99},
    )


@pytest.fixture(scope="module")
def straight(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """The folder of a run that nothing ended, made once for each strategy. Not to be changed."""
    made: dict[str, Path] = {}

    def make(strategy: str, processes: int) -> Path:
        if strategy not in made:
            made[strategy] = tmp_path_factory.mktemp(strategy) / "run"
            code, said = finish(launching.launched(recipe, made[strategy], strategy, processes=processes))
            assert code == 0, said
        return made[strategy]

    return make


def assert_same(run: Path, other: Path, devices: list[torch.device]) -> None:
    """To the last bit on CPUs; accelerators may add up in any order."""
    one, two = (
        load_file(folder / f"checkpoint-{STEPS[1]}" / "theworld_adapter.safetensors") for folder in (run, other)
    )
    tolerance = 0.0 if devices[0].type == "cpu" else 1e-2
    torch.testing.assert_close(one, two, atol=tolerance, rtol=0)
    if devices[0].type == "cpu":
        assert figures(run) == figures(other)
        assert (run / "samples.jsonl").read_text() == (other / "samples.jsonl").read_text()
        for rank in range(len(devices)):
            read = [
                (folder / f"checkpoint-{STEPS[1]}" / f"progress-{rank}.json").read_text() for folder in (run, other)
            ]
            assert read[0] == read[1]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("step", [6, 30], ids=["first stage", "second stage"])
@pytest.mark.parametrize("killed", ["one", "all"])
def test_killed_processes_are_gone_on_from(
    recipe: Path,
    straight: Callable[[str, int], Path],
    devices: list[torch.device],
    tmp_path: Path,
    strategy: str,
    step: int,
    killed: str,
) -> None:
    command = launching.launched(recipe, tmp_path / "run", strategy, processes=len(devices))
    with running(command) as process:
        wait_for(process, lambda: any(line["step"] > step for line in figures(tmp_path / "run")))
        workers = launching.workers(process)
        assert len(workers) == len(devices)
        for worker in workers:  # on CPUs parts rest there anyway, so what it was told has to do
            assert worker.environ().get("FSDP_OFFLOAD_PARAMS", "false") == str(strategy == "fsdp2_offload").lower()
        for worker in workers if killed == "all" else workers[-1:]:
            worker.kill()
        process.communicate(timeout=launching.LIMIT)
    assert process.returncode != 0
    assert not (tmp_path / "run" / f"checkpoint-{STEPS[1]}").exists()
    code, said = finish([*command, "--resume"])
    assert code == 0, said
    assert_same(straight(strategy, len(devices)), tmp_path / "run", devices)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_machine_that_went_comes_back(
    recipe: Path, straight: Callable[[str, int], Path], tmp_path: Path, strategy: str
) -> None:
    """Two launchers on the loopback for two machines, on CPUs always: accelerators would be shared."""
    made = straight(strategy, 2) if not ON_ACCELERATORS else None  # else made by accelerators
    port, out = free_port(), tmp_path / "run"

    def agent(rank: int) -> list[str]:
        command = launching.launched(recipe, out, strategy, processes=1)
        where = ["--machine-rank", str(rank), "--main-address", "127.0.0.1", "--main-port", str(port)]
        command[command.index("--") : command.index("--")] = ["--nodes", "2", "--max-restarts", "3", *where]
        return command

    with launching.running(agent(0)) as first:
        wait_for(first, lambda: taken(port))  # it is the one that others meet at
        with launching.running(agent(1)) as second:
            wait_for(second, lambda: any(line["step"] > 8 for line in figures(out)))
        assert second.poll() is not None  # all that it started was killed
        assert not (out / f"checkpoint-{STEPS[1]}").exists()
        time.sleep(1)
        assert first.poll() is None  # it waits for the other
        with launching.running(agent(1)) as second:
            for process in (first, second):
                _, said = process.communicate(timeout=launching.LIMIT)
                assert process.returncode == 0, said
    if made is not None:
        assert_same(made, out, [torch.device("cpu")] * 2)
    assert [line["step"] for line in figures(out) if "loss" in line] == list(range(1, STEPS[1] + 1))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_job_that_is_out_of_time_goes_on_in_the_next_one(
    recipe: Path, straight: Callable[[str, int], Path], devices: list[torch.device], tmp_path: Path, strategy: str
) -> None:
    """The script itself, on stand-ins for SLURM's programs."""
    tools, out, asked = tmp_path / "bin", tmp_path / "it's a run", tmp_path / "asked"
    tools.mkdir()
    for name, text in {
        "sbatch": f"echo sbatch >> {asked}",
        "scontrol": f'if [ "$1" = show ]; then echo localhost; else echo "$@" >> {asked}; fi',
        "srun": 'while [[ "$1" == --* ]]; do shift; done\nexec "$@"',
    }.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    number = free_port() - 20000
    slurm = {"PATH": f"{tools}:/usr/bin:/bin", "SLURM_JOB_ID": str(number), "SLURM_JOB_NODELIST": "localhost"}
    slurm |= {"SLURM_NODEID": "0", "SLURM_CPUS_PER_TASK": "1"}
    command = launching.launched(recipe, out, strategy, processes=len(devices))
    command.insert(command.index("--"), "--slurm")
    code, said = finish(command, **slurm)
    assert code == 0, said
    with running(["bash", str(out / "job.sbatch")], **slurm) as process:
        wait_for(process, lambda: len(figures(out)) >= 3)
        process.send_signal(signal.SIGUSR1)
        _, said = process.communicate(timeout=launching.LIMIT)
    assert process.returncode == 0, said
    assert asked.read_text(encoding="utf-8").splitlines() == ["sbatch", f"requeue {number}"]
    assert not (out / f"checkpoint-{STEPS[1]}").exists()
    code, said = finish(["bash", str(out / "job.sbatch")], **slurm)
    assert code == 0, said
    assert len(asked.read_text(encoding="utf-8").splitlines()) == 2  # it was ready, and did not come back
    assert_same(straight(strategy, len(devices)), out, devices)


def test_strategies_agree(straight: Callable[[str, int], Path], devices: list[torch.device]) -> None:
    """They add up in another order, and bfloat16 rounds; checkpoints have the same names, shapes and dtypes."""
    runs = [straight(strategy, len(devices)) for strategy in STRATEGIES[:2]]
    for one, two in zip(*map(figures, runs), strict=True):
        assert two == pytest.approx(one, rel=1e-2)
    kinds = [
        {name: (tensor.shape, tensor.dtype) for name, tensor in load_file(run / file).items()}
        for run in runs
        for file in [f"checkpoint-{STEPS[1]}/theworld_adapter.safetensors"]
    ]
    assert kinds[0] == kinds[1]
    described = [json.loads((run / f"checkpoint-{STEPS[1]}/theworld_adapter.json").read_text()) for run in runs]
    assert described[0]["bases"] == described[1]["bases"]


def test_another_number_of_processes_or_strategy_cannot_go_on(
    recipe: Path, straight: Callable[[str, int], Path], devices: list[torch.device], tmp_path: Path
) -> None:
    number = len(devices)
    shutil.copytree(straight("ddp", number), tmp_path / "run")
    for strategy, processes, message in (
        ("ddp", number - 1, f"was written by {number} processes, and this is a run of {number - 1}."),
        ("fsdp2", number, "was written under DDP or a single process, and this is FSDP."),
    ):
        command = launching.launched(recipe, tmp_path / "run", strategy, "--resume", processes=processes)
        code, said = finish(command)
        assert code != 0
        assert said.count("theworld: ") == 1
        assert message in said


def free_port() -> int:
    """In the range that the script takes ports from."""
    return next(port for port in range(20000, 30000) if not taken(port))


def taken(port: int) -> bool:
    with socket.socket() as probe:
        return not probe.connect_ex(("127.0.0.1", port))
