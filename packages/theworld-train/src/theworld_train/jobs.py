"""Work in several processes at once, with a progress bar in this one for each piece of it."""

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from theworld_train import imports

P = ParamSpec("P")
T = TypeVar("T")


class Report(Protocol):
    """How a piece of work tells how far it is; the total may be unknown."""

    def __call__(self, done: int, total: int | None, note: str = "") -> None: ...


class Bars(Progress):
    """Progress bars as all commands show them: how much is done, how long the rest takes, and a note."""

    def __init__(self, *, disable: bool = False) -> None:
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # To standard error: what a command answers with is alone on standard output.
        super().__init__(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True), disable=disable)

    def add(self, label: str) -> Report:
        """A new bar, and what moves it."""
        task = self.add_task(label, total=None, note="")

        def report(done: int, total: int | None, note: str = "") -> None:
            self.update(task, completed=done, total=total, note=note)

        return report


class Jobs:
    """Processes that take pieces of work, each with one thread: for toys, more threads cost more than they give.

    Work is a function at the top of a module; its first argument is a ``Report``. Where an error leaves the ``with``,
    work that goes on elsewhere gets SIGTERM, and training saves and ends. A process that dies breaks its own piece of
    work, with a ``BrokenProcessPool``.

    Not a ``ProcessPoolExecutor``: that one looks for dead processes among those it knew when it began to wait, and may
    wait for ever for one that it started a moment later.
    """

    def __init__(self, processes: int) -> None:
        self._bars = Bars()
        self._threads = ThreadPoolExecutor(processes)  # each gives work to a process of its own, and hears how it goes
        self._of_thread = threading.local()
        self._workers: list[_Worker] = []
        self._changing = Lock()
        self._ended = False

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        if kind is not None:
            with self._changing:
                self._ended = True
                for worker in self._workers:
                    worker.terminate()
        self._threads.shutdown(cancel_futures=kind is not None)
        for worker in self._workers:
            worker.close()
        self._bars.stop()

    def submit(
        self, label: str, work: Callable[Concatenate[Report, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Have ``work(report, *args, **kwargs)`` done; what it raises comes out of the future."""
        return self._threads.submit(self._do, self._bars.add(label), work, args, kwargs)

    def _do(self, report: Report, work: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        with self._changing:
            if self._ended:
                raise CancelledError
            worker: _Worker | None = getattr(self._of_thread, "worker", None)
            if worker is None or worker.broken:
                worker = self._of_thread.worker = _Worker()
                self._workers.append(worker)
        return worker.do(report, work, args, kwargs)


class _Worker:
    """One process, as the thread sees it that gives it work."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit locks that torch holds
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other,))
        self._process.start()
        other.close()  # so that the process holds the only one, and its end is heard
        self.broken = False

    def do(self, report: Report, work: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        try:
            self._connection.send((work, args, kwargs))
            while (message := self._hear())[0] == "progress":
                report(*message[1:])
        except (EOFError, OSError) as error:
            self.broken = True
            self._process.join()
            raise BrokenProcessPool(f"A process ended in its work, with exit code {self._process.exitcode}.") from error
        if message[0] == "failed":
            raise message[1]
        return message[1]

    def _hear(self) -> tuple[Any, ...]:
        if self._connection not in wait([self._connection, self._process.sentinel]):
            raise EOFError  # the process is gone; one that it started may hold its end of the connection open
        return self._connection.recv()

    def terminate(self) -> None:
        self._process.terminate()

    def close(self) -> None:
        """A process that has no work ends."""
        self._connection.close()
        self._process.join()


_working = Lock()
"""Of a process that does work: held while it does."""


def _serve(connection: Connection) -> None:
    torch.set_num_threads(1)
    Thread(target=_end_with_parent, daemon=True).start()
    sending = Lock()

    def report(done: int, total: int | None, note: str = "") -> None:
        with sending, suppress(OSError):  # without a parent, work still has to save what it has
            connection.send(("progress", done, total, note))

    while True:
        try:
            given = connection.recv_bytes()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        with _working:
            message = _outcome(report, given)
        with sending, suppress(OSError):
            connection.send_bytes(message)


def _end_with_parent() -> None:
    """A process whose parent was killed would otherwise work on, and wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        _working.acquire()  # where work handles the signal, it ends when it has saved, and the process with it
        os._exit(1)


def _outcome(report: Report, given: bytes) -> memoryview:
    """What came of a piece of work, as bytes that the parent can surely read."""
    try:
        with imports.kept():  # whatever the work needs
            work, args, kwargs = pickle.loads(given)
        return ForkingPickler.dumps(("done", work(report, *args, **kwargs)))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent has to hear it
        raised = "".join(traceback.format_exception(error))
        try:
            error.add_note(f"In the process that did the work:\n{raised}")
            failed = ForkingPickler.dumps(("failed", error))
            pickle.loads(failed)  # errors with arguments of their own often do not survive this
        except Exception:  # noqa: BLE001 - pickling runs code of the error's own
            failed = ForkingPickler.dumps(("failed", RuntimeError(raised)))
        return failed
