"""The command: answers on real files, and one clear line for each thing a user can get wrong."""

import json
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from theworld_encoders import list_controls, list_encoders
from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor, save_adapter
from theworld_fusion.testing import make_tiny_checkpoint, random_picture
from theworld_train.checkpoints import commit, writing

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]
Run = Callable[..., Any]


def film(path: Path, frames: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for index in range(frames):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), index, np.uint8), format="rgb24"))
            )
        container.mux(stream.encode(None))
    return path


def sound(path: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(8000))
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def cut(path: Path) -> Path:
    return written(path, path.read_bytes()[:900])


def photo(path: Path) -> Path:
    random_picture(0, (200, 150)).save(path)
    return path


def test_a_picture(theworld: Run, checkpoint: Path, tmp_path: Path) -> None:
    result = theworld(
        "answer", "--model", checkpoint, "--image", photo(tmp_path / "a.jpg"), "What is it?", "--max-new-tokens", 5
    )
    assert result.code == 0, result.err
    assert "Traceback" not in result.err


def test_a_clip_says_which_frames_it_took(theworld: Run, checkpoint: Path, tmp_path: Path) -> None:
    clip = film(tmp_path / "a.mp4", 33)
    result = theworld("answer", "--model", checkpoint, "--video", clip, "What next?", "--max-new-tokens", 5)
    assert result.code == 0, result.err
    assert f"{clip}: 9 of 33 frames: 0, 4, 8, 12, 16, 20, 24, 28, 32 (at 0.00, 0.40," in result.err
    off = theworld("answer", "--model", checkpoint, "--video", clip, "What next?", "--no-world", "--frames", 3)
    assert off.code == 0, off.err
    assert "3 of 33 frames: 0, 16, 32" in off.err
    assert "only the last one is seen" in off.err


def test_an_adapter(theworld: Run, build: Callable[[], Pair], tmp_path: Path) -> None:
    model, _ = build()
    save_adapter(model.requires_grad_(False), tmp_path / "adapter")
    clip = film(tmp_path / "a.mp4", 33)
    result = theworld("answer", "--model", tmp_path / "adapter", "--video", clip, "What next?", "--max-new-tokens", 5)
    assert result.code == 0, result.err
    assert "9 of 33 frames" in result.err


def test_an_untrained_pair(theworld: Run, tmp_path: Path) -> None:
    vlm, world = make_tiny_checkpoint(tmp_path)
    arguments = [
        "--vlm",
        vlm,
        "--world",
        world,
        "--image",
        photo(tmp_path / "a.jpg"),
        "What is it?",
        "--max-new-tokens",
        2,
    ]
    result = theworld("answer", *arguments)
    assert result.code == 0, result.err
    assert "untrained" in result.err
    unknown = theworld("answer", *arguments, "--encoder", "cosmos")
    assert unknown.code == 2
    assert_one_line(unknown.err, "no encoder called 'cosmos'. Known encoders: ")


MEDIA: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "a missing picture": ("--image", lambda folder: folder / "no.jpg"),
    "a text file called .jpg": ("--image", lambda folder: written(folder / "a.jpg", b"hello")),
    "a truncated JPEG": ("--image", lambda folder: cut(photo(folder / "a.jpg"))),
    "a missing video": ("--video", lambda folder: folder / "no.mp4"),
    "an empty video": ("--video", lambda folder: written(folder / "a.mp4", b"")),
    "a one-frame video": ("--video", lambda folder: film(folder / "a.mp4", 1)),
    "an audio-only file": ("--video", lambda folder: sound(folder / "a.wav")),
    "a text file called .mp4": ("--video", lambda folder: written(folder / "a.mp4", b"hello" * 100)),
}


def assert_one_line(stderr: str, *parts: str) -> None:
    assert len(stderr.strip().splitlines()) == 1, stderr
    assert stderr.startswith("theworld: ")
    for part in parts:
        assert part in stderr


@pytest.mark.parametrize("case", MEDIA)
def test_bad_media(theworld: Run, checkpoint: Path, tmp_path: Path, case: str) -> None:
    option, make = MEDIA[case]
    path = make(tmp_path)
    result = theworld("answer", "--model", checkpoint, option, path, "What is it?")
    assert result.code == 2
    assert_one_line(result.err, path.name)
    assert not result.out


def test_bad_arguments(theworld: Run, checkpoint: Path, tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.jpg")
    cases = {
        ("--model", checkpoint, "--image", picture, "  "): "the question is empty",
        ("--model", checkpoint, "What?"): "nothing to look at",
        ("--image", picture, "What?"): "give either --model",
        ("--model", tmp_path, "--image", picture, "What?"): f"{tmp_path} is no checkpoint",
        ("--model", tmp_path / "nowhere", "--image", picture, "What?"): "nowhere is no checkpoint",
    }
    for arguments, message in cases.items():
        result = theworld("answer", *arguments)
        assert result.code == 2, arguments
        assert_one_line(result.err, message)


def test_a_report_folder_that_cannot_be_made(theworld: Run, tmp_path: Path) -> None:
    result = theworld("demo", "--out", written(tmp_path / "file", b"") / "report")
    assert result.code == 2
    assert_one_line(result.err, "report cannot be written (Not a directory). Give another one, with --out.")


def test_debug_shows_the_traceback(checkpoint: Path) -> None:
    arguments = ["answer", "--model", str(checkpoint), "--image", "no.jpg", "What?", "--debug"]
    command = [sys.executable, "-c", "from theworld_train.cli import main; main()", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "Traceback" in result.stderr
    assert "no.jpg" in result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["answer", "--help"], ["demo", "--help"], ["encoders", "--help"]])
def test_help(theworld: Run, arguments: list[str]) -> None:
    result = theworld(*arguments)
    assert result.code == 0
    assert "Usage" in result.out
    assert len(result.out.splitlines()) > 8


def test_encoders(theworld: Run) -> None:
    result = theworld("encoders")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].split() == ["encoder", "width", "strides", "image", "clip", "params", "memory", "licence"]
    [cosmos] = [line.split() for line in lines if line.startswith("cosmos-predict2-vae")]
    row = "cosmos-predict2-vae 16 8 px, 4 fr 784 2,352 53.6 M 107 MB NVIDIA Open Model License, gated"
    assert " ".join(cosmos) == row
    for name in (*list_encoders(), *list_controls()):
        assert sum(line.split()[:1] == [name] for line in lines) == 1


def test_encoders_as_json(theworld: Run) -> None:
    result = theworld("encoders", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert [one["name"] for one in found["encoders"]] == list_encoders()
    assert list(found["controls"]) == list_controls()
    [cosmos] = [one for one in found["encoders"] if one["name"] == "cosmos-predict2-vae"]
    assert (cosmos["kind"], cosmos["frame_size"], cosmos["gated"]) == ("world", 224, True)
    assert (cosmos["image_tokens"], cosmos["clip_tokens"]) == (784, 3 * 784)
    assert (cosmos["parameters"], cosmos["megabytes_bfloat16"]) == (53_596_928, 107.193856)


def test_an_encoder_whose_library_is_missing_has_a_dash(theworld: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers.models.autoencoders", None)
    result = theworld("encoders")
    assert result.code == 0, result.err
    [cosmos] = [line.split() for line in result.out.splitlines() if line.startswith("cosmos-predict2-vae")]
    assert cosmos[8:10] == ["-", "-"]


def test_a_broken_plugin_is_named_after_the_others(
    theworld: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acme-1.2.dist-info").mkdir()
    (tmp_path / "acme-1.2.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.2\n")
    (tmp_path / "acme-1.2.dist-info/entry_points.txt").write_text("[theworld.encoders]\nown = acme_nothing:Own\n")
    monkeypatch.syspath_prepend(tmp_path)
    result = theworld("encoders")
    assert result.code == 2
    assert "cosmos-predict2-vae" in result.out
    assert_one_line(result.err, "acme_nothing:Own of acme 1.2, the encoder 'own', cannot be imported")
    unknown = theworld("encoders", "--jsn")
    assert unknown.code == 2
    assert "--jsn" in unknown.err


def test_a_runs_folder_gives_its_newest_checkpoint(theworld: Run, build: Callable[[], Pair], tmp_path: Path) -> None:
    model, _ = build()
    with writing(tmp_path / "run") as folder:
        save_adapter(model.requires_grad_(False), folder)
        commit(folder, tmp_path / "run", 3, 1)
    random_picture(1).save(tmp_path / "photo.png")
    ask = ("--image", tmp_path / "photo.png", "What?", "--max-new-tokens", 5)
    said = [theworld("answer", "--model", path, *ask) for path in (tmp_path / "run", tmp_path / "run" / "checkpoint-3")]
    assert [one.code for one in said] == [0, 0]
    assert said[0].out == said[1].out
