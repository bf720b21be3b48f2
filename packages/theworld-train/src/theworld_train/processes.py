"""What the processes of a run agree on."""

from collections.abc import Callable

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, reduce

from theworld_train.errors import UsageError


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
