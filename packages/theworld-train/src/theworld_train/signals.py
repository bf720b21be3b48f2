"""Being asked to stop: SIGTERM, and SIGUSR1, with which SLURM can warn before the time is up."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Set once a signal has come; handlers are put back at the end. Only the main thread can have handlers."""
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return

    def handle(number: int, frame: Any) -> None:
        requested.set()

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
