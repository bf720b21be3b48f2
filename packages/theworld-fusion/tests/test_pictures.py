"""Both branches see the same picture: upright, opaque, RGB, whatever form it is given in."""

import base64
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.utils import httpx
from PIL import Image
from transformers import Gemma3Processor

from theworld_encoders import MediaError, to_rgb
from theworld_fusion import TheWorldForConditionalGeneration, TheWorldProcessor
from theworld_fusion.testing import chat, encode, random_picture

Pair = tuple[TheWorldForConditionalGeneration, TheWorldProcessor]


def turned() -> Image.Image:
    """Half red, half blue, and a tag that says to turn it by a quarter."""
    picture = Image.new("RGB", (64, 48), "red")
    picture.paste("blue", (32, 0, 64, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.info["exif"] = exif.tobytes()
    return picture


def see_through() -> Image.Image:
    """Half a red square, half nothing, with black below it."""
    picture = Image.new("RGBA", (64, 48), (0, 0, 0, 0))
    picture.paste((255, 0, 0, 255), (0, 0, 32, 48))
    return picture


def palette() -> Image.Image:
    picture = Image.new("P", (64, 48), 0)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.paste(1, (0, 0, 32, 48))
    picture.info["transparency"] = 0
    return picture


def deep() -> Image.Image:
    return Image.fromarray(np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64))


PICTURES = [turned, see_through, palette, deep]


def png(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG", exif=picture.info.get("exif", b""))
    return file.getvalue()


def pixels(processor: TheWorldProcessor, item: object, **kwargs: object) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = encode(processor, chat(item), **kwargs)
    return inputs["pixel_values"], inputs["pixel_values_world"]


@pytest.mark.parametrize("make", PICTURES)
def test_both_branches_see_the_upright_opaque_picture(pair: Pair, make: Callable[[], Image.Image]) -> None:
    wanted = pixels(pair[1], to_rgb(make()))
    for given in (make(), [make()], [random_picture(0), make()]):
        found = pixels(pair[1], given)
        assert torch.equal(found[0], wanted[0])
        assert torch.equal(found[1][0, len(given) - 1 if isinstance(given, list) else 0], wanted[1][0, 0])


def test_what_they_see(pair: Pair) -> None:
    for branch in pixels(pair[1], turned()):
        top, bottom = branch.reshape(-1, *branch.shape[-3:])[0][:, [2, -3], 20].T
        assert top.tolist() == [1, -1, -1]  # a quarter clockwise takes what was left to the top
        assert bottom.tolist() == [-1, -1, 1]
    for make in (see_through, palette):
        for branch in pixels(pair[1], make()):
            left, right = branch.reshape(-1, *branch.shape[-3:])[0][:, 20, [2, -3]].T
            assert left.tolist() == [1, -1, -1]
            assert right.tolist() == [1, 1, 1]


@pytest.mark.parametrize("make", PICTURES)
def test_a_file_and_urls_of_it_are_the_same_picture(
    pair: Pair, make: Callable[[], Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = png(make())
    (tmp_path / "a.png").write_bytes(content)
    address = "https://pictures.example/a.png"

    def get(url: str, **_: object) -> httpx.Response:
        return httpx.Response(200, content=content, request=httpx.Request("GET", url))

    monkeypatch.setattr(httpx, "get", get)
    wanted = pixels(pair[1], make())
    for source in (tmp_path / "a.png", address, "data:image/png;base64," + base64.b64encode(content).decode()):
        found = pixels(pair[1], str(source))
        assert torch.equal(found[0], wanted[0])
        assert torch.equal(found[1], wanted[1])


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (3, 2)])
def test_tiny_and_long_pictures(pair: Pair, folders: tuple[Path, Path], size: tuple[int, int]) -> None:
    picture = random_picture(0, size)
    base, world = pixels(pair[1], picture)
    assert world.shape == (1, 1, 3, 48, 48)
    stock = Gemma3Processor.from_pretrained(folders[0], backend="pil")
    wanted = stock(images=[[picture]], text=stock.boi_token, return_tensors="pt")["pixel_values"]
    assert torch.equal(base, wanted)


@pytest.mark.parametrize("form", [np.asarray, lambda picture: np.moveaxis(np.asarray(picture), -1, 0)])
def test_world_off_and_on_give_the_base_vlm_the_same_picture(pair: Pair, form: Callable[..., object]) -> None:
    picture = random_picture(0)
    text = pair[1].boi_token
    off = pair[1](images=form(picture), text=text, world="off", return_tensors="pt")
    assert torch.equal(off["pixel_values"], pixels(pair[1], picture)[0])


def test_an_address_without_a_picture(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(url: str, **_: object) -> httpx.Response:
        return httpx.Response(404, request=httpx.Request("GET", url))

    monkeypatch.setattr(httpx, "get", get)
    sources = {
        "https://pictures.example/a.png": "cannot be fetched .*404",
        "data:image/png;base64,@@@": "cannot be fetched",
        "data:image/png;base64,AAAA": "not a picture",
    }
    for source, message in sources.items():
        with pytest.raises(MediaError, match=message):
            pixels(pair[1], source)
