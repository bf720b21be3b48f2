"""`load_image` and `to_rgb`: what comes out for every kind of picture, and the one line that a bad file gives."""

import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from theworld_encoders.errors import MediaError
from theworld_encoders.images import decode_image, load_image, to_rgb


def gradient() -> Image.Image:
    """An RGB picture that no flip or turn leaves unchanged."""
    red, green = np.meshgrid(np.arange(0, 240, 10), np.arange(0, 160, 10))
    return Image.fromarray(np.stack([red, green, red // 2], axis=-1).astype(np.uint8))


def palette_with(transparency: int | bytes) -> Image.Image:
    picture = Image.new("P", (2, 2), 1)
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.info["transparency"] = transparency
    return picture


def deep(*values: int, dtype: str) -> Image.Image:
    return Image.fromarray(np.array([values], dtype=dtype))


@pytest.mark.parametrize(
    ("picture", "suffix", "first_pixel"),
    [
        (Image.new("1", (3, 3), 1), ".png", (255, 255, 255)),
        (Image.new("L", (3, 3), 90), ".png", (90, 90, 90)),
        (Image.new("LA", (3, 3), (90, 0)), ".png", (255, 255, 255)),
        (Image.new("LA", (3, 3), (90, 255)), ".png", (90, 90, 90)),
        (Image.new("RGBA", (3, 3), (10, 20, 30, 0)), ".png", (255, 255, 255)),
        (Image.new("RGBA", (3, 3), (10, 20, 30, 51)), ".png", (206, 208, 210)),
        (palette_with(0), ".png", (0, 255, 0)),
        (palette_with(1), ".png", (255, 255, 255)),
        (palette_with(b"\xff\x00"), ".png", (255, 255, 255)),
        (palette_with(1), ".gif", (255, 255, 255)),
        (Image.new("CMYK", (3, 3), (0, 255, 255, 0)), ".tif", (255, 0, 0)),
        (Image.new("RGB", (1, 1), (1, 2, 3)), ".bmp", (1, 2, 3)),
        (Image.new("RGB", (1, 1), (1, 2, 3)), ".ppm", (1, 2, 3)),
    ],
)
def test_every_mode_becomes_rgb(
    tmp_path: Path, picture: Image.Image, suffix: str, first_pixel: tuple[int, ...]
) -> None:
    path = tmp_path / f"a picture, ünïcode{suffix}"
    picture.save(path)
    loaded = load_image(path)
    assert (loaded.mode, loaded.size, loaded.getpixel((0, 0))) == ("RGB", picture.size, first_pixel)


@pytest.mark.parametrize(("suffix", "dtype"), [(".png", "<u2"), (".tif", "<u2"), (".tif", ">u2"), (".tif", "<i4")])
def test_deep_greyscale_is_scaled_and_not_clipped(tmp_path: Path, suffix: str, dtype: str) -> None:
    path = tmp_path / f"depth{suffix}"
    deep(0, 255, 257, 32768, 65535, dtype=dtype).save(path)
    assert np.asarray(load_image(path))[0].tolist() == [[0] * 3, [1] * 3, [1] * 3, [128] * 3, [255] * 3]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int) -> None:
    # EXIF numbers where row 0 and column 0 of the file lie in the scene; each turn below leads from scene to file.
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = gradient() if turn is None else gradient().transpose(turn)
    stored.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(np.asarray(load_image(tmp_path / "turned.png")), np.asarray(gradient()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_in_memory_is_turned_too_and_stays_as_it_was(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = gradient()
    picture.info["exif"] = exif.tobytes()
    upright = to_rgb(picture)
    assert upright.size == (picture.size if orientation < 5 else picture.size[::-1])
    assert np.array_equal(np.asarray(upright), np.asarray(picture)) == (orientation == 1)
    assert picture.getexif()[0x0112] == orientation
    assert np.array_equal(np.asarray(to_rgb(upright)), np.asarray(upright))  # once, not twice


@pytest.mark.parametrize(
    ("mode", "colour", "wanted"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 90, (90, 90, 90)),
        ("LA", (90, 0), (255, 255, 255)),
        ("La", (0, 0), (255, 255, 255)),
        ("PA", (7, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 51), (255, 204, 204)),
        ("RGBa", (51, 0, 0, 51), (255, 204, 204)),
        ("RGBX", (1, 2, 3, 4), (1, 2, 3)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("YCbCr", (90, 128, 128), (90, 90, 90)),
        ("HSV", (0, 0, 90), (90, 90, 90)),
        ("I", 32768, (128, 128, 128)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16B", 257, (1, 1, 1)),
    ],
)
def test_every_mode_in_memory(mode: str, colour: int | tuple[int, ...], wanted: tuple[int, ...]) -> None:
    upright = to_rgb(Image.new(mode, (3, 2), colour))
    assert (upright.mode, upright.size, upright.getpixel((2, 1))) == ("RGB", (3, 2), wanted)


def test_a_transparent_colour_of_an_rgb_picture() -> None:
    picture = Image.new("RGB", (2, 1), (1, 2, 3))
    picture.putpixel((1, 0), (4, 5, 6))
    picture.info["transparency"] = (1, 2, 3)
    assert np.asarray(to_rgb(picture)).tolist() == [[[255, 255, 255], [4, 5, 6]]]


def test_a_file_that_pillow_has_not_read_yet(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    content = (tmp_path / "cut.png").read_bytes()
    assert np.array_equal(np.asarray(decode_image(content)), noise)
    with (
        Image.open(BytesIO(content[: len(content) // 2])) as lazy,
        pytest.raises(MediaError, match=r"picture given cannot be decoded .* Fetch or save it again"),
    ):
        to_rgb(lazy)
    with pytest.raises(MediaError, match="file 'page' is not a picture"):
        decode_image(b"<html>", "'page'")


def test_damaged_exif_costs_the_orientation_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gradient().save(tmp_path / "odd.png", exif=b"Exif\0\0no TIFF header")
    assert np.array_equal(np.asarray(load_image(tmp_path / "odd.png")), np.asarray(gradient()))
    assert "odd.png" in caplog.text
    assert "orientation" in caplog.text


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (4, 4), (0, 0, 0)), Image.new("RGB", (4, 4), (255, 255, 255))
    first.save(tmp_path / "two.webp", save_all=True, append_images=[second], lossless=True)
    assert load_image(str(tmp_path / "two.webp")).getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".gif", ".tif"])
def test_truncated_picture_is_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(MediaError, match=rf"cut\{suffix}"):
        load_image(path)


def write_text(path: Path) -> None:
    path.write_text("This is no picture.\n" * 20)


@pytest.mark.parametrize(
    ("make", "fact", "remedy"),
    [
        (lambda path: None, "cannot be opened (No such file or directory)", "Check the path"),
        (Path.mkdir, "is a directory, not a picture", "Give the path of one picture file"),
        (os.mkfifo, "is no regular file", "Give the path of one picture file"),
        (Path.touch, "is empty (0 bytes)", "Fetch or save it again"),
        (write_text, "is not a picture that Pillow can read", "save it as PNG or JPEG"),
        (lambda path: deep(-5, 9, dtype="<i4").save(path, "TIFF"), "holds values -5..9", "Save it with 8 or 16 bits"),
        (lambda path: deep(0, 70000, dtype="<i4").save(path, "TIFF"), "values 0..70000", "Save it with 8 or 16 bits"),
        (lambda path: deep(1, 2, dtype="<f4").save(path, "TIFF"), "holds floats", "Save it with 8 or 16 bits"),
    ],
)
def test_error_is_one_line_with_fact_and_remedy(tmp_path: Path, make, fact: str, remedy: str) -> None:
    path = tmp_path / "new\nline.jpg"
    make(path)
    with pytest.raises(MediaError) as caught:
        load_image(path)
    message = str(caught.value)
    assert repr(str(path)) in message
    assert fact in message
    assert remedy in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_impossible_name(name: str) -> None:
    with pytest.raises(MediaError, match="cannot be opened"):
        load_image(name)


def test_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    gradient().save(tmp_path / "secret.png")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(MediaError, match=r"secret\.png.*Permission denied"):
        load_image(tmp_path / "secret.png")


@pytest.mark.parametrize("limit", [300, 100])  # Pillow warns above its limit and refuses above twice that
def test_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    gradient().save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(MediaError, match=r"bomb\.png.*too large.*Scale it down"):
        load_image(tmp_path / "bomb.png")
    assert limit == Image.MAX_IMAGE_PIXELS
