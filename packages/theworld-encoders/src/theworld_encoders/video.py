"""Reads evenly spaced frames of a clip with PyAV, counting the true frames first: headers lie about their number."""

import math
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from theworld_encoders.errors import MediaError
from theworld_encoders.images import regular_file

if TYPE_CHECKING:
    import av.container

# FFmpeg's readers of text: one draws it as pictures, the other takes it as a list of further files to open.
_TEXT_FORMATS = ("tty", "concat")

# (a, b, c, d) of a display matrix, x' = ax + cy and y' = bx + dy with y downwards, and Pillow's name for that turn.
_TURNS = {
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


@dataclass(frozen=True, kw_only=True)
class VideoFrames:
    """Frames of one clip in presentation order; the first three fields are parallel.

    Attributes:
        frames: upright RGB pictures, in stored pixels (a non-square pixel aspect is not stretched).
        indices: which frames of the file they are, counted from 0.
        timestamps: seconds from the clip's first frame, by presentation timestamps.
        total: frames in the file, as decoded.
    """

    frames: list[Image.Image]
    indices: tuple[int, ...]
    timestamps: tuple[float, ...]
    total: int


def even_indices(total: int, count: int) -> tuple[int, ...]:
    """`count` indices spread evenly over `range(total)`, strictly increasing, first and last included.

    All of them where `total <= count`; the first alone where `count` is 1; none where either is 0.
    """
    if total <= count:
        return tuple(range(total))
    steps = max(count - 1, 1)
    return tuple((2 * i * (total - 1) + steps) // (2 * steps) for i in range(count))  # rounds halves up


def read_video(path: str | Path, num_frames: int) -> VideoFrames:
    """Decode `num_frames` evenly spaced frames of a clip, or all of them if it has fewer.

    The whole clip is decoded twice, to count and then to pick, so memory holds only the frames asked for.

    Raises:
        MediaError: `num_frames` is below 1, PyAV is not installed, there is no such file, or it is no video, has no
            moving-picture stream or no frame, or is damaged anywhere.
    """
    if num_frames < 1:
        raise MediaError(f"{num_frames} frames of the video {str(path)!r} were asked for. Ask for 1 or more.")
    path = regular_file(path, "video")
    total = _scan(path, wanted=()).total
    if total == 0:
        raise MediaError(f"The video {str(path)!r} has no frame that can be decoded. Fetch or encode it again.")
    found = _scan(path, wanted=even_indices(total, num_frames))
    if found.total != total:
        raise MediaError(f"The video {str(path)!r} had {total} frames and then {found.total}. Read it once written.")
    return found


def _scan(path: Path, wanted: Collection[int]) -> VideoFrames:
    """Decode the clip from end to end, converting and keeping only the frames whose index is wanted."""
    try:
        import av.error
    except ImportError as error:
        raise MediaError(
            f'Reading the video {str(path)!r} needs PyAV ({error}). Run: pip install "theworld-encoders[video]"'
        ) from error
    count, start = 0, 0.0
    frames: list[Image.Image] = []
    timestamps: list[float] = []
    try:
        # An absolute path, because "a:b.mp4" is read as a protocol; "replace", because titles may not be UTF-8.
        with av.open(str(path.absolute()), metadata_errors="replace") as container:
            stream = _moving_stream(container, path)
            for packet in container.demux(stream):
                decoded = [] if packet.is_corrupt else packet.decode()
                if packet.is_corrupt or any(frame.is_corrupt for frame in decoded):
                    raise _damaged(path, count, "what follows is marked as corrupt")
                for frame in decoded:
                    seconds = _seconds(frame, count, stream)
                    start = seconds if count == 0 else start
                    if count in wanted:
                        frames.append(_picture(frame))
                        timestamps.append(seconds - start)
                    count += 1
    except av.error.FFmpegError as error:
        raise _damaged(path, count, error.strerror) from error
    return VideoFrames(frames=frames, indices=tuple(wanted), timestamps=tuple(timestamps), total=count)


def _damaged(path: Path, count: int, reason: str | None) -> MediaError:
    what = f"breaks off after {count} frames" if count else "is not a video that FFmpeg can decode"
    return MediaError(f"The file {str(path)!r} {what} ({reason}). Fetch it again, or encode it anew as MP4.")


def _moving_stream(container: "av.container.InputContainer", path: Path) -> "av.VideoStream":
    """The video stream with the most frames by its header (an animated AVIF lists its still first), covers left out."""
    import av.stream

    if container.format.name in _TEXT_FORMATS:
        raise MediaError(f"The file {str(path)!r} is text, not a video. Check the path.")
    cover = av.stream.Disposition.attached_pic
    moving = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not moving:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
        raise MediaError(f"The file {str(path)!r} holds no moving pictures (its streams: {kinds}). Give a video.")
    stream = max(moving, key=lambda stream: stream.frames)
    if stream.codec_context is None:  # PyAV before 18.1 crashes on it
        raise MediaError(f"FFmpeg has no decoder for the video {str(path)!r}. Encode it anew as MP4.")
    return stream


def _seconds(frame: "av.VideoFrame", index: int, stream: "av.VideoStream") -> float:
    """When to show the frame; a bare stream has no timestamps, and FFmpeg's guess of its rate serves instead."""
    if frame.pts is not None:
        return frame.time
    return float(index / (stream.guessed_rate or 25))


def _picture(frame: "av.VideoFrame") -> Image.Image:
    """The frame in RGB, turned as its display matrix says (phones film sideways and note the turn)."""
    image = frame.to_image()
    try:
        side_data = frame.side_data.get("DISPLAYMATRIX")
        matrix = (65536, 0, 0, 0, 65536) if side_data is None else struct.unpack_from("=5i", bytes(side_data))
    except ValueError:  # PyAV gives up where there is any side data that it has no name for, such as EXIF
        cosine, sine = math.cos(math.radians(frame.rotation)), math.sin(math.radians(frame.rotation))
        matrix = (cosine, -sine, 0, sine, cosine)
    a, b, _, c, d = matrix
    largest = max(abs(a), abs(b), abs(c), abs(d)) or 1
    turn = _TURNS.get((round(a / largest), round(b / largest), round(c / largest), round(d / largest)))
    return image if turn is None else image.transpose(turn)
