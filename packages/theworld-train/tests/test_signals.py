"""A request to stop is seen, and the handlers that were there come back."""

import os
import signal
import threading

from theworld_train.signals import SIGNALS, stop_requests


def test_each_signal_is_seen_and_handlers_come_back() -> None:
    assert {signal.SIGTERM, signal.SIGUSR1} == set(SIGNALS)
    for number in SIGNALS:
        before = signal.getsignal(number)
        with stop_requests() as requested:
            assert not requested.is_set()
            os.kill(os.getpid(), number)
            assert requested.wait(1)
        assert signal.getsignal(number) == before


def test_in_another_thread_nothing_is_caught() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with stop_requests() as requested:
            seen.append((requested.is_set(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
