"""Training on several processes is training on one; what a launch would do is printed, and is what it does."""

import importlib.util
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from safetensors.torch import load_file

from theworld_fusion import load_adapter
from theworld_fusion.adapter import WEIGHTS
from theworld_train.trainer import check_processes, read_progress

spec = importlib.util.spec_from_file_location("launching", Path(__file__).with_name("launching.py"))
assert spec is not None
assert spec.loader is not None
launching: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(launching)
THEWORLD, figures, finish = launching.THEWORLD, launching.figures, launching.finish
launched, write_recipe = launching.launched, launching.write_recipe

Run = Callable[..., tuple[int, str, str]]
STEPS = 4


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("NODE_RANK", "SLURM_NODEID", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "fsdp2_offload"])
def test_a_dry_run_prints_a_command_that_accelerate_takes(theworld: Run, tmp_path: Path, strategy: str) -> None:
    out = tmp_path / "a run"
    shape = ("--strategy", strategy, "--nodes", "3", "--processes-per-node", "8", "--main-address", "first.node")
    further = ("--set", "seed=1", "--resume")
    code, printed, said = theworld(
        "launch",
        "smoke",
        "--out",
        str(out),
        *shape,
        "--main-port",
        "29",
        "--machine-rank",
        "2",
        "--dry-run",
        "--",
        *further,
    )
    assert (code, said, out.exists()) == (0, "", False)
    [line] = printed.splitlines()
    python, *launcher = shlex.split(line)
    assert (python, launcher[:2]) == (sys.executable, ["-m", "accelerate.commands.launch"])
    given = launch_command_parser().parse_args(launcher[2:])
    assert (given.num_machines, given.num_processes, given.machine_rank) == (3, 24, 2)
    assert (given.main_process_ip, given.main_process_port) == ("first.node", 29)
    assert Path(given.config_file).name == f"{strategy}.yaml"
    assert (given.module, given.training_script) == (True, "theworld_train")
    assert given.training_script_args == ["train", "smoke", "--out", str(out), *further]


def test_several_machines_find_each_other_by_the_environment(theworld: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("launch", "smoke", "--nodes", "2", "--processes-per-node", "1", "--dry-run")
    for variable, value in {"SLURM_NODEID": "1", "MASTER_ADDR": "first", "MASTER_PORT": "29"}.items():
        code, _, said = theworld(*command)
        assert code == 2
        assert "is missing. Give it, or set" in said
        monkeypatch.setenv(variable, value)
    given = launch_command_parser().parse_args(shlex.split(theworld(*command)[1])[3:])
    assert (given.machine_rank, given.main_process_ip, given.main_process_port) == (1, "first", 29)


def test_what_may_be_started_again_can_go_on(theworld: Run) -> None:
    command = ("launch", "smoke", "--processes-per-node", "1", "--main-address", "first", "--main-port", "29")
    restarts = ("--machine-rank", "1", "--max-restarts", "3", "--dry-run")
    for nodes, rendezvous in (("1", "static"), ("2", "c10d")):
        words = shlex.split(theworld(*command, "--nodes", nodes, *restarts)[1])
        given = launch_command_parser().parse_args(words[words.index("accelerate.commands.launch") + 1 :])
        assert (given.max_restarts, given.rdzv_backend) == (3, rendezvous)
        assert given.training_script_args[-1] == "--resume-if-begun"
    assert theworld(*command, *restarts, "--", "--resume")[1].endswith(" --resume\n")
    script = theworld("launch", "smoke", "--processes-per-node", "1", "--slurm", *restarts[2:])[1]
    assert "--max-restarts 3" in script
    assert "resume-if-begun" not in theworld(*command, "--dry-run")[1]


def test_a_job_script_is_bash_and_is_only_printed(theworld: Run, tmp_path: Path) -> None:
    out = tmp_path / "it's a run"
    shape = ("--nodes", "2", "--processes-per-node", "8", "--time", "1-12", "--partition", "big,small")
    code, printed, said = theworld(
        "launch", "smoke", "--out", str(out), *shape, "--slurm", "--dry-run", "--", "--set", "seed=1"
    )
    assert (code, said, out.exists()) == (0, "", False)
    command, _, name, script = printed.split("\n", 3)
    assert shlex.split(command) == ["sbatch", str(out / "job.sbatch")]
    assert name == f"# {out / 'job.sbatch'}"
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    for setting in (
        "nodes=2",
        "gpus-per-node=8",
        "cpus-per-task=8",
        "time=1-12",
        "partition=big,small",
        "job-name=smoke",
    ):
        assert f"#SBATCH --{setting}\n" in script
    assert "mail" not in script
    assert "#SBATCH --partition" not in theworld("launch", "smoke", *shape[:4], "--slurm", "--dry-run")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smok",), "there is no recipe called 'smok'."),
        (("smoke", "--strategy", "fsdp"), "--strategy is 'fsdp'. Give one of ddp, fsdp2, fsdp2_offload."),
        (("smoke", "--partition", "big"), "--partition is big, without --slurm."),
        (("smoke", "--slurm", "--partition", "big\n#SBATCH --x"), "--partition is 'big\\n#SBATCH --x'."),
        (("smoke", "--slurm", "--time", "4h"), "--time is '4h'."),
    ],
)
def test_what_cannot_be_launched(theworld: Run, arguments: tuple[str, ...], message: str) -> None:
    code, out, said = theworld("launch", *arguments, "--processes-per-node", "2", "--dry-run")
    assert (code, out) == (2, "")
    assert said.startswith(f"theworld: {message}")


def test_without_sbatch_the_script_stays(theworld: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, said = theworld("launch", "smoke", "--out", str(tmp_path), "--processes-per-node", "2", "--slurm")
    assert code == 2
    assert "there is no sbatch here" in said
    assert (tmp_path / "job.sbatch").read_text(encoding="utf-8").startswith("#!/bin/bash\n")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process of two sees words alone; every step leaves its gradients behind."""
    return write_recipe(tmp_path_factory.mktemp("recipe"), save={"every": 1, "keep": 99})


@pytest.fixture(scope="module")
def alone(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's folder after one process saw in each step what two see together. Not to be changed."""
    out = tmp_path_factory.mktemp("alone") / "run"
    code, said = finish([*THEWORLD, "train", str(recipe), "--set", "batch.accumulate=4", "--out", str(out)])
    assert code == 0, said
    return out


@pytest.fixture(scope="module")
def ddp(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's folder after two replicas trained. Not to be changed."""
    out = tmp_path_factory.mktemp("ddp") / "run"
    code, said = finish(launched(recipe, out, "ddp"))
    assert code == 0, said
    return out


def assert_alike(run: Path, other: Path) -> None:
    """To float32's rounding: sums over processes have another order."""
    one, two = (load_file(folder / f"checkpoint-{STEPS}" / WEIGHTS) for folder in (run, other))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
    for figure, same in zip(figures(run), figures(other), strict=True):
        assert same == pytest.approx(figure, rel=1e-5)
    for step in range(1, STEPS + 1):
        gradients = [launching.gradients(folder, step) for folder in (run, other)]
        assert len(gradients[0]) == len(one)
        assert step == 1 or all(gradient.any() for gradient in gradients[0])  # LoRA's first factors start at zero
        for gradient, same in zip(*gradients, strict=True):  # clipped to a norm of 1, which the figures have
            torch.testing.assert_close(same, gradient, atol=1e-6, rtol=0)


def test_two_replicas_train_as_one_process_that_accumulates_twice_as_much(alone: Path, ddp: Path) -> None:
    assert_alike(alone, ddp)
    # The rows of one process, dealt out: none is seen twice.
    checkpoint = ddp / f"checkpoint-{STEPS}"
    one = read_progress(alone / f"checkpoint-{STEPS}", 0)
    ranks = [read_progress(checkpoint, rank) for rank in (0, 1)]
    assert [rank["examples"] for rank in ranks] == [STEPS * 2] * 2
    assert one["examples"] == STEPS * 4
    assert ranks[0]["digest"] != ranks[1]["digest"]
    # One set of everything that is the run's.
    assert len(figures(ddp)) == STEPS
    assert len(list((ddp / "tensorboard").iterdir())) == 1
    assert {file.name for file in ddp.iterdir()} - {file.name for file in alone.iterdir()} == {"skipped-1.jsonl"}


def test_two_replicas_train_on_packed_rows_as_on_separate_ones(recipe: Path, ddp: Path, tmp_path: Path) -> None:
    """One has pictures and the other words alone, in rows of other lengths."""
    packed = ("--set", "batch={size: 2, packing: samples, row_tokens: 300}")  # in the place of two of one
    code, said = finish(launched(recipe, tmp_path / "run", "ddp", *packed))
    assert code == 0, said
    assert_alike(ddp, tmp_path / "run")


@pytest.fixture(scope="module")
def fsdp2(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, dealt out over two processes. Not to be changed."""
    out = tmp_path_factory.mktemp("fsdp2") / "run"
    code, said = finish(launched(recipe, out, "fsdp2"))
    assert code == 0, said
    return out


def test_weights_that_are_dealt_out_train_as_one_process_does(alone: Path, ddp: Path, fsdp2: Path) -> None:
    assert_alike(alone, fsdp2)
    checkpoint = fsdp2 / f"checkpoint-{STEPS}"
    model, _ = load_adapter(checkpoint)  # whole, on the bases by whose fingerprints it was saved
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == load_file(checkpoint / WEIGHTS).keys()
    sizes = [(checkpoint / f"optimizer-{rank}.safetensors").stat().st_size for rank in (0, 1)]
    whole = (ddp / f"checkpoint-{STEPS}" / "optimizer.pt").stat().st_size
    assert max(sizes) < 0.75 * whole  # each process kept its part
    for processes, sharded, message in (
        (2, False, "under FSDP, and this is DDP"),
        (3, True, "by 2 processes, .* of 3"),
    ):
        with pytest.raises(ValueError, match=message):
            check_processes(checkpoint, processes, sharded=sharded)


def test_dealt_out_models_train_from_caches_as_from_pictures(tmp_path: Path) -> None:
    recipe, features = write_recipe(tmp_path), tmp_path / "features"
    parts = "{world_projector: {}, image_projector: {}, language_model: {lora: {rank: 2}}}"
    live = ("--set", f"stages.0.parts={parts}")
    cached = tuple(f"--set=stages.0.data.{kind}={features}" for kind in ("cache", "vision_cache"))
    code, said = finish([*THEWORLD, "cache", "build", "--recipe", str(recipe), *live, *cached])
    assert code == 0, said
    for name, options in (("live", live), ("cached", (*live, *cached))):
        code, said = finish(launched(recipe, tmp_path / name, "fsdp2", *options))
        assert code == 0, said
    assert figures(tmp_path / "cached") == figures(tmp_path / "live")
    one, other = (load_file(tmp_path / name / f"checkpoint-{STEPS}" / WEIGHTS) for name in ("live", "cached"))
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_launcher_that_is_killed_takes_what_it_started_along() -> None:
    """Else it would train on, and a new launch beside it."""
    inner = "import subprocess as s, time; print(s.Popen(['sleep', '60'], start_new_session=True).pid, flush=True); "
    code = f"import sys; from theworld_train.launch.supervise import supervise; inner = {inner + 'time.sleep(60)'!r}; "
    code += "supervise([sys.executable, '-c', inner])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = psutil.Process(int(process.stdout.readline()))
        time.sleep(2.5)  # it looks once a second
        [launcher] = psutil.Process(process.pid).children()
        launcher.kill()
        process.wait(30)
    gone, alive = psutil.wait_procs([worker], 10)
    assert (gone, alive) == ([worker], [])


def test_three_processes_go_on_to_the_last_bit(tmp_path: Path) -> None:
    """A sum of two is the same in either order; of three it is not."""
    recipe = write_recipe(tmp_path, save={"every": 1, "keep": 9}, batch={"size": 1})
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    code, said = finish(launched(recipe, straight, "ddp", processes=3))
    assert code == 0, said
    shutil.copytree(straight, resumed)
    for step in range(2, STEPS + 1):
        shutil.rmtree(resumed / f"checkpoint-{step}")
    code, said = finish(launched(recipe, resumed, "ddp", "--resume", processes=3))
    assert code == 0, said
    assert figures(resumed) == figures(straight)
    one, two = ((run / f"checkpoint-{STEPS}" / WEIGHTS).read_bytes() for run in (straight, resumed))
    assert one == two


def test_a_killed_process_ends_the_launch_and_the_run_goes_on_exactly(
    recipe: Path, fsdp2: Path, tmp_path: Path
) -> None:
    command, run = launched(recipe, tmp_path / "run", "fsdp2"), tmp_path / "run"
    with launching.running(command) as process:
        launching.wait_for(process, (run / "checkpoint-2").is_dir)  # the third step is under way
        launching.workers(process)[-1].kill()
        since = time.monotonic()
        _, said = process.communicate(timeout=launching.LIMIT)
    assert time.monotonic() - since < 60
    assert process.returncode != 0
    assert "theworld launch: the processes ended with exit code 1" in said
    assert "Signal 9 (SIGKILL)" in said
    assert not (run / f"checkpoint-{STEPS}").exists()
    code, said = finish([*command, "--resume"])
    assert code == 0, said
    assert figures(run) == figures(fsdp2)
    one, two = (folder / f"checkpoint-{STEPS}" for folder in (run, fsdp2))
    for name in (WEIGHTS, "optimizer-0.safetensors", "optimizer-1.safetensors"):
        tensors, same = load_file(one / name), load_file(two / name)
        assert tensors.keys() == same.keys()
        assert all(torch.equal(tensor, same[key]) for key, tensor in tensors.items())
    assert [read_progress(one, rank) for rank in (0, 1)] == [read_progress(two, rank) for rank in (0, 1)]


def test_uneven_data_ends_all_processes_together(tmp_path: Path) -> None:
    """Five rows for two processes, seen several times."""
    recipe = write_recipe(tmp_path, rows=5)
    code, said = finish(launched(recipe, tmp_path / "run", "ddp"))
    assert code == 0, said
    ranks = [read_progress(tmp_path / "run" / "checkpoint-4", rank) for rank in (0, 1)]
    assert [rank["examples"] for rank in ranks] == [8, 8]


def test_a_process_without_any_usable_data_ends_all(tmp_path: Path) -> None:
    """While the other waits for its gradients."""
    recipe = write_recipe(tmp_path, rows=6)
    for number in (0, 2, 4):
        (tmp_path / f"{number}.png").unlink()
    skip = ("--set", "stages.0.data.on_broken=skip")
    code, said = finish(launched(recipe, tmp_path / "run", "ddp", *skip))
    assert code != 0
    assert "theworld: two passes over the data gave no batch" in said
