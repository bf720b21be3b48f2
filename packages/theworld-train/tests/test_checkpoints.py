"""A checkpoint is whole or not there; the newest whole one is found; a full disk costs no earlier one."""

import errno
import logging
import os
import shutil
from pathlib import Path

import pytest

from theworld_train import checkpoints as module
from theworld_train.checkpoints import check_content, checkpoints, commit, newest, replace_text, writing
from theworld_train.errors import UsageError


def write(run: Path, step: int, keep: int = 9) -> Path:
    with writing(run) as folder:
        (folder / "deep").mkdir(parents=True)
        (folder / "weights").write_text(f"of {step}")
        (folder / "deep" / "more").write_text("x" * step)
        return commit(folder, run, step, keep)


def test_written_is_found(tmp_path: Path) -> None:
    assert newest(tmp_path / "none") is newest(tmp_path) is None
    assert write(tmp_path, 9) == tmp_path / "checkpoint-9"
    write(tmp_path, 10)  # by number, not by name
    assert newest(tmp_path) == (10, tmp_path / "checkpoint-10")
    assert (tmp_path / "checkpoint-10" / "weights").read_text() == "of 10"
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-9", "checkpoint-10"}


def test_the_oldest_go(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        write(tmp_path, step, keep=2)
    assert [step for step, _ in checkpoints(tmp_path)] == [6, 8]
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-6", "checkpoint-8"}


@pytest.mark.parametrize("damage", ["weights", "deep/more", "contents.json"])
def test_one_that_is_not_whole_is_passed_over_and_written_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, 2)
    write(tmp_path, 4)
    file = tmp_path / "checkpoint-4" / damage
    os.truncate(file, file.stat().st_size - 1)
    with caplog.at_level(logging.WARNING):
        assert newest(tmp_path) == (2, tmp_path / "checkpoint-2")
    assert "checkpoint-4 is not whole" in caplog.text
    write(tmp_path, 4)
    assert newest(tmp_path) == (4, tmp_path / "checkpoint-4")


@pytest.mark.parametrize("function", ["fsync", "rename"])
def test_a_kill_at_any_call_leaves_a_whole_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """Dies at the n-th call of a function that changes the disk, for every n."""
    for number in range(1, 20):
        run = tmp_path / str(number)
        run.mkdir()
        write(run, 2)
        calls = iter(range(1, 100))

        def die(*arguments: object, number: int = number, calls: object = calls, real: object = getattr(os, function)):
            if next(calls) == number:  # pyright: ignore[reportCallIssue, reportArgumentType]
                raise KeyboardInterrupt
            return real(*arguments)  # pyright: ignore[reportCallIssue]

        with monkeypatch.context() as patched:
            patched.setattr(module.os, function, die)
            try:
                write(run, 4, keep=1)
            except KeyboardInterrupt:
                pass
            else:
                return
        found = newest(run)
        assert found is not None
        assert (found[1] / "weights").read_text() == f"of {found[0]}"
        write(run, 6, keep=1)  # what is left over is in nobody's way
        assert {path.name for path in run.iterdir()} == {"checkpoint-6"}
    pytest.fail("it was never written whole")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("write failed")])
def test_a_full_disk_keeps_what_there_is(tmp_path: Path, error: Exception) -> None:
    def fail() -> None:
        with writing(tmp_path) as folder:
            folder.mkdir()
            (folder / "weights").write_text("half")
            raise error

    write(tmp_path, 2)
    with pytest.raises(UsageError, match=r"cannot be written \(.*(device|failed)\); checkpoint-2 is the newest"):
        fail()
    assert newest(tmp_path) == (2, tmp_path / "checkpoint-2")
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-2"}
    shutil.rmtree(tmp_path / "checkpoint-2")
    with pytest.raises(UsageError, match="none is the newest"):
        fail()


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    folder = write(tmp_path, 4)
    check_content(folder)
    (folder / "deep" / "more").write_text("xxxy")  # as long as before
    assert newest(tmp_path) == (4, folder)
    with pytest.raises(
        UsageError, match=r"more is damaged: .* Remove .*checkpoint-4 to go on from the checkpoint before"
    ):
        check_content(folder)


@pytest.mark.parametrize("content", ["[]", "5", '{"weights": 3}', "null"])
def test_contents_of_another_kind_are_not_whole(tmp_path: Path, content: str) -> None:
    (write(tmp_path, 2) / "contents.json").write_text(content)
    assert newest(tmp_path) is None


def test_a_text_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "log"
    file.write_text("old")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        replace_text(file, "new")
    assert file.read_text() == "old"
    monkeypatch.undo()
    replace_text(file, "new")
    assert file.read_text() == "new"
