"""The command that starts all processes of one machine: accelerate's launcher, with a configuration of this package."""

import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

from theworld_train.errors import UsageError

_STORES = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"
"""Else a machine that comes back waits for an address that torch tells once, at the first rendezvous."""
Strategy = Literal["ddp", "fsdp2", "fsdp2_offload"]


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What is started: a recipe, in a run's folder, on ``nodes`` machines with ``processes`` processes each."""

    recipe: str
    """Name of a shipped one, or path of a file."""
    out: Path
    strategy: Strategy = "ddp"
    nodes: int = 1
    processes: int = 1
    restarts: int = 0
    """How often processes that failed are started again, from the newest checkpoint."""
    arguments: tuple[str, ...] = ()
    """Further ones of ``theworld train``."""

    def __post_init__(self) -> None:
        if self.strategy not in get_args(Strategy):
            raise UsageError(f"--strategy is {self.strategy!r}. Give one of {', '.join(get_args(Strategy))}.")


def accelerate_command(launch: Launch, *, rank: int | None, address: str | None, port: int | None) -> list[str]:
    """``accelerate launch`` for the machine ``rank`` of several, which meet at ``address`` and ``port``; or for one.

    Raises:
        UsageError: there are several machines, and one of the three is not known.
    """
    config = files("theworld_train") / "launch" / f"{launch.strategy}.yaml"
    environment: list[str] = []
    where: list[str] = ["--main_process_port", "0" if port is None else str(port)]  # 0: any free one
    if launch.nodes > 1:
        for option, variable, value in (
            ("--machine-rank", "NODE_RANK", rank),
            ("--main-address", "MASTER_ADDR", address),
            ("--main-port", "MASTER_PORT", port),
        ):
            if value is None:
                raise UsageError(f"--nodes is {launch.nodes}, and {option} is missing. Give it, or set {variable}.")
        where += ["--machine_rank", str(rank), "--main_process_ip", str(address)]
    if launch.restarts:
        where += ["--max_restarts", str(launch.restarts)]
        if launch.nodes > 1:  # a machine that comes back has to be able to join again
            where += ["--rdzv_backend", "c10d"]
            environment = ["env", _STORES]
    numbers = ["--num_machines", str(launch.nodes), "--num_processes", str(launch.nodes * launch.processes)]
    train = ["-m", "theworld_train", "train", launch.recipe, "--out", str(launch.out), *launch.arguments]
    if launch.restarts and "--resume" not in launch.arguments:
        train.append("--resume-if-begun")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    return [*environment, *launcher, *numbers, *where, *train]


def launch_command(launch: Launch) -> list[str]:
    """``theworld launch`` with everything but rank, address and port, which a machine finds in its environment."""
    options = ["--out", str(launch.out), "--strategy", launch.strategy]
    options += ["--nodes", str(launch.nodes), "--processes-per-node", str(launch.processes)]
    if launch.restarts:
        options += ["--max-restarts", str(launch.restarts)]
    return [sys.executable, "-m", "theworld_train", "launch", launch.recipe, *options, "--", *launch.arguments]
