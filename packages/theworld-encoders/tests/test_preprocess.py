"""Pixels equal the published pipeline's, whatever form the frames come in."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from diffusers.video_processor import VideoProcessor
from PIL import Image

from theworld_encoders import MediaError, preprocess, spec_of, to_frames
from theworld_encoders.preprocess import is_clip

SPEC = spec_of("cosmos-predict2-vae")


def pictures(count: int, size: tuple[int, int] = (90, 70)) -> list[Image.Image]:
    rng = np.random.default_rng(count)
    coarse = rng.integers(0, 256, (count, 7, 9, 3), dtype=np.uint8)
    return [Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC) for frame in coarse]


def test_pixels_equal_diffusers_video_processor() -> None:
    frames = pictures(5)
    ours = preprocess(frames, SPEC)
    theirs = VideoProcessor(vae_scale_factor=8).preprocess_video(frames, height=224, width=224)[0]  # [3, t, h, w]
    torch.testing.assert_close(ours, theirs.permute(1, 0, 2, 3), rtol=0, atol=1e-6)


def test_range_and_shape() -> None:
    black_and_white = [Image.new("RGB", (30, 20), colour) for colour in ("black", "white")]
    pixels = preprocess(black_and_white, SPEC)
    assert pixels.shape == (5, 3, 224, 224)
    assert pixels[0].unique().tolist() == [-1.0]
    assert pixels[1].unique().tolist() == [1.0]


@pytest.mark.parametrize(
    ("resize", "rows"), [("squash", [0, 0, 2, 2]), ("crop", [0, 0, 2, 2]), ("letterbox", [-1, 0, 2, -1])]
)
def test_three_ways_to_a_square(resize: Literal["squash", "crop", "letterbox"], rows: list[int]) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)]
    array = np.zeros((20, 40, 3), np.uint8)
    array[:10], array[10:] = colours[0], colours[2]
    array[:, :4], array[:, -4:] = colours[1], colours[1]  # the sides of a wide picture are green
    spec = replace(SPEC, resize=resize, resample="bilinear", frame_size=40)
    pixels = preprocess(array, spec)[0].add(1).mul(127.5).round().int()
    found = [pixels[:, row, 20].tolist() for row in (2, 12, 28, 38)]
    assert found == [list(colours[row]) for row in rows]
    assert (pixels[:, 20, 0].tolist() == [0, 255, 0]) == (resize != "crop")


@pytest.mark.parametrize("resize", ["squash", "crop", "letterbox"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2), (2, 999), (40, 40), (41, 39)])
def test_odd_sizes_keep_their_colour(resize: Literal["squash", "crop", "letterbox"], size: tuple[int, int]) -> None:
    spec = replace(SPEC, resize=resize, frame_size=40)
    pixels = preprocess(Image.new("RGB", size, (255, 0, 51)), spec)[0].add(1).mul(127.5).round().int()
    inside = (pixels == torch.tensor([255, 0, 51]).view(3, 1, 1)).all(0)
    rows, columns = inside.any(1).sum().item(), inside.any(0).sum().item()
    short, long = sorted(size)
    wanted = max(1, round(short * 40 / long)) if resize == "letterbox" else 40
    assert sorted((rows, columns)) == [wanted, 40]
    assert inside.sum() == rows * columns
    assert not pixels[:, ~inside].any()


def test_letterbox_puts_the_picture_into_the_middle() -> None:
    spec = replace(SPEC, resize="letterbox", frame_size=40)
    pixels = preprocess(Image.new("RGB", (80, 40), "white"), spec)[0, 0]
    assert (pixels.mean(1) == 1).nonzero().flatten().tolist() == list(range(10, 30))


def test_each_colour_has_its_own_mean_and_deviation() -> None:
    spec = replace(SPEC, pixel_mean=(0.25, 0.5, 0.75), pixel_std=(0.25, 0.5, 1.0))
    pixels = preprocess(Image.new("RGB", (8, 8), "white"), spec)
    assert pixels[0, :, 0, 0].tolist() == [3.0, 1.0, 0.25]


def test_a_short_clip_is_filled_with_its_last_frame() -> None:
    frames = pictures(3)
    pixels = preprocess(frames, SPEC)
    assert pixels.shape[0] == 5
    assert torch.equal(pixels[3], pixels[2])
    assert torch.equal(pixels[4], pixels[2])
    assert torch.equal(pixels[:3], torch.cat([preprocess(frame, SPEC) for frame in frames]))


@pytest.mark.parametrize("as_array", [np.asarray, lambda image: torch.from_numpy(np.array(image))])
@pytest.mark.parametrize("channels_first", [False, True])
def test_arrays_and_tensors_are_pictures_too(as_array, channels_first: bool) -> None:
    image = pictures(1)[0]
    array = as_array(image)
    if channels_first:
        array = np.moveaxis(array, -1, 0) if isinstance(array, np.ndarray) else array.permute(2, 0, 1)
    assert not is_clip(array)
    assert is_clip(array[None])
    assert torch.equal(preprocess(array, SPEC), preprocess(image, SPEC))
    assert torch.equal(preprocess(array[None], SPEC), preprocess([image], SPEC))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_any_mode_becomes_rgb(mode: str) -> None:
    image = pictures(1)[0].convert("L").convert(mode) if mode == "LA" else pictures(1)[0].convert(mode)
    assert to_frames(image)[0].mode == "RGB"
    assert preprocess(image, SPEC).shape == (1, 3, 224, 224)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ([], "no frames"),
        (["frame.png"], "type str"),
        (np.zeros((4, 4, 3), np.float32), "array of float32"),
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\)"),
        (np.zeros((4, 4, 1), np.uint8), r"shape \(4, 4, 1\)"),
        (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\)"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), r"shape \(1, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), "has 4 x 0 pixels"),
        (np.zeros((2, 4, 0, 3), np.uint8), "has 0 x 4 pixels"),
        (Image.new("RGB", (0, 0)), "has 0 x 0 pixels"),
        (Image.new("F", (4, 4)), "holds floats"),
        (None, "type NoneType"),
    ],
)
def test_what_is_no_picture_is_refused(item, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        preprocess(item, SPEC)
