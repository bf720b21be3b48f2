"""Encoders out of transformers: features equal the whole models' own; loading is strict; the rest is not held."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import DINOv3ViTModel, SiglipModel, VJEPA2Model
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from theworld_encoders import Encoder, EncoderError, load_encoder, preprocess, spec_of
from theworld_encoders.registry import encoder_class
from theworld_encoders.testing import TINY_FRAME_SIZE, check_encoder
from theworld_encoders.testing_vision import (
    TINY_VJEPA2,
    make_tiny_dinov3_folder,
    make_tiny_siglip_folder,
    make_tiny_vjepa2_folder,
)

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Family:
    make: Callable[..., Path]
    whole: Any
    features: Callable[[Any, torch.Tensor], torch.Tensor]
    """Of a clip ``[t, 3, h, w]``, by transformers' whole model: one row of features after the other."""


def siglip(model: Any, clip: torch.Tensor) -> torch.Tensor:
    return model.vision_model(clip).last_hidden_state


def dinov3(model: Any, clip: torch.Tensor) -> torch.Tensor:
    return model(clip).last_hidden_state[:, 1 + model.config.num_register_tokens :]


def vjepa2(model: Any, clip: torch.Tensor) -> torch.Tensor:
    return model(clip[None]).last_hidden_state


FAMILIES = {
    "siglip": Family(make_tiny_siglip_folder, SiglipModel, siglip),
    "siglip2": Family(make_tiny_siglip_folder, SiglipModel, siglip),
    "dinov3": Family(make_tiny_dinov3_folder, DINOv3ViTModel, dinov3),
    "vjepa2": Family(make_tiny_vjepa2_folder, VJEPA2Model, vjepa2),
}
every_family = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: family.make(tmp_path_factory.mktemp(name)) for name, family in FAMILIES.items()}


@pytest.fixture
def folder(name: str, tmp_path: Path) -> Path:
    """A folder to be damaged."""
    return FAMILIES[name].make(tmp_path)


def photographs(count: int) -> list[Image.Image]:
    """Pictures with structure of every size, each a shifted view of one scene."""
    rng = np.random.default_rng(0)
    scene = sum(
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).resize((200, 160), 3), np.float32
        )
        / 4
        for side in (4, 12, 40, 160)
    )
    return [Image.fromarray(scene[:120, 4 * step : 4 * step + 150].round().astype(np.uint8)) for step in range(count)]


@every_family
@pytest.mark.parametrize("frames", [1, 4])
def test_features_are_those_of_the_whole_model(folders: dict[str, Path], name: str, frames: int) -> None:
    encoder = load_encoder(name, folders[name])
    whole = FAMILIES[name].whole.from_pretrained(folders[name], attn_implementation="sdpa").eval()
    pixels = preprocess(photographs(frames), encoder.spec)
    with torch.no_grad():
        wanted = FAMILIES[name].features(whole, pixels)
    features = encoder(pixels[None])
    side = TINY_FRAME_SIZE // 8
    assert features.shape == (1, max(1, frames // encoder.spec.temporal_stride), side, side, 32)
    assert torch.equal(features.flatten(), wanted.flatten())


@every_family
def test_contract(folders: dict[str, Path], name: str) -> None:
    check_encoder(load_encoder(name, folders[name]))


@every_family
def test_random_weights_from_the_configuration_alone(folders: dict[str, Path], name: str) -> None:
    encoder = load_encoder(name, folders[name])
    rebuilt = type(encoder).from_config(encoder.config)
    assert rebuilt.spec == encoder.spec
    assert {key: value.shape for key, value in rebuilt.state_dict().items()} == {
        key: value.shape for key, value in encoder.state_dict().items()
    }
    json.dumps(encoder.config)
    check_encoder(rebuilt)


@every_family
def test_frozen_in_eval_mode_with_sdpa(folders: dict[str, Path], name: str) -> None:
    encoder = load_encoder(name, folders[name])
    parts = torch.nn.ModuleList([encoder]).train()
    assert parts.training
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    configs = [module.config for module in encoder.modules() if hasattr(module, "config") and module is not encoder]
    assert {config._attn_implementation for config in configs} == {"sdpa"}
    encoder.requires_grad_(True)
    pixels = torch.rand(1, 2, 3, encoder.spec.frame_size, encoder.spec.frame_size)
    encoder(pixels).square().sum().backward()
    unused = {"model.embeddings.mask_token"}  # DINOv3's, for its own pre-training
    assert {key for key, value in encoder.named_parameters() if value.grad is None} <= unused


@every_family
def test_dtype(folders: dict[str, Path], name: str) -> None:
    encoder = load_encoder(name, folders[name], dtype=torch.bfloat16)
    pixels = preprocess(photographs(2), encoder.spec)[None]
    features = encoder(pixels.bfloat16())
    assert features.dtype == torch.bfloat16
    torch.testing.assert_close(features.float(), load_encoder(name, folders[name])(pixels), rtol=0.1, atol=0.15)


@every_family
def test_another_frame_size(folders: dict[str, Path], name: str) -> None:
    encoder = load_encoder(name, folders[name], frame_size=64)
    features = encoder(preprocess(photographs(2), encoder.spec)[None])
    assert features.shape[2:] == (8, 8, 32)
    check_encoder(encoder)


def test_siglip_resamples_its_positions_as_transformers_does(folders: dict[str, Path]) -> None:
    encoder = load_encoder("siglip", folders["siglip"], frame_size=64)
    whole = SiglipModel.from_pretrained(folders["siglip"]).eval()
    pixels = preprocess(photographs(2), encoder.spec)
    with torch.no_grad():
        wanted = whole.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state
    assert torch.equal(encoder(pixels[None]).flatten(), wanted.flatten())


def test_vjepa2_places_are_counted_on_the_grid_of_the_frame_size(folders: dict[str, Path]) -> None:
    encoder = load_encoder("vjepa2", folders["vjepa2"], frame_size=64)
    whole = VJEPA2Model.from_pretrained(folders["vjepa2"], crop_size=64).eval()
    pixels = preprocess(photographs(4), encoder.spec)[None]
    with torch.no_grad():
        assert torch.equal(encoder(pixels).flatten(), whole(pixels, skip_predictor=True).last_hidden_state.flatten())
    with pytest.raises(EncoderError, match=r"frames of 64 pixels a side, not of 64 x 48\. Load it with the frame_size"):
        encoder(pixels[..., :48])


def test_vjepa2_appends_what_its_predictor_expects(folders: dict[str, Path]) -> None:
    plain = load_encoder("vjepa2", folders["vjepa2"])
    encoder = encoder_class("vjepa2").from_pretrained(folders["vjepa2"], num_future_frames=2)
    assert encoder.spec == replace(plain.spec, future_frames=2)
    assert encoder.spec.feature_frames(4) == 4
    assert encoder.spec.most_frames(4) == 4
    check_encoder(encoder)
    whole = VJEPA2Model.from_pretrained(folders["vjepa2"]).eval()
    pixels = torch.stack([preprocess(photographs(4), encoder.spec), preprocess(photographs(4)[::-1], encoder.spec)])
    places = torch.arange(4 * 36).expand(2, -1)
    with torch.no_grad():  # not by the whole model's forward, which takes targets inside the clip only
        known = whole(pixels, skip_predictor=True).last_hidden_state
        wanted = whole.predictor(known, [places[:, : 2 * 36]], [places[:, 2 * 36 :]]).last_hidden_state
    features = encoder(pixels)
    torch.testing.assert_close(features[:, :2], plain(pixels))
    torch.testing.assert_close(features[:, 2:].flatten(1, 3), wanted)
    assert type(encoder).from_config(encoder.config).spec == encoder.spec


@pytest.mark.parametrize("number", [-1, 1.5, "2"])
def test_a_number_of_futures_that_is_none(number: object) -> None:
    with pytest.raises(EncoderError, match=f"num_future_frames is {number!r}"):
        encoder_class("vjepa2").from_config({**TINY_VJEPA2, "num_future_frames": number})


def test_what_is_not_needed_is_not_held(folders: dict[str, Path]) -> None:
    assert all(key.startswith("encoder.") for key in load_encoder("vjepa2", folders["vjepa2"]).state_dict())
    stored = load_file(folders["siglip"] / WEIGHTS)
    held = load_encoder("siglip", folders["siglip"]).state_dict()
    assert set(held) == {
        key for key in stored if key.startswith("vision_model.") and not key.startswith("vision_model.head.")
    }
    assert all(torch.equal(held[key], stored[key]) for key in held)


@pytest.mark.parametrize(
    ("name", "millions", "grid"),
    [  # counted from the published shapes; SigLIP's 428.2 M are with its head
        ("siglip", 413.0, (27, 27)),
        ("siglip2", 413.0, (27, 27)),
        ("gemma3-siglip", 416.9, (64, 64)),
        ("dinov3", 303.1, (14, 14)),
        ("vjepa2", 303.9, (16, 16)),
    ],
)
def test_published_defaults_have_the_published_size(name: str, millions: float, grid: tuple[int, int]) -> None:
    with torch.device("meta"):
        encoder = encoder_class(name).from_config({})
    spec = spec_of(name)
    assert encoder.spec == spec
    assert spec.grid(2, spec.frame_size, spec.frame_size) == (1 if name == "vjepa2" else 2, *grid)
    assert round(sum(parameter.numel() for parameter in encoder.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize(("name", "resample", "side"), [("siglip", 3, 384), ("siglip2", 2, 384)])
def test_siglip_pixels_equal_its_image_processors(name: str, resample: int, side: int) -> None:
    processor = SiglipImageProcessorPil(resample=resample, size={"height": side, "width": side})
    for picture in (*photographs(2), Image.new("RGBA", (900, 30), (10, 20, 30, 99))):
        wanted = processor(picture, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(preprocess(picture, spec_of(name)), wanted, rtol=0, atol=1e-6)


def test_dinov3_pixels_are_within_a_step_of_its_image_processors() -> None:
    # It needs torchvision; it scales, then resizes floats: the same but for the rounding of 8-bit pixels.
    picture, spec = photographs(1)[0], spec_of("dinov3")
    scaled = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    resized = torch.nn.functional.interpolate(scaled, (224, 224), mode="bilinear", antialias=True, align_corners=False)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    wanted = (resized - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(preprocess(picture, spec), wanted, rtol=0, atol=1 / 255 / 0.224)


def test_vjepa2_pixels_have_the_published_numbers() -> None:
    # video_preprocessor_config.json of the repository; transformers' class for it needs torchvision.
    spec = spec_of("vjepa2")
    assert (spec.frame_size, spec.resize, spec.resample) == (256, "crop", "bilinear")
    assert (spec.pixel_mean, spec.pixel_std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    pixels = preprocess(Image.new("RGB", (300, 200), "white"), spec)
    assert pixels.shape == (2, 3, 256, 256)
    torch.testing.assert_close(pixels[0, :, 9, 9], torch.tensor([2.2489, 2.4286, 2.6400]), rtol=0, atol=1e-4)


def test_licences_and_gates() -> None:
    found = {name: (spec_of(name).licence, spec_of(name).gated) for name in (*FAMILIES, "gemma3-siglip")}
    assert found == {
        "siglip": ("Apache-2.0", False),
        "siglip2": ("Apache-2.0", False),
        "dinov3": ("DINOv3 License", True),
        "vjepa2": ("MIT", False),
        "gemma3-siglip": ("Gemma Terms of Use", True),
    }
    assert all(len(spec_of(name).revision) == 40 for name in found)


@every_family
def test_a_missing_extra_names_the_pip_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = {"dinov3": "dinov3_vit", "siglip2": "siglip"}.get(name, name)
    monkeypatch.setitem(sys.modules, f"transformers.models.{family}.modeling_{family}", None)
    with pytest.raises(EncoderError, match=rf'{name} needs .*pip install "theworld-encoders\[vision\]"'):
        encoder_class(name).from_config({})


def drop_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors[next(key for key in tensors if key.endswith("embeddings.patch_embeddings.proj.bias"))]
    save_file(tensors, folder / WEIGHTS)


def add_a_layer(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({**tensors, "encoder.layer.9.norm1.bias": torch.zeros(32)}, folder / WEIGHTS)


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", ["vjepa2"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"has no config\.json"),
        (lambda folder: edit_config(folder, model_type="llama"), "describes llama, not vjepa2"),
        (lambda folder: edit_config(folder, hidden_size="wide"), r"vjepa2 cannot use its config\.json .*hidden_size"),
        (lambda folder: edit_config(folder, hidden_size=64), r"is \(32,.*\), not \(64"),
        (lambda folder: (folder / WEIGHTS).unlink(), "pickled weights are not read"),
        (drop_a_tensor, r"encoder\.embeddings\.patch_embeddings\.proj\.bias is missing"),
        (add_a_layer, r"encoder\.layer\.9\.norm1\.bias is \(32,\), not expected"),
    ],
)
def test_a_damaged_folder_is_refused(folder: Path, damage, message: str) -> None:
    damage(folder)
    with pytest.raises(EncoderError, match=message):
        load_encoder("vjepa2", folder)


@every_family
def test_shards_without_needed_tensors_are_not_opened(folder: Path, name: str) -> None:
    whole = load_encoder(name, folder).state_dict()
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    needed = sorted(key for key in tensors if not key.startswith(("text_model.", "logit", "vision_model.head", "pred")))
    files = {"model-1.safetensors": needed[::2], "model-2.safetensors": needed[1::2]}
    for file, keys in files.items():
        save_file({key: tensors[key] for key in keys}, folder / file)
    files["model-3.safetensors"] = sorted(set(tensors) - set(needed))  # not there at all
    weight_map = {key: file for file, keys in files.items() for key in keys}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    loaded: Encoder = load_encoder(name, folder)
    assert all(torch.equal(value, whole[key]) for key, value in loaded.state_dict().items())
