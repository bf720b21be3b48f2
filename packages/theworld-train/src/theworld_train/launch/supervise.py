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
    If it is killed itself, what it started goes with it: it would train on, and nobody would know.
    """
    with stop_requests() as requested:
        listening = signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # inherited: SLURM signals all processes of a task
        try:
            process = subprocess.Popen(command, start_new_session=True)
        finally:
            signal.signal(signal.SIGUSR1, listening)
        started: list[psutil.Process] = []
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(_EVERY)
                started = _all_below(process.pid)
                if requested.is_set():  # again and again: a process that has just started does not listen yet
                    _ask(process.pid)
        finally:
            if process.poll() is None:
                started = _all_below(process.pid)
                process.kill()
                process.wait()
            for one in started:  # each is a session of its own
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()


def _ask(launcher: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for worker in psutil.Process(launcher).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.send_signal(signal.SIGUSR1)


def _all_below(launcher: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(launcher).children(recursive=True)
    return []
