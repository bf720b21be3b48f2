"""Work in several processes at once, with a progress bar in this one for each piece of it."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.connection import Connection, wait
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

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
    work that goes on elsewhere gets SIGTERM, and training saves and ends.
    """

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit locks that threads of torch hold
        self._stop, self._open = context.Pipe(duplex=False)
        self._messages = context.SimpleQueue()
        self._bars = Bars()
        self._reports: list[Report] = []
        self._pool = ProcessPoolExecutor(processes, context, initializer=_start, initargs=(self._messages, self._stop))
        self._listener = Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._bars.start()
        self._listener.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        if kind is not None:
            self._open.close()
        self._pool.shutdown(cancel_futures=kind is not None)
        self._messages.put(None)
        self._listener.join()
        self._bars.stop()
        self._open.close()
        self._stop.close()

    def submit(
        self, label: str, work: Callable[Concatenate[Report, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Have ``work(report, *args, **kwargs)`` done; what it raises comes out of the future."""
        self._reports.append(self._bars.add(label))
        return self._pool.submit(_run, len(self._reports) - 1, work, *args, **kwargs)

    def _listen(self) -> None:
        while (message := self._messages.get()) is not None:
            number, *progress = message
            self._reports[number](*progress)


_working = Lock()
"""Of a process that does work: held while it does."""
_messages: Any = None
"""Of a process that does work: where its reports go."""


def _start(messages: Any, stop: Connection) -> None:
    global _messages
    _messages = messages
    torch.set_num_threads(1)
    Thread(target=_end_with_parent, args=(stop,), daemon=True).start()


def _end_with_parent(stop: Connection) -> None:
    """A process whose parent was killed would otherwise wait for work for ever; one whose parent gave up would work."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        if parent.sentinel not in wait([parent.sentinel, stop]):
            os.kill(os.getpid(), signal.SIGTERM)
            _working.acquire()  # where work handles the signal, it ends when it has saved, and the process with it
        os._exit(1)


def _run(number: int, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    def report(done: int, total: int | None, note: str = "") -> None:
        _messages.put((number, done, total, note))

    with _working:
        return work(report, *args, **kwargs)
