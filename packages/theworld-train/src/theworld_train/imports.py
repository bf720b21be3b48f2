"""Imports of large libraries, which take half as long where Python does not look for garbage in them."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept() -> Iterator[None]:
    """For imports and nothing else: what they make stays until the process ends, and is never looked through.

    Torch, transformers and what those import make half a million objects. Python would look through them for garbage
    again and again while they become more, and once more at the process's end.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
