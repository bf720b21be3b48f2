"""Folders that a command writes into: made, seen to be writable, and kept from other processes."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from theworld_train.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows has none, and no other way that ends with the process and is not inherited
    fcntl = None

LOCK = ".lock"


def make_folder(out: Path) -> None:
    """Make a folder if need be, and see that files can be made in it: before the work, not after.

    Raises:
        UsageError: they cannot.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise unwritable(out, error) from error


def unwritable(out: Path, error: OSError) -> UsageError:
    """What is said of a folder where writing failed."""
    return UsageError(f"the folder {out} cannot be written ({error.strerror}). Give another one, with --out.")


@contextmanager
def kept_alone(out: Path) -> Iterator[None]:
    """Keep other processes from working in a folder, made if need be, for as long as this one lives.

    A launcher may be dead and what it started not. Two that write into one folder would leave neither's results.

    Raises:
        UsageError: another process works there, or the folder cannot be written.
    """
    make_folder(out)
    try:
        lock = (out / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise unwritable(out, error) from error
    with lock:
        if fcntl is not None:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of the process: what it forks does not keep it
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    lock.seek(0)
                    raise UsageError(
                        f"process {lock.read().strip() or 'another'} works in {out}. Wait for it or end it, or give "
                        "another folder, with --out."
                    ) from error
                # A file system without locks: nobody can tell.
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
