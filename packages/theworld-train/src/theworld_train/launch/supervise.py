"""A launcher, run so that being asked to stop reaches the processes it started, and they end by themselves."""

import contextlib
import signal
import subprocess
from collections.abc import Sequence

import psutil

from theworld_train.signals import stop_requests

_EVERY = 1.0
"""Seconds between two looks."""


def supervise(command: Sequence[str]) -> int:
    """Run the command and give its exit code. SIGTERM and SIGUSR1 ask what it started to save and end.

    torch's launcher knows but one way to stop: it kills, half a minute after it was told to. It is therefore not told.
    """
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # inherited: SLURM signals all processes of a task
    try:
        process = subprocess.Popen(command, start_new_session=True)
    finally:
        signal.signal(signal.SIGUSR1, before)
    with stop_requests() as requested:
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(_EVERY)
                if requested.is_set():  # again and again: a process that has just started does not listen yet
                    _ask(process.pid)
        finally:
            if process.poll() is None:
                _kill(process)


def _ask(launcher: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for worker in psutil.Process(launcher).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.send_signal(signal.SIGUSR1)


def _kill(launcher: subprocess.Popen[bytes]) -> None:
    """With all that it started, each of which is a session of its own."""
    processes = psutil.Process(launcher.pid).children(recursive=True)
    launcher.kill()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    launcher.wait()
