"""The folder of a run: whose it is, and what it starts with."""

import difflib
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from theworld_train.checkpoints import check_content, newest, replace_text
from theworld_train.errors import UsageError
from theworld_train.pair import make_tiny_pair
from theworld_train.recipe import Recipe
from theworld_train.recipe_checks import TINY
from theworld_train.recipe_file import dump_recipe
from theworld_train.trainer import check_processes

try:
    import fcntl
except ImportError:  # Windows has none, and no other way that ends with the process and is not inherited
    fcntl = None

RECIPE, PARTS, SAMPLES = "recipe.yaml", "parts.json", "samples.jsonl"


_LOCK = ".lock"


@contextmanager
def kept_alone(out: Path) -> Iterator[None]:
    """Keep other processes from training in a run's folder, made if need be, for as long as this one lives.

    A launcher may be dead and what it started not. Two that write into one folder would leave neither's results.

    Raises:
        UsageError: another process trains there, or the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / _LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise _unwritable(out, error) from error
    with lock:
        if fcntl is not None:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of the process: what it forks does not keep it
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    lock.seek(0)
                    raise UsageError(
                        f"process {lock.read().strip() or 'another'} trains in {out}. Wait for it or end it, or give "
                        "another folder (--out)."
                    ) from error
                # A file system without locks: nobody can tell.
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def prepare(recipe: Recipe, out: Path, *, resume: bool, processes: int = 1, sharded: bool = False) -> None:
    """Make the folder of a new run, or see that the run to be resumed is the one in it.

    Args:
        processes, sharded: how many take part, and whether weights are dealt out over them.

    Raises:
        UsageError: a run is there and is not to be resumed, or the other way round, or it has another recipe or other
            processes.
    """
    text, file = dump_recipe(recipe), out / RECIPE
    if resume:
        if not file.is_file():
            raise UsageError(f"{out} holds no run to resume: it has no {RECIPE}. Leave --resume out to start one.")
        if (before := file.read_text(encoding="utf-8")) != text:
            lines = [line for line in difflib.ndiff(before.splitlines(), text.splitlines()) if line[0] in "+-"]
            raise UsageError(
                f"{out} holds a run of another recipe: {'; '.join(' '.join(line.split()) for line in lines[:2])}. "
                f"Resume it with its own, {file}, or start a new run in another folder, with model.init_from."
            )
        if last := newest(out):
            check_content(last[1])
            check_processes(last[1], processes, sharded=sharded)
    elif any(out.glob("checkpoint-*")):  # one that failed before its first has nothing to lose
        raise UsageError(
            f"{out} holds a run already. Go on with it (--resume), or start a new one in another folder (--out)."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not resume:
            shutil.rmtree(out / TINY, ignore_errors=True)
        if recipe.model.vlm == TINY:
            make_tiny_pair(out, recipe.seed)
        if not resume:
            replace_text(file, text)
    except OSError as error:
        raise _unwritable(out, error) from error


def _unwritable(out: Path, error: OSError) -> UsageError:
    return UsageError(f"the folder {out} cannot be written ({error.strerror}). Give another one (--out).")
