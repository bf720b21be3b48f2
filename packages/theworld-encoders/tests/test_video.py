"""`read_video` and `even_indices`, on clips made here: frame k is grey at level 8k, so a picture tells its index."""

import logging
import re
import struct
import sys
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from PIL import Image

from theworld_encoders import video
from theworld_encoders.errors import MediaError
from theworld_encoders.video import VideoFrames, even_indices, read_video

STEP = 8
UNTURNED = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)


def grey(k: int, size: tuple[int, int] = (32, 16)) -> Image.Image:
    return Image.new("RGB", size, (STEP * k,) * 3)


def write_clip(
    path: Path,
    pictures: list[Image.Image],
    codec: str = "libx264",
    pixels: str = "yuv420p",
    ticks: list[int] | None = None,  # when to show each frame, in tenths of a second
    options: dict[str, str] | None = None,
) -> Path:
    header_first = {"movflags": "faststart"} if path.suffix == ".mp4" else {}  # a cut file is a file cut in its frames
    with av.open(str(path), "w", container_options=header_first) as container:
        stream = cast(av.VideoStream, container.add_stream(codec, rate=10, options=options or {}))
        stream.width, stream.height = pictures[0].size if pictures else (32, 16)
        stream.pix_fmt = pixels
        stream.codec_context.time_base = Fraction(1, 10)
        for k, picture in enumerate(pictures):
            frame = av.VideoFrame.from_image(picture)
            frame.time_base = Fraction(1, 10)
            frame.pts = ticks[k] if ticks else k
            container.mux(stream.encode(frame))
        if not pictures:
            container.start_encoding()
        container.mux(stream.encode(None))
    return path


def write_greys(path: Path, count: int, **how) -> Path:
    return write_clip(path, [grey(k) for k in range(count)], **how)


def write_noise(path: Path, count: int, **how) -> Path:
    """A clip with enough bytes per frame to damage."""
    noise = np.random.default_rng(0).integers(0, 256, (count, 32, 48, 3), dtype=np.uint8)
    return write_clip(path, [Image.fromarray(picture) for picture in noise], **how)


def write_sound(path: Path, codec: str, title: str = "sound") -> Path:
    with av.open(str(path), "w", metadata_encoding="latin-1") as container:
        container.metadata["title"] = title
        stream = cast(av.AudioStream, container.add_stream(codec, rate=16000, layout="mono"))
        for _ in range(3):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound_with_cover(path: Path) -> Path:
    """An MP3 whose cover picture FFmpeg presents as a video stream of one frame (an ID3 tag, written by hand)."""
    cover = BytesIO()
    grey(9).save(cover, "JPEG")
    body = b"\0image/jpeg\0\x03\0" + cover.getvalue()
    tag = b"APIC" + struct.pack(">I", len(body)) + b"\0\0" + body
    size = bytes((len(tag) >> shift) & 127 for shift in (21, 14, 7, 0))
    sound = write_sound(path, "libmp3lame").read_bytes()
    path.write_bytes(b"ID3\x03\0\0" + size + tag + sound)
    return path


def patch(path: Path, position: int, new: bytes) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:position] + new + data[position + len(new) :])


def levels(clip: VideoFrames) -> tuple[int, ...]:
    """The index that each picture shows, at its centre."""
    return tuple(round(np.asarray(p)[p.height // 2, p.width // 2].mean() / STEP) for p in clip.frames)


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [
        (10, 4, (0, 3, 6, 9)),
        (250, 5, (0, 62, 125, 187, 249)),
        (10, 9, (0, 1, 2, 3, 5, 6, 7, 8, 9)),
        (10, 2, (0, 9)),
        (10, 1, (0,)),
        (3, 3, (0, 1, 2)),
        (3, 8, (0, 1, 2)),
        (1, 1, (0,)),
        (0, 4, ()),
        (4, 0, ()),
    ],
)
def test_even_indices(total: int, count: int, expected: tuple[int, ...]) -> None:
    assert even_indices(total, count) == expected


@pytest.mark.parametrize("count", range(2, 60))
def test_even_indices_increase_strictly_between_first_and_last(count: int) -> None:
    for total in range(count, 130):
        indices = even_indices(total, count)
        gaps = np.diff(indices)
        assert (indices[0], indices[-1], len(indices)) == (0, total - 1, count)
        assert gaps.min() >= 1
        assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("b-frames.mp4", {"options": {"bf": "3"}}),
        ("b-frames.avi", {"options": {"bf": "3"}}),
        ("starts later than 0.ts", {"options": {"bf": "3"}}),
        ("mpeg4.mp4", {"codec": "mpeg4"}),
        ("named 12:30 ünï %d.mkv", {"codec": "ffv1"}),
        ("grey.mkv", {"codec": "ffv1", "pixels": "gray"}),
        ("ten bits.mkv", {"codec": "ffv1", "pixels": "yuv420p10le"}),
        ("sixteen bits.mkv", {"codec": "ffv1", "pixels": "gray16le"}),
        ("no timestamps.h264", {"options": {"r": "10"}}),
        ("animation.gif", {"codec": "gif", "pixels": "gray"}),
    ],
)
@pytest.mark.parametrize(("num_frames", "expected"), [(5, (0, 6, 12, 18, 24)), (1, (0,)), (99, tuple(range(25)))])
def test_indices_are_the_true_frames(tmp_path: Path, name: str, how: dict, num_frames: int, expected: tuple) -> None:
    clip = read_video(write_greys(tmp_path / name, 25, **how), num_frames)
    assert clip.indices == expected
    assert levels(clip) == expected
    assert clip.total == 25
    assert {(picture.mode, picture.size) for picture in clip.frames} == {("RGB", (32, 16))}
    assert clip.timestamps == pytest.approx([k / 10 for k in expected], abs=1e-3)


def test_relative_path_with_a_colon_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_greys(tmp_path / "12:30.mp4", 3)
    monkeypatch.chdir(tmp_path)
    assert read_video("12:30.mp4", 2).indices == (0, 2)


def test_timestamps_of_a_variable_frame_rate(tmp_path: Path) -> None:
    clip = read_video(write_greys(tmp_path / "uneven.mkv", 5, codec="ffv1", ticks=[3, 4, 8, 9, 30]), 5)
    assert clip.timestamps == pytest.approx([0.0, 0.1, 0.5, 0.6, 2.7])
    assert levels(clip) == (0, 1, 2, 3, 4)


def test_one_frame(tmp_path: Path) -> None:
    clip = read_video(write_greys(tmp_path / "one.mp4", 1), 8)
    assert (clip.total, clip.indices, clip.timestamps, len(clip.frames)) == (1, (0,), (0.0,), 1)


@pytest.mark.parametrize("size", [(33, 17), (1, 1), (16, 41)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    pictures = [grey(k, size) for k in range(3)]
    clip = read_video(write_clip(tmp_path / "odd.mkv", pictures, codec="ffv1", pixels="yuv444p"), 3)
    assert [picture.size for picture in clip.frames] == [size] * 3
    assert levels(clip) == (0, 1, 2)


def test_frame_count_is_not_taken_from_the_header(tmp_path: Path) -> None:
    path = write_greys(tmp_path / "liar.avi", 20, codec="mpeg4")
    patch(path, path.read_bytes().index(b"strh") + 40, struct.pack("<I", 7))
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 7
    clip = read_video(path, 3)
    assert (clip.total, clip.indices, levels(clip)) == (20, (0, 10, 19), (0, 10, 19))


def test_frames_outside_the_edit_list_are_left_out(tmp_path: Path) -> None:
    path = write_greys(tmp_path / "edited.mp4", 20, codec="mpeg4", options={"g": "1"})
    with av.open(str(path)) as container:
        time_base = container.streams.video[0].time_base
        assert time_base is not None
    entry = path.read_bytes().index(b"elst") + 12  # after version and entry count: duration in ms, then media time
    patch(path, entry, struct.pack(">Ii", 1000, int(0.5 / time_base)))
    clip = read_video(path, 3)
    assert (clip.total, levels(clip)) == (10, (5, 10, 14))
    assert clip.timestamps == pytest.approx([0.0, 0.5, 0.9])


@pytest.mark.parametrize(
    ("matrix", "turn"),  # (a, b, c, d): x' = ax + cy, y' = bx + dy, y downwards; (0, 1, -1, 0) is a phone held upright
    [
        ((1, 0, 0, 1), None),
        ((0, 1, -1, 0), Image.Transpose.ROTATE_270),
        ((-1, 0, 0, -1), Image.Transpose.ROTATE_180),
        ((0, -1, 1, 0), Image.Transpose.ROTATE_90),
        ((-1, 0, 0, 1), Image.Transpose.FLIP_LEFT_RIGHT),
        ((1, 0, 0, -1), Image.Transpose.FLIP_TOP_BOTTOM),
        ((0, 1, 1, 0), Image.Transpose.TRANSPOSE),
        ((0, -1, -1, 0), Image.Transpose.TRANSVERSE),
        ((0, 0, 0, 0), None),
    ],
)
def test_display_matrix_is_applied(tmp_path: Path, matrix: tuple[int, ...], turn: Image.Transpose | None) -> None:
    stored = grey(0, (32, 16))
    stored.paste((200, 200, 200), (0, 0, 16, 8))  # one bright corner
    path = write_clip(tmp_path / "turned.mp4", [stored])
    a, b, c, d = (65536 * part for part in matrix)
    patch(path, path.read_bytes().index(UNTURNED, path.read_bytes().index(b"tkhd")), struct.pack(">5i", a, b, 0, c, d))
    (shown,) = read_video(path, 1).frames
    expected = stored if turn is None else stored.transpose(turn)
    assert shown.size == expected.size
    assert np.abs(np.asarray(shown, int) - np.asarray(expected, int)).mean() < 8


@pytest.mark.parametrize(("orientation", "turn"), [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_270)])
def test_picture_with_exif_as_a_clip(tmp_path: Path, orientation: int, turn: Image.Transpose) -> None:
    """EXIF is side data that PyAV may have no name for, and then its rotation serves."""
    stored = grey(0, (32, 16))
    stored.paste((200, 200, 200), (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photo.jpg", exif=exif)
    clip = read_video(tmp_path / "photo.jpg", 4)
    assert clip.total == 1
    assert np.abs(np.asarray(clip.frames[0], int) - np.asarray(stored.transpose(turn), int)).mean() < 8


def test_longest_stream_is_the_clip(tmp_path: Path) -> None:
    """An animated AVIF, for one, holds its still picture as a first stream."""
    with av.open(str(tmp_path / "two.mp4"), "w") as container:
        streams = [cast(av.VideoStream, container.add_stream("mpeg4", rate=10)) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for stream, shown in zip(streams, [(20,), range(6)], strict=True):
            for k in shown:
                container.mux(stream.encode(av.VideoFrame.from_image(grey(k))))
            container.mux(stream.encode(None))
    assert levels(read_video(tmp_path / "two.mp4", 3)) == (0, 3, 5)


def write_unknown_codec(path: Path) -> None:
    data = write_greys(path.with_suffix(".avi"), 3, codec="mpeg4").read_bytes()
    path.write_bytes(data.replace(b"FMP4", b"ZZZZ"))


def write_animated_webp(path: Path) -> None:
    grey(1).save(path, "WEBP", save_all=True, append_images=[grey(2)], lossless=True)


def write_list_of_files(path: Path) -> None:
    write_greys(path.with_name("other.mp4"), 3)
    path.write_text("ffconcat version 1.0\nfile other.mp4\n")


def write_long_text(path: Path) -> None:
    path.with_suffix(".txt").write_text("Some long story.\n" * 4000)
    path.symlink_to(path.with_suffix(".txt"))


@pytest.mark.parametrize(
    ("suffix", "make", "fact"),
    [
        (".mp4", lambda path: None, "cannot be opened (No such file or directory)"),
        (".mp4", Path.mkdir, "is a directory, not a video"),
        (".mp4", Path.touch, "is empty (0 bytes)"),
        (".mp4", write_long_text, "is not a video that FFmpeg can decode (Invalid data"),
        (".txt", lambda path: path.write_text("Some long story.\n" * 4000), "is text, not a video"),
        (".mp4", write_list_of_files, "is text, not a video"),
        (".wav", lambda path: write_sound(path, "pcm_s16le"), "holds no moving pictures (its streams: audio)"),
        (".wav", lambda path: write_sound(path, "pcm_s16le", "café"), "holds no moving pictures (its streams: audio)"),
        (".m4a", lambda path: write_sound(path, "aac"), "holds no moving pictures (its streams: audio)"),
        (".mp3", write_sound_with_cover, "holds no moving pictures (its streams: audio, video)"),
        (".avi", lambda path: write_greys(path, 0, codec="mpeg4"), "has no frame that can be decoded"),
        (".bin", write_unknown_codec, "FFmpeg has no decoder"),
        (".webp", write_animated_webp, "is not a video that FFmpeg can decode"),
    ],
)
def test_error_is_one_line_with_fact_and_remedy(
    tmp_path: Path, suffix: str, make, fact: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"new\nline{suffix}"
    make(path)
    with pytest.raises(MediaError) as caught:
        read_video(path, 4)
    message = str(caught.value)
    assert repr(str(path)) in message
    assert fact in message
    assert re.search(r"[.)] (Check|Give|Fetch|Encode) .*\.$", message)
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("num_frames", [0, -3])
def test_fewer_than_one_frame(tmp_path: Path, num_frames: int) -> None:
    with pytest.raises(MediaError, match=rf"^{num_frames} frames .*clip\.mp4.*Ask for 1 or more"):
        read_video(tmp_path / "clip.mp4", num_frames)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("zeroed.mp4", "libx264"), ("zeroed.mp4", "mpeg4"), ("cut.mp4", "libx264"), ("cut.mp4", "mpeg4")],
)
def test_damage_midway_names_the_frames_read(
    tmp_path: Path, name: str, codec: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_noise(tmp_path / "whole.mp4", 30, codec=codec, options={"g": "5"})
    data = path.read_bytes()
    half, tenth = len(data) // 2, len(data) // 10
    damaged = data[:half] if name == "cut.mp4" else data[:half] + bytes(tenth) + data[half + tenth :]
    (tmp_path / name).write_bytes(damaged)
    with pytest.raises(MediaError) as caught:
        read_video(tmp_path / name, 4)
    told = re.search(r"breaks off after (\d+) frames .*Fetch it again", str(caught.value))
    assert told, str(caught.value)
    assert 5 <= int(told[1]) <= 16
    assert capfd.readouterr() == ("", "")


def test_clip_that_changes_between_the_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = iter([8, 5])

    def scan(path: Path, wanted: object) -> VideoFrames:
        return VideoFrames(frames=[], indices=(), timestamps=(), total=next(lengths))

    write_greys(tmp_path / "growing.mp4", 3)
    monkeypatch.setattr(video, "_scan", scan)
    with pytest.raises(MediaError, match=r"growing\.mp4' had 8 frames and then 5"):
        read_video(tmp_path / "growing.mp4", 4)


def test_without_pyav_the_error_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_greys(tmp_path / "clip.mp4", 2)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MediaError, match=re.escape('pip install "theworld-encoders[video]"')):
        read_video(path, 2)


def test_logging_is_left_alone(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.lastResort)
    read_video(write_greys(tmp_path / "clip.mp4", 2), 2)
    assert (root.level, list(root.handlers), logging.lastResort) == before
