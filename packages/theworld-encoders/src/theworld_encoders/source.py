"""What features are made of: a picture's file or its bytes, a video file, or pixels; each has a digest."""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from theworld_encoders.images import decode_image, load_image, regular_file
from theworld_encoders.preprocess import Item, to_frames
from theworld_encoders.video import read_video

blake2b = partial(hashlib.blake2b, digest_size=16)


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A clip on disk, and how many even frames are taken of it."""

    path: Path
    num_frames: int


Source = Any
"""The path of a picture, the bytes of its file, a ``VideoFile``, or an ``Item`` in memory."""


def load_source(source: Source) -> Item:
    """The picture or clip, decoded.

    Raises:
        MediaError: the file cannot be read.
    """
    if isinstance(source, bytes):
        return decode_image(source)
    if isinstance(source, VideoFile):
        return read_video(source.path, source.num_frames).frames
    return load_image(source) if isinstance(source, str | Path) else source


def source_digest(source: Source) -> bytes:
    """A digest of a file's bytes, or of the RGB frames that ``preprocess`` would start from; nothing is decoded.

    So one picture has two digests, as a file and in memory: the file need not be decoded to know it. A file's bytes
    have the file's.

    Raises:
        MediaError: there is no such file, or the item is no picture or clip.
    """
    if isinstance(source, VideoFile):
        return _file_digest(source.path, "video", f"video, {source.num_frames} frames")
    if isinstance(source, str | Path):
        return _file_digest(Path(source), "picture", "picture")
    if isinstance(source, bytes):
        return _digest("picture", blake2b(source).digest())
    digest = blake2b(b"RGB")
    for frame in to_frames(source):
        digest.update(f"{frame.width} x {frame.height}".encode() + frame.tobytes())
    return digest.digest()


def _file_digest(path: Path, kind: str, use: str) -> bytes:
    with regular_file(path, kind).open("rb") as file:
        content = hashlib.file_digest(file, blake2b).digest()
    return _digest(use, content)


def _digest(use: str, content: bytes) -> bytes:
    return blake2b(use.encode() + content).digest()
