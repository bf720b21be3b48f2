"""What features are made of: a picture file, a video file, or pixels in memory; each has a digest of its content."""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from theworld_encoders.images import load_image, regular_file
from theworld_encoders.preprocess import Item, to_frames
from theworld_encoders.video import read_video

blake2b = partial(hashlib.blake2b, digest_size=16)


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A clip on disk, and how many even frames are taken of it."""

    path: Path
    num_frames: int


Source = Any
"""The path of a picture, a ``VideoFile``, or an ``Item`` in memory."""


def load_source(source: Source) -> Item:
    """The picture or clip, decoded.

    Raises:
        MediaError: the file cannot be read.
    """
    if isinstance(source, VideoFile):
        return read_video(source.path, source.num_frames).frames
    return load_image(source) if isinstance(source, str | Path) else source


def source_digest(source: Source) -> bytes:
    """A digest of a file's bytes, or of the RGB frames that ``preprocess`` would start from; nothing is decoded.

    So one picture has two digests, as a file and in memory: the file need not be decoded to know it.

    Raises:
        MediaError: there is no such file, or the item is no picture or clip.
    """
    if isinstance(source, VideoFile):
        return _file_digest(source.path, "video", f"video, {source.num_frames} frames")
    if isinstance(source, str | Path):
        return _file_digest(Path(source), "picture", "picture")
    digest = blake2b(b"RGB")
    for frame in to_frames(source):
        digest.update(f"{frame.width} x {frame.height}".encode() + frame.tobytes())
    return digest.digest()


def _file_digest(path: Path, kind: str, use: str) -> bytes:
    with regular_file(path, kind).open("rb") as file:
        content = hashlib.file_digest(file, blake2b).digest()
    return blake2b(use.encode() + content).digest()
