"""Which process this is of how many, and what those of a run agree on."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, reduce

from theworld_train.errors import UsageError

A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class Rank:
    """Which process this is of how many, as ``torchrun`` and ``accelerate launch`` say it in the environment."""

    number: int
    of: int
    local: int

    @classmethod
    def of_this_process(cls) -> "Rank":
        names = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        return cls(*(int(os.environ.get(name, default)) for name, default in names.items()))

    def device(self) -> torch.device:
        """The accelerator that this process has for itself, or the CPU."""
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        if accelerator is None:
            return torch.device("cpu")
        return torch.device(accelerator.type, self.local % torch.accelerator.device_count())

    def threads(self) -> int:
        """As many as its part of the cores: making a picture's pixels takes longer than encoding them."""
        here = int(os.environ.get("LOCAL_WORLD_SIZE", self.of))
        return max(2, (os.cpu_count() or 1) // here)

    def share(self, rows: Iterable[A]) -> Iterator[A]:
        """This process's part: every row is in one of them."""
        return islice(rows, self.number, None, self.of)

    def number_of(self, rows: int) -> int:
        """How many of so many rows are in it."""
        return len(range(self.number, rows, self.of))

    def has(self, index: int) -> bool:
        """Whether the row of this number is in it."""
        return index % self.of == self.number

    def dead_file(self, folder: Path) -> Path:
        """Where this process lists what it could not read."""
        return folder / ("dead.jsonl" if self.of == 1 else f"dead-{self.number}-of-{self.of}.jsonl")

    def remove_old_lists(self, folder: Path) -> None:
        """Of builds with another number of processes; no process of this build writes to them."""
        current = {replace(self, number=number).dead_file(folder) for number in range(self.of)}
        for path in folder.glob("dead*.jsonl"):
            if path not in current:
                path.unlink(missing_ok=True)


ALONE = Rank(0, 1, 0)
"""The only process there is."""


def on_main(process: PartialState, act: Callable[[], None]) -> None:
    """Let the main process do something while the others wait.

    Raises:
        UsageError: it did there, and they are no group any more; the others end without a word, so that the error is
            shown once.
    """
    error: UsageError | None = None
    if process.is_main_process:
        try:
            act()
        except UsageError as caught:
            error = caught
    [failed] = broadcast_object_list([error is not None]) if process.use_distributed else [error is not None]
    if failed:
        part()
        raise error or SystemExit(2)


def on_any(process: PartialState, flag: bool) -> bool:
    """Whether the flag is set on any process; all ask at the same place, and get the same answer."""
    if not process.use_distributed:
        return flag
    return bool(reduce(torch.tensor(float(flag), device=process.device), reduction="sum"))


def part() -> None:
    """Leave the group that the processes were, where they were one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
