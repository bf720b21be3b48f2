"""Work in other processes: results and errors come back, and progress reaches the bars."""

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from theworld_train.jobs import Jobs

MODULE = """
import os
import torch

def squares(report, numbers, *, fail=False):
    for done, _ in enumerate(numbers, start=1):
        report(done, len(numbers), "squaring")
    if fail:
        raise ValueError("this one fails")
    return [number * number for number in numbers], os.getpid(), torch.get_num_threads()

class PickyError(Exception):
    def __init__(self, one, *, other):
        super().__init__(f"{one} and {other}")

def fail_with_arguments(report):
    raise PickyError("this", other="that")

def unsendable(report):
    return lambda: None

def wait(report, folder, *, politely=False):
    import pathlib, signal, time
    asked = []
    if politely:
        signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    (pathlib.Path(folder) / "begun").write_text(str(os.getpid()))
    while not asked:
        time.sleep(0.05)
    (pathlib.Path(folder) / "saved").write_text("")

def end(report, folder, how):
    import pathlib, time
    while not (pathlib.Path(folder) / "begun").exists():
        time.sleep(0.05)
    if how == "fail":
        raise ValueError("this one fails")
    os.kill(os.getpid(), 9)

def parent():
    from theworld_train.jobs import Jobs
    with Jobs(1) as jobs:
        print(jobs.submit("first", squares, [2]).result()[1], flush=True)
        os.kill(os.getpid(), 9)

if __name__ == "__main__":
    parent()
"""


@pytest.fixture
def squares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Work that other processes can import; they look where this one does."""
    (tmp_path / "work_for_jobs.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("work_for_jobs").squares


def test_results_come_back_from_other_processes_with_one_thread(squares: Callable) -> None:
    with Jobs(2) as jobs:
        first, second = jobs.submit("first", squares, [1, 2, 3]), jobs.submit("second", squares, [4])
        (results, process, threads), (others, _, _) = first.result(), second.result()
    assert (results, others) == ([1, 4, 9], [16])
    assert process != os.getpid()
    assert threads == 1


def test_progress_and_errors_come_back(squares: Callable) -> None:
    with pytest.raises(ValueError, match="this one fails"), Jobs(1) as jobs:
        jobs.submit("failing", squares, [1, 2], fail=True).result()
    with Jobs(1) as jobs:
        jobs.submit("first", squares, [1, 2, 3]).result()
    [task] = jobs._bars.tasks
    assert (task.description, task.completed, task.total, task.fields["note"]) == ("first", 3, 3, "squaring")


def test_what_cannot_travel_is_told_in_words(squares: Callable) -> None:
    work = importlib.import_module("work_for_jobs")
    with Jobs(1) as jobs:
        with pytest.raises(RuntimeError, match="PickyError: this and that"):
            jobs.submit("failing", work.fail_with_arguments).result()
        with pytest.raises(Exception, match="pickle"):
            jobs.submit("sending", work.unsendable).result()
        with pytest.raises(Exception, match="pickle"):
            jobs.submit("taking", lambda report: None).result()
        assert jobs.submit("after them", squares, [3]).result()[0] == [9]


def test_a_process_that_died_breaks_its_own_work_alone(squares: Callable, tmp_path: Path) -> None:
    work = importlib.import_module("work_for_jobs")
    (tmp_path / "begun").touch()
    with Jobs(1) as jobs:
        with pytest.raises(BrokenProcessPool, match="exit code -9"):
            jobs.submit("short", work.end, str(tmp_path), "die").result()
        assert jobs.submit("after it", squares, [3]).result()[0] == [9]


@pytest.mark.parametrize("politely", [False, True])
@pytest.mark.parametrize(("how", "error"), [("fail", ValueError), ("die", BrokenProcessPool)])
def test_an_error_ends_what_goes_on_beside_it_which_may_save_first(
    squares: Callable, tmp_path: Path, how: str, error: type[Exception], politely: bool
) -> None:
    work = importlib.import_module("work_for_jobs")
    begun = time.monotonic()
    with pytest.raises(error), Jobs(2) as jobs:  # noqa: PT012
        jobs.submit("long", work.wait, str(tmp_path), politely=politely)
        jobs.submit("short", work.end, str(tmp_path), how).result()
    assert time.monotonic() - begun < 60
    assert not is_running(int((tmp_path / "begun").read_text()))
    assert (tmp_path / "saved").exists() is politely


def test_no_process_outlives_a_parent_that_was_killed(squares: Callable, tmp_path: Path) -> None:
    script = str(tmp_path / "work_for_jobs.py")
    killed = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=120)
    child = next(int(line) for line in killed.stdout.splitlines() if line.isdigit())
    for _ in range(100):
        if not is_running(child):
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} still runs 10 s after its parent was killed")


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    return not (state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z")  # ended, if not yet reaped
